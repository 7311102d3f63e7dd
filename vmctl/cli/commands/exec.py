"""``vmctl exec``."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.context import open_app
from vmctl.cli.factory import make_app
from vmctl.cli.params import COMMAND_SETTINGS, Env, EnvFile, Interactive, Name, Tty, User, Workdir
from vmctl.cli.words import WordsCommand, name_and_command

app = make_app()


@app.command("exec", cls=WordsCommand, context_settings=COMMAND_SETTINGS)
def execute(
    name: Name,
    command: Annotated[
        list[str], typer.Argument(metavar="[--] COMMAND...", help="Its program and words.", show_default=False)
    ],
    interactive: Interactive = False,
    tty: Tty = False,
    env: Env = [],  # noqa: B006 - Typer copies it
    env_file: EnvFile = [],  # noqa: B006
    workdir: Workdir = None,
    user: User = None,
) -> int:
    """Run a command in a running instance, as confined as the instance; its exit code is vmctl's."""
    from vmctl.cli.attached import exec_attached, exec_options

    name, argv = name_and_command(name, command)
    options = exec_options(argv, env, env_file, workdir=workdir, user=user, tty=tty, stdin=interactive)
    with open_app() as opened:
        return exec_attached(opened, name, options)
