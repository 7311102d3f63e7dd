"""``vmctl doctor``."""

from __future__ import annotations

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.factory import make_app
from vmctl.cli.params import Format
from vmctl.output.checks import show_checks

app = make_app()


@app.command()
def doctor(format: Format = None) -> int:
    """Check every part on this host and print the remedy for what is broken; exit code 1 if something needed is."""
    from vmctl.ops.doctor import doctor as ops_doctor

    format = choose_format(format)
    with open_app() as opened:
        healthy = show_checks(ops_doctor(opened), format)
    return 0 if healthy else 1
