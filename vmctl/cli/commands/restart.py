"""``vmctl restart``."""

from __future__ import annotations

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.durations import seconds
from vmctl.cli.factory import make_app
from vmctl.cli.params import Format, Names, StopTimeout
from vmctl.cli.results import act_on

app = make_app()


@app.command()
def restart(names: Names, timeout: StopTimeout = None, format: Format = None) -> None:
    """Stop and start instances; nobody can take their memory and CPUs in between."""
    from vmctl.ops import lifecycle

    format = choose_format(format)
    limit = seconds(timeout, zero=True)
    with open_app() as opened:
        act_on(names, lambda name: lifecycle.restart(opened, name, limit), format)
