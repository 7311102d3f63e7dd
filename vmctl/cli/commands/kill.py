"""``vmctl kill``."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.factory import make_app
from vmctl.cli.params import Format, Names
from vmctl.cli.results import act_on

app = make_app()


@app.command()
def kill(
    names: Names,
    signal: Annotated[
        str, typer.Option("-s", "--signal", metavar="SIGNAL", help="Such as TERM, SIGHUP or 9.")
    ] = "SIGKILL",
    format: Format = None,
) -> None:
    """Send a signal to the main process of instances; SIGKILL ends them at once."""
    from vmctl.ops import lifecycle
    from vmctl.specs.fields import parse_signal

    format = choose_format(format)
    wanted = parse_signal(signal)
    with open_app() as opened:
        act_on(names, lambda name: lifecycle.kill(opened, name, wanted), format)
