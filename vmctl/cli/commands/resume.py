"""``vmctl resume``."""

from __future__ import annotations

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.factory import make_app
from vmctl.cli.params import Format, Names
from vmctl.cli.results import act_on

app = make_app()


@app.command()
def resume(names: Names, format: Format = None) -> None:
    """Let paused instances go on."""
    format = choose_format(format)
    from vmctl.ops import lifecycle

    with open_app() as opened:
        act_on(names, lambda name: lifecycle.resume(opened, name), format)
