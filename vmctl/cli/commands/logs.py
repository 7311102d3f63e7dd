"""``vmctl logs``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from vmctl.cli.context import open_app
from vmctl.cli.durations import moment
from vmctl.cli.factory import make_app
from vmctl.cli.params import Name
from vmctl.output.records import show_log

app = make_app()


@app.command()
def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the instance ends.")] = False,
    tail: Annotated[
        Optional[int],  # noqa: UP045 - Typer reads the annotation
        typer.Option("-n", "--tail", metavar="N", min=0, help="The last N lines only."),
    ] = None,
    since: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--since", metavar="WHEN", help="10m (ago) or 2026-01-31T12:00:00Z."),
    ] = None,
    timestamps: Annotated[bool, typer.Option("-t", "--timestamps", help="Begin each line with its time.")] = False,
) -> None:
    """Show what an instance has written: its stdout on stdout, its stderr on stderr."""
    from vmctl.ops import logs as ops_logs

    start = moment(since)
    with open_app() as opened:
        show_log(ops_logs.logs(opened, name, follow=follow, tail=tail, since_ns=start), timestamps=timestamps)
