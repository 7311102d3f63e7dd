"""The programs that run in fake instances: worked out into steps before they start, so that they are deterministic."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from vmctl.errors import CannotInvoke, ProgramNotFound, UsageError
from vmctl.model.event import Stream
from vmctl.model.process import Process

_FOLDERS = ("", "/bin", "/usr/bin", "/usr/local/bin", "/sbin", "/usr/sbin")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_OPERATORS = ";&|<>"
_MACHINE_BOOTS = "fake machine: ready\n"


class Output(msgspec.Struct, frozen=True, tag="output"):
    """Write ``data``."""

    stream: Stream
    data: bytes


class Sleep(msgspec.Struct, frozen=True, tag="sleep"):
    """Let ``seconds`` pass; infinite for a machine, which ends only when it is told to."""

    seconds: float


class CopyInput(msgspec.Struct, frozen=True, tag="copy-input"):
    """Copy stdin to stdout until its end."""


class Trap(msgspec.Struct, frozen=True, tag="trap"):
    """From now on ``signal`` ends the program with ``code``; None: it is ignored."""

    signal: int
    code: int | None


class End(msgspec.Struct, frozen=True, tag="end"):
    """Exit with ``code``."""

    code: int


Step = Output | Sleep | CopyInput | Trap | End
ReadFile = Callable[[str], bytes | None]
"""The content of a file inside; None if there is none. Raises IsADirectoryError."""


class _Run(NamedTuple):
    """What a command does, and its exit status."""

    steps: list[Step]
    status: int


FOREVER = 1e9
MACHINE: list[Step] = [Trap(signal.SIGTERM, 0), Output(Stream.STDOUT, _MACHINE_BOOTS.encode()), Sleep(FOREVER), End(0)]
"""A machine that boots by itself, and obeys the power button."""


def work_out(process: Process, hostname: str, read: ReadFile) -> list[Step]:
    """The steps of ``process``. Raises ProgramNotFound, CannotInvoke."""
    shell = _Shell(process, hostname, read)
    name = process.argv[0]
    if not shell.knows(name):
        _refuse(name, read)
    steps, status = shell.run(list(process.argv))
    return [*steps, End(status)]


def check_place(process: Process, read: ReadFile) -> None:
    """Raise CannotInvoke for a working folder that is not there, and a user that nobody knows."""
    try:
        read(process.workdir)
    except IsADirectoryError:
        name = process.user.partition(":")[0]
        if name in ("", "root") or name.isdecimal():
            return
        raise CannotInvoke(f"no user '{name}' inside") from None
    raise CannotInvoke(f"no folder '{process.workdir}' inside")


def _refuse(name: str, read: ReadFile) -> None:
    try:
        exists = read(name) is not None
    except IsADirectoryError:
        exists = True
    if exists:
        raise CannotInvoke(f"cannot execute '{name}': permission denied")
    raise ProgramNotFound(f"no program '{name}' inside")


class _Shell:
    """Knows the commands; expansion and quoting are a sketch of a shell's, enough for tests."""

    def __init__(self, process: Process, hostname: str, read: ReadFile) -> None:
        self._process = process
        self._hostname = hostname
        self._read = read

    def knows(self, name: str) -> bool:
        folder, _, base = name.rpartition("/")
        return folder in _FOLDERS and base in _COMMANDS

    def run(self, argv: list[str]) -> _Run:
        return _COMMANDS[argv[0].rpartition("/")[2]](self, argv[1:])

    # -- commands -----------------------------------------------------------------------------------------------

    def echo(self, args: list[str]) -> _Run:
        bare = args[:1] == ["-n"]
        return self._say(" ".join(args[1:] if bare else args) + ("" if bare else "\n"))

    def printf(self, args: list[str]) -> _Run:
        text = args[0].encode("raw_unicode_escape").decode("unicode_escape") if args else ""
        return self._say(text % tuple(args[1 : 1 + text.count("%s")]))

    def cat(self, args: list[str]) -> _Run:
        if not args:
            return _Run([CopyInput()], 0)
        steps: list[Step] = []
        status = 0
        for name in args:
            try:
                data = self._read(name)
            except IsADirectoryError:
                data = None
            if data is None:
                status = 1
                steps.append(_complaint(f"cat: can't open '{name}': No such file or directory"))
            else:
                steps.append(Output(Stream.STDOUT, data))
        return _Run(steps, status)

    def sleep(self, args: list[str]) -> _Run:
        try:
            return _Run([Sleep(sum(float(arg) for arg in args))], 0)
        except ValueError:
            return _Run([_complaint("sleep: invalid number")], 1)

    def exit(self, args: list[str]) -> _Run:
        code = int(args[0]) & 255 if args and args[0].isdecimal() else 0
        return _Run([End(code)], code)

    def trap(self, args: list[str]) -> _Run:
        words = args[0].split() if args else []
        code = int(words[1]) if words[:1] == ["exit"] and len(words) > 1 else None
        return _Run([Trap(signal_number(name), code) for name in args[1:]], 0)

    def env(self, args: list[str]) -> _Run:
        return self._say("".join(f"{name}={value}\n" for name, value in self._process.env.items()))

    def pwd(self, args: list[str]) -> _Run:
        return self._say(self._process.workdir + "\n")

    def hostname(self, args: list[str]) -> _Run:
        return self._say(self._hostname + "\n")

    def true(self, args: list[str]) -> _Run:
        return _Run([], 0)

    def false(self, args: list[str]) -> _Run:
        return _Run([], 1)

    def sh(self, args: list[str]) -> _Run:
        if args[:1] != ["-c"] or len(args) < 2:
            return _Run([CopyInput()], 0)
        steps: list[Step] = []
        status, wanted = 0, True
        for command, operator in _commands(args[1]):
            if command and wanted:
                done = self._simple(command)
                steps += done.steps
                status = done.status
            wanted = {"&&": status == 0, "||": status != 0}.get(operator, True)
        return _Run(steps, status)

    def _simple(self, words: list[str]) -> _Run:
        """One command of a shell's line, with ``>&2``."""
        to_stderr = words[-2:] == [">&", "2"]
        words = [self._expand(word) for word in (words[:-2] if to_stderr else words)]
        if not self.knows(words[0]):
            return _Run([_complaint(f"sh: {words[0]}: not found")], 127)
        steps, status = self.run(words)
        if to_stderr:
            steps = [msgspec.structs.replace(step, stream=Stream.STDERR) if isinstance(step, Output) else step
                     for step in steps]
        return _Run(steps, status)

    def _expand(self, word: str) -> str:
        return _VARIABLE.sub(lambda found: self._process.env.get(found[1] or found[2], ""), word)

    def _say(self, text: str) -> _Run:
        return _Run([Output(Stream.STDOUT, text.encode("utf-8", "surrogateescape"))], 0)


