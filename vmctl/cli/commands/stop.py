"""``vmctl stop``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.durations import seconds
from vmctl.cli.factory import make_app
from vmctl.cli.params import Format, Names, StopTimeout
from vmctl.cli.results import act_on

app = make_app()


@app.command()
def stop(
    names: Names,
    timeout: StopTimeout = None,
    signal: Annotated[
        Optional[str],  # noqa: UP045 - Typer reads the annotation
        typer.Option("-s", "--signal", metavar="SIGNAL", help="Asks it to end (default: the instance's)."),
    ] = None,
    format: Format = None,
) -> None:
    """Ask instances to end; force after a time. They keep their disks and names."""
    from vmctl.ops import lifecycle
    from vmctl.specs.fields import parse_signal

    format = choose_format(format)
    limit = seconds(timeout, zero=True)
    wanted = None if signal is None else parse_signal(signal)
    with open_app() as opened:
        act_on(names, lambda name: lifecycle.stop(opened, name, limit, wanted), format)
