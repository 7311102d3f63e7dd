"""``vmctl system``."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.factory import make_group
from vmctl.cli.params import Format
from vmctl.output.show import show

app = make_group("Disk use and clean-up.")


@app.command()
def df(format: Format = None) -> None:
    """Show what vmctl keeps on disk, and how much of it could be freed."""
    from vmctl.ops.prune import disk_usage
    from vmctl.output.listings import DISK_USAGE

    format = choose_format(format)
    with open_app() as opened:
        show(DISK_USAGE, disk_usage(opened), format)


@app.command()
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed; remove nothing.")] = False,
    format: Format = None,
) -> None:
    """Remove what no instance needs: left-overs of commands that were killed, prepared forms of images."""
    from vmctl.ops.prune import prune as ops_prune
    from vmctl.output.listings import ACTIONS

    format = choose_format(format)
    with open_app() as opened:
        show(ACTIONS, ops_prune(opened, dry_run=dry_run), format)
