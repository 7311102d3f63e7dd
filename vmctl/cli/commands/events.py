"""``vmctl events``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.durations import moment
from vmctl.cli.factory import make_app
from vmctl.cli.params import Format
from vmctl.output.show import show_each

app = make_app()


@app.command()
def events(
    since: Annotated[
        Optional[str],  # noqa: UP045 - Typer reads the annotation
        typer.Option("--since", metavar="WHEN", help="10m (ago) or 2026-01-31T12:00:00Z (default: now)."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Wait for new ones, until Ctrl-C.")
    ] = True,
    format: Format = None,
) -> None:
    """Show what happens to instances as it happens, one line each (JSON: one object a line)."""
    from vmctl.ops.events import events as ops_events
    from vmctl.output.listings import EVENTS

    format = choose_format(format)
    start = moment(since)
    with open_app() as opened:
        show_each(EVENTS, ops_events(opened, since_ns=start, follow=follow), format)
