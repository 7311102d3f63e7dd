"""``vmctl rename``."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.factory import make_app
from vmctl.cli.params import Format, Name
from vmctl.cli.results import show_result

app = make_app()


@app.command()
def rename(
    name: Name,
    new: Annotated[str, typer.Argument(metavar="NEW-NAME", help="Free, and valid.", show_default=False)],
    format: Format = None,
) -> None:
    """Give an instance another name, in any state."""
    from vmctl.ops import lifecycle

    format = choose_format(format)
    with open_app() as opened:
        show_result(lifecycle.rename(opened, name, new), format)
