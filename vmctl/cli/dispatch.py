"""From words to the one command they name; only that command's module is imported."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from vmctl.cli.table import AMBIGUOUS, BY_NAME, VERBS, Verb
from vmctl.errors import UsageError
from vmctl.output import streams
from vmctl.suggest import did_you_mean


def dispatch(words: list[str]) -> int:
    """Run the command that ``words`` name; its exit code. Raises VmctlError."""
    verb, *rest = words or ["help"]
    if verb == "help" and rest and not rest[0].startswith("-"):
        verb, rest = rest[0], [*rest[1:], "--help"]
    if verb in ("help", "--help", "-h"):
        streams.answer(root_help())
        return 0
    if verb == "__complete":
        from vmctl.cli.complete import complete

        streams.answer("\n".join(complete(rest)))
        return 0
    return _invoke(_resolve(verb), rest)


def _resolve(word: str) -> Verb:
    if word in BY_NAME:
        return BY_NAME[word]
    if word in AMBIGUOUS:
        raise UsageError(f"there is no command '{word}'", hint=AMBIGUOUS[word])
    if word.startswith("-"):
        raise UsageError(f"unknown option '{word}'", hint="options come after the command: vmctl ps -a")
    raise UsageError(f"unknown command '{word}'", hint=did_you_mean(word, BY_NAME, "'vmctl help' lists the commands"))


def load_command(verb: Verb) -> Any:
    """The command object of ``verb`` (Typer's, hence Click's)."""
    import typer.main

    module = importlib.import_module(f"vmctl.cli.commands.{verb.module}")
    return typer.main.get_command(module.app)


def _invoke(verb: Verb, words: list[str]) -> int:
    import typer

    from vmctl.cli.log import start_logging

    start_logging()
    command = load_command(verb)
    # Typer carries its own copy of Click under a private name: its exceptions are found through a public one.
    click_errors = sys.modules[typer.BadParameter.__module__]
    try:
        with command.make_context(f"vmctl {verb.name}", list(words)) as context:
            code = command.invoke(context)
    except typer.Exit as end:
        return int(end.exit_code)
    except typer.Abort:
        return 130
    except click_errors.NoArgsIsHelpError as error:
        streams.answer(error.format_message())
        return 2
    except click_errors.ClickException as error:
        raise _explain(error, verb) from error
    return code if isinstance(code, int) else 0


def _explain(error: Any, verb: Verb) -> UsageError:
    """Click's error as ours: one line, and a hint that leads on."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else f"vmctl {verb.name}"
    hint = f"'{path} --help' shows how it is used"
    if option := getattr(error, "option_name", None):
        known = [name for parameter in context.command.params for name in parameter.opts] if context else []
        if error.__class__.__name__ == "NoSuchOption":
            return UsageError(f"unknown option '{option}'", hint=did_you_mean(option, known, hint))
    message = error.format_message()
    if message.startswith("No such command") and context is not None:
        word = message.split("'")[1]
        return UsageError(f"unknown command '{path} {word}'", hint=did_you_mean(word, verb.verbs, hint))
    return UsageError(message[:1].lower() + message[1:].rstrip("."), hint=hint)


def root_help() -> str:
    """What ``vmctl`` and ``vmctl --help`` print, made from the table alone."""
    lines = ["Usage: vmctl COMMAND [OPTIONS] [ARGUMENTS]...", ""]
    lines += ["Virtual machines, containers and sandboxed applications under one ledger.", ""]
    width = max(len(verb.name) for verb in VERBS) + 2
    for section in dict.fromkeys(verb.section for verb in VERBS):
        lines.append(f"{section}:")
        for verb in (verb for verb in VERBS if verb.section == section):
            also = f" (also: {', '.join(verb.aliases)})" if verb.aliases else ""
            lines.append(f"  {verb.name:<{width}}{verb.help}{also}")
            if verb.verbs:
                lines.append(" " * (width + 2) + "  ".join(verb.verbs))
        lines.append("")
    lines.append("'vmctl COMMAND --help' shows a command's options; 'vmctl --version' the version.")
    return "\n".join(lines)