_COMMANDS: dict[str, Callable[[_Shell, list[str]], _Run]] = {
    "echo": _Shell.echo,
    "printf": _Shell.printf,
    "cat": _Shell.cat,
    "sleep": _Shell.sleep,
    "exit": _Shell.exit,
    "trap": _Shell.trap,
    "env": _Shell.env,
    "pwd": _Shell.pwd,
    "hostname": _Shell.hostname,
    "true": _Shell.true,
    ":": _Shell.true,
    "wait": _Shell.true,  # what "&" put in the background was done in its turn
    "false": _Shell.false,
    "sh": _Shell.sh,
    "bash": _Shell.sh,
}


def signal_number(name: str) -> int:
    """From ``TERM``, ``SIGTERM`` or ``15``. Raises UsageError."""
    try:
        if name.isdecimal():
            return signal.Signals(int(name))
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except (KeyError, ValueError):
        raise UsageError(f"'{name}' is not a signal", hint="use a name such as SIGTERM") from None


def _complaint(text: str) -> Output:
    return Output(Stream.STDERR, f"{text}\n".encode())


def _commands(line: str) -> list[tuple[list[str], str]]:
    """The commands of a line, each with the operator after it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=_OPERATORS)
    lexer.whitespace_split = True
    lexer.commenters = ""
    found: list[tuple[list[str], str]] = []
    words: list[str] = []
    for token in lexer:
        if token in (";", "&", "&&", "||"):
            found.append((words, token))
            words = []
        else:
            words.append(token)
    return [*found, (words, ";")]
