"""``vmctl host``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.factory import make_group
from vmctl.cli.params import Format
from vmctl.errors import UsageError
from vmctl.output.host import show_host
from vmctl.output.show import show
from vmctl.specs.fields import parse_ratio, parse_resource_amount

app = make_group("What the host has, and what of it may be used.")

_SET_HINT = "give --total, --reserved or --ratio; or --reset alone"


@app.command()
def inspect(format: Format = None) -> None:
    """Show every resource: total, reserved for the host, capacity, claimed, free, measured."""
    from vmctl.ops.host import inspect_host

    format = choose_format(format)
    with open_app() as opened:
        show_host(inspect_host(opened), format)


@app.command("set")
def set_(
    resource: Annotated[
        str, typer.Argument(metavar="RESOURCE", help="As 'host inspect' names it.", show_default=False)
    ],
    total: Annotated[
        Optional[str],  # noqa: UP045 - Typer reads the annotation
        typer.Option("--total", metavar="AMOUNT", help="Instead of what was found: 16G, 8 (CPUs), 1000."),
    ] = None,
    reserved: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--reserved", metavar="AMOUNT", help="Kept for the host itself; 0 for nothing."),
    ] = None,
    ratio: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--ratio", metavar="RATIO", help="Overcommitment: 1 is none, 4 is four times."),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Forget what was set: all as found on the host.")] = False,
    format: Format = None,
) -> None:
    """Change how much of a resource may be used."""
    from vmctl.ops.host import reset_host, set_host
    from vmctl.output.listings import HOST

    format = choose_format(format)
    if reset == bool(total or reserved or ratio):
        raise UsageError("nothing to set" if not reset else "--reset goes with no other change", hint=_SET_HINT)
    changes = {
        "total": parse_resource_amount(resource, total),
        "reserved": parse_resource_amount(resource, reserved, zero=True),
        "ratio_ppm": parse_ratio(ratio),
    }
    with open_app() as opened:
        row = reset_host(opened, resource) if reset else set_host(opened, resource, **changes)
        show(HOST, [row], format)
