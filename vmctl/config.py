"""Configuration in layers, each value with its origin.

Flags > ``VMCTL_*`` > ``./vmctl.toml`` > the user's file > ``/etc/vmctl/config.toml`` > built in. Flags are applied by
the commands; this module knows the rest. Every option is declared once, in OPTIONS.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from vmctl.errors import PermissionDenied, UsageError, VmctlError
from vmctl.model.state import Kind, RestartPolicy
from vmctl.paths import Paths
from vmctl.suggest import did_you_mean
from vmctl.units import parse_cpus, parse_duration, parse_size

PROJECT_FILE = "vmctl.toml"


class Option(NamedTuple):
    """One option: its dotted name, the built-in value as text, what checks it, and its help.

    ``field`` is the field of instance spec files for which it is the default; empty for the others.
    """

    name: str
    default: str
    check: Callable[[str], object]
    help: str
    field: str = ""

    @property
    def variable(self) -> str:
        """The environment variable that overrides every file."""
        return "VMCTL_" + re.sub("[.-]", "_", self.name).upper()


class Value(NamedTuple):
    """The text that counts for an option, and where it comes from ("built in", a file, a variable)."""

    option: Option
    text: str
    origin: str


def _word(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text):
        raise UsageError(f"'{text}' is not a name")
    return text


def _one_of(*words: str) -> Callable[[str], object]:
    def check(text: str) -> str:
        if text not in words:
            raise UsageError(f"'{text}' is not one of {', '.join(words)}", hint=did_you_mean(text, words))
        return text

    return check


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise UsageError(f"'{text}' is not a whole number above 0")
    return int(text)


def _format(text: str) -> str:
    from vmctl.output.show import check_format

    return check_format(text)


OPTIONS: tuple[Option, ...] = (
    Option("format", "table", _format, "how listings are shown: table, json, jsonl, yaml, csv or a template"),
    Option("kind", "container", _one_of(*Kind), "kind of instance that run and create make", "kind"),
    Option("project", "default", _word, "project that claims are counted for", "project"),
    Option("backend.vm", "libvirt", _word, "backend that serves virtual machines"),
    Option("backend.container", "docker", _word, "backend that serves containers"),
    Option("backend.app", "sandbox", _word, "backend that serves applications"),
    Option("cpus", "1", parse_cpus, "CPUs of an instance", "cpus"),
    Option("memory", "512M", parse_size, "memory of an instance (512M is 512 MiB)", "memory"),
    Option("disk", "1G", parse_size, "disk of an instance (1G is 1 GiB)", "disk"),
    Option("pids", "1024", _count, "processes and threads that an instance may have", "pids"),
    Option("network", "default", _word, "network of an instance: default, none, host or a name", "network"),
    Option("restart", "no", _one_of(*RestartPolicy), "restart policy of an instance", "restart"),
    Option("stop-timeout", "10s", parse_duration, "time between asking an instance to stop and force", "stop-timeout"),
    Option("accel", "auto", _one_of("auto", "kvm", "tcg"), "acceleration of virtual machines"),
)
BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}


def find_option(name: str) -> Option:
    """The option called ``name``. Raises UsageError with the closest name."""
    if name not in BY_NAME:
        raise UsageError(
            f"unknown option '{name}'", hint=did_you_mean(name, BY_NAME, "'vmctl config ls' lists the options")
        )
    return BY_NAME[name]


class Config:
    """The values that count for one command."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def __iter__(self) -> Iterator[Value]:
        return (self._values[option.name] for option in OPTIONS)

    def value(self, name: str) -> Value:
        """The value of the option called ``name``, with its origin."""
        return self._values[find_option(name).name]

    def text(self, name: str) -> str:
        """The value of the option called ``name``."""
        return self.value(name).text

    def backend(self, kind: Kind) -> str:
        """The backend that serves ``kind`` unless the spec names one."""
        return self.text(f"backend.{kind.value}")


