"""``vmctl rm``."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.factory import make_app
from vmctl.cli.params import Format, Names
from vmctl.cli.results import act_on

app = make_app()


@app.command()
def rm(
    names: Names,
    force: Annotated[bool, typer.Option("-f", "--force", help="Running ones too.")] = False,
    format: Format = None,
) -> None:
    """Remove instances with everything that was made for them, their disks included."""
    from vmctl.ops.remove import remove

    format = choose_format(format)
    with open_app() as opened:
        act_on(names, lambda name: remove(opened, name, force=force), format)
