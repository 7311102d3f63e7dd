"""``vmctl inspect``."""

from __future__ import annotations

from vmctl.cli.context import choose_format, for_each, open_app
from vmctl.cli.factory import make_app
from vmctl.cli.params import Format, Names
from vmctl.model.views import InstanceDetail
from vmctl.output.show import show_detail

app = make_app()


@app.command()
def inspect(names: Names, format: Format = None) -> None:
    """Show everything known of instances: what was asked for, what is enforced, what is claimed."""
    from vmctl.ops import listing
    from vmctl.output.listings import DETAILS

    format = choose_format(format)
    found: list[InstanceDetail] = []
    with open_app() as opened:
        try:
            for_each(names, lambda name: listing.inspect(opened, name), found.append)
        finally:
            if found:
                show_detail(DETAILS, found, format)
