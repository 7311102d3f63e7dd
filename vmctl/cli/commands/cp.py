"""``vmctl cp``."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.factory import make_app
from vmctl.cli.params import Format
from vmctl.cli.results import show_result

app = make_app()


@app.command()
def cp(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A path, NAME:/path, or -.", show_default=False)],
    destination: Annotated[
        str, typer.Argument(metavar="DESTINATION", help="A path, NAME:/path, or -.", show_default=False)
    ],
    format: Format = None,
) -> None:
    """Copy files between the host and an instance. '-' is a tar stream on standard input or output."""
    from vmctl.ops.copy import copy

    format = choose_format(format)
    with open_app() as opened:
        result = copy(opened, source, destination)
    if format != "table" and destination != "-":
        show_result(result, format)
