"""``vmctl console``."""

from __future__ import annotations

import sys

from vmctl.cli.context import open_app
from vmctl.cli.factory import make_app
from vmctl.cli.params import Name

app = make_app()


@app.command()
def console(name: Name) -> int:
    """Connect to a machine's serial console, whatever runs in it. On a terminal, Ctrl-] leaves."""
    from vmctl.cli.attached import console_attached

    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    with open_app() as opened:
        return console_attached(opened, name, tty=terminal)
