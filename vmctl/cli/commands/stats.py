"""``vmctl stats``."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.durations import seconds
from vmctl.cli.factory import make_app
from vmctl.cli.params import Format
from vmctl.output.show import show

app = make_app()


@app.command()
def stats(
    names: Annotated[
        list[str], typer.Argument(metavar="[NAME]...", help="Instances (default: all that run).", show_default=False)
    ] = [],  # noqa: B006 - Typer copies it
    interval: Annotated[
        str, typer.Option("--interval", metavar="DURATION", help="Time over which rates are measured.")
    ] = "1s",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Measure again and again, until Ctrl-C.")] = False,
    format: Format = None,
) -> None:
    """Show what running instances use beside what is reserved for them. CPU: 100% is one whole CPU."""
    from vmctl.ops.stats import stats as measure
    from vmctl.output.listings import STATS

    format = choose_format(format)
    period = seconds(interval) or 1.0
    with open_app() as opened:
        show(STATS, measure(opened, names, interval=period), format)
        while follow:
            show(STATS, measure(opened, names, interval=period), format)