def load_config(paths: Paths, environment: Mapping[str, str] = os.environ, folder: Path | None = None) -> Config:
    """Read every layer. Raises UsageError, naming the file or variable, for unknown keys and bad values."""
    values = {option.name: Value(option, option.default, "built in") for option in OPTIONS}
    project_file = folder / PROJECT_FILE if folder else Path(PROJECT_FILE)
    for file in (paths.system_config, paths.user_config, project_file):
        for name, found in read_file(file).items():
            values[name] = _checked(BY_NAME[name], found, str(file))
    for option in OPTIONS:
        if text := environment.get(option.variable):
            values[option.name] = _checked(option, text, option.variable)
    return Config(values)


def _checked(option: Option, text: str, origin: str) -> Value:
    try:
        option.check(text)
    except UsageError as error:
        raise UsageError(f"{origin}: {option.name}: {error.message}", hint=error.hint) from error
    return Value(option, text, origin)


def read_file(file: Path) -> dict[str, str]:
    """The options set by one TOML file, by dotted name; empty if there is no such file."""
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError as error:
        raise PermissionDenied(f"cannot read {file}", hint="check the file's mode") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 text", hint="correct the file, or move it away") from error
    except OSError as error:
        hint = "correct the file, or move it away"
        raise UsageError(f"{file}: cannot be read: {error.strerror}", hint=hint) from error
    return _parse(text, file)


def _parse(text: str, file: Path) -> dict[str, str]:
    import tomllib

    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        hint = 'lines look like: memory = "1G"'
        raise UsageError(f"{file}: not valid TOML: {error}", hint=hint) from error
    found: dict[str, str] = {}
    for name, value in _flatten(tree, ""):
        if name not in BY_NAME:
            hint = did_you_mean(name, BY_NAME, "'vmctl config ls' lists the options")
            raise UsageError(f"{file}: unknown option '{name}'", hint=hint)
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            hint = f'for example: {name} = "{BY_NAME[name].default}"'
            raise UsageError(f"{file}: {name}: a text or a number is needed", hint=hint)
        found[name] = str(value)
    return found


def _flatten(tree: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def set_option(file: Path, name: str, text: str) -> None:
    """Set one option in the user's ``file``; comments and order stay. The file is replaced in one step."""
    find_option(name)
    _checked(BY_NAME[name], text, "value")
    _rewrite(file, name, text)


def unset_option(file: Path, name: str) -> bool:
    """Remove one option from ``file``; False if it was not set there."""
    find_option(name)
    if name not in read_file(file):
        return False
    _rewrite(file, name, None)
    return True


def _rewrite(file: Path, name: str, text: str | None) -> None:
    expected = read_file(file)
    expected.pop(name, None)
    if text is not None:
        expected[name] = text
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    new = _edit(old, name, text)
    try:
        understood = _parse(new, file) == expected
    except UsageError:
        understood = False
    if not understood:
        raise VmctlError(f"cannot change '{name}' in {file}", hint="its layout is unusual: edit it by hand")
    _replace(file, new)


def _edit(old: str, name: str, text: str | None) -> str:
    """``old`` with the line of ``name`` changed, added or (None) removed; tables and dotted keys are understood."""
    table, dot, last = name.rpartition(".")
    value = "" if text is None else f'"{text.translate(_ESCAPES)}"'
    lines: list[str] = []
    current, header, done = "", None, text is None
    for line in old.splitlines():
        if found := re.match(r"\s*\[([^\[\]]+)\]", line):
            current = found[1].strip() + "."
            header = len(lines) if current == table + dot else header
        key = re.match(r"\s*([A-Za-z0-9_.\-]+)\s*=", line)
        if not key or current + key[1] != name:
            lines.append(line)
        elif not done:
            lines.append(f"{key[1]} = {value}")
            done = True
    if not done and header is not None:
        lines.insert(header + 1, f"{last} = {value}")
    elif not done:
        first_table = next((i for i, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
        lines.insert(first_table, f"{name} = {value}")
    return "".join(line + "\n" for line in lines)


_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"})


def _replace(file: Path, text: str) -> None:
    """Write to a temporary beside ``file``, sync, rename."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=f".{file.name}.", delete=False) as temporary:
            temporary.write(text)
            temporary.flush()
            os.fsync(temporary.fileno())
        os.replace(temporary.name, file)
    except PermissionError as error:
        raise PermissionDenied(f"cannot write {file}", hint="check the folder's owner") from error
