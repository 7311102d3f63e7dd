"""``vmctl completion``."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.complete import SCRIPTS
from vmctl.cli.factory import make_app
from vmctl.errors import UsageError
from vmctl.output import streams
from vmctl.suggest import did_you_mean

app = make_app()


@app.command()
def completion(
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", show_default=False)],
) -> None:
    """Print the completion script of a shell: source <(vmctl completion bash)."""
    if shell not in SCRIPTS:
        hint = did_you_mean(shell, SCRIPTS, "one of " + " ".join(SCRIPTS))
        raise UsageError(f"no completion for '{shell}'", hint=hint)
    streams.answer(SCRIPTS[shell])
