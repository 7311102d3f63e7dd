"""``vmctl ps``."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.factory import make_app
from vmctl.cli.filters import parse_filters
from vmctl.cli.params import Format, Quiet
from vmctl.output.show import show

app = make_app()


@app.command()
def ps(
    all: Annotated[bool, typer.Option("-a", "--all", help="Stopped ones too.")] = False,
    filter: Annotated[
        list[str],
        typer.Option("--filter", metavar="KEY=VALUE", help="By name, kind, state, backend, project, image or label."),
    ] = [],  # noqa: B006 - Typer copies it
    format: Format = None,
    quiet: Quiet = False,
) -> None:
    """List running instances of every kind."""
    from vmctl.ops.listing import list_instances
    from vmctl.output.listings import INSTANCES

    format = choose_format(format)
    filters = parse_filters(filter)
    with open_app() as opened:
        show(INSTANCES, list_instances(opened, all=all, filters=filters), format, quiet=quiet)
