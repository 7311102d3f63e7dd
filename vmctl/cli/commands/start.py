"""``vmctl start``."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.factory import make_app
from vmctl.cli.params import Format, Interactive, Names
from vmctl.cli.results import act_on

app = make_app()


@app.command()
def start(
    names: Names,
    attach: Annotated[bool, typer.Option("-a", "--attach", help="Stay until it ends; for one instance.")] = False,
    interactive: Interactive = False,
    format: Format = None,
) -> int:
    """Start instances that were created or have stopped."""
    from vmctl.ops import lifecycle

    format = choose_format(format)
    with open_app() as opened:
        if attach or interactive:
            from vmctl.cli.attached import start_attached

            return start_attached(opened, names, stdin=interactive)
        act_on(names, lambda name: lifecycle.start(opened, name).action, format)
    return 0
