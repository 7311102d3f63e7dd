"""``vmctl shell``."""

from __future__ import annotations

import sys

from vmctl.cli.context import open_app
from vmctl.cli.factory import make_app
from vmctl.cli.params import Name, User, Workdir

app = make_app()

_BEST_SHELL = "command -v bash >/dev/null 2>&1 && exec bash || exec sh"


@app.command()
def shell(name: Name, workdir: Workdir = None, user: User = None) -> int:
    """Open a shell in a running instance: bash where there is one, else sh. Commands can be piped into it."""
    from vmctl.cli.attached import exec_attached, exec_options

    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    command = ["sh", "-c", _BEST_SHELL]
    options = exec_options(command, [], [], workdir=workdir, user=user, tty=terminal, stdin=True)
    with open_app() as opened:
        return exec_attached(opened, name, options)
