"""``vmctl wait``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from vmctl.cli.context import for_each, open_app
from vmctl.cli.durations import seconds
from vmctl.cli.factory import make_app
from vmctl.cli.params import Names
from vmctl.output import streams

app = make_app()


@app.command()
def wait(
    names: Names,
    timeout: Annotated[
        Optional[str],  # noqa: UP045 - Typer reads the annotation
        typer.Option("-t", "--timeout", metavar="DURATION", help="Give up after this time, with exit code 124."),
    ] = None,
) -> None:
    """Wait until instances have ended, and print the exit code of each."""
    from vmctl.ops import wait as ops_wait

    limit = seconds(timeout)
    with open_app() as opened:
        for_each(
            names, lambda name: ops_wait.wait(opened, name, limit), lambda end: streams.answer(str(end.code))
        )
