"""Commands whose last words are another command, as in ``vmctl run IMAGE -- sh -c 'echo hello'``."""

from __future__ import annotations

from typing import Any

import typer.core

from vmctl.errors import UsageError

SEPARATOR = "\0--"
"""Stands for the first ``--`` of a command line, which Click would swallow."""


class WordsCommand(typer.core.TyperCommand):
    """A command whose first ``--`` counts: it is kept, as SEPARATOR, among the words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep Click from swallowing the separator."""
        if "--" in args:
            place = args.index("--")
            args = [*args[:place], SEPARATOR, *args[place + 1 :]]
        return super().parse_args(ctx, args)


def split_words(words: list[str]) -> tuple[str | None, list[str]]:
    """What precedes the command (image or instance), and the command.

    A ``--`` right away means that nothing precedes it; later ones belong to the command.
    """
    first, rest = (None, words) if words[:1] == [SEPARATOR] else (next(iter(words), None), words[1:])
    if rest[:1] == [SEPARATOR]:
        rest = rest[1:]
    return first, ["--" if word == SEPARATOR else word for word in rest]


def name_and_command(name: str, words: list[str]) -> tuple[str, list[str]]:
    """The same for ``exec``, where both are needed. Raises UsageError when one is missing."""
    first, command = split_words([name, *words])
    if first is None or not command:
        raise UsageError("exec needs an instance and a command", hint="vmctl exec NAME -- COMMAND")
    return first, command
