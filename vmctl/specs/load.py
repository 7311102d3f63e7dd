"""Spec files: YAML, TOML or JSON, told apart by the suffix (``-`` is YAML or JSON on stdin)."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from vmctl.errors import NotFound, PermissionDenied, UsageError
from vmctl.model.state import Kind
from vmctl.specs.form import MachineForm, MountForm, PortForm, SpecForm
from vmctl.suggest import did_you_mean

MAX_FILE = 1 << 20
MAX_DEPTH = 100
_BROKEN_HINT = "'vmctl schema spec' prints what a spec file may hold"
_FORMS: dict[str, type[msgspec.Struct]] = {"machine": MachineForm, "mounts": MountForm, "ports": PortForm}
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>[^`]*)`(?: - at `(?P<path>[^`]*)`)?")
_ENUM = re.compile(r"Invalid enum value '(?P<value>.*)' - at `\$.kind`")
_KINDS = "one of " + ", ".join(Kind)
_OTHER = re.compile(r"(?P<text>.*?) - at `(?P<path>[^`]*)`")


def load_spec(source: str) -> SpecForm:
    """The spec in the file ``source``. Raises NotFound, PermissionDenied, UsageError (with the place in the file)."""
    label = "standard input" if source == "-" else source
    return decode(parse(_read(source), Path(source).suffix.lower(), label), label)


def _read(source: str) -> str:
    try:
        if source == "-":
            data = sys.stdin.buffer.read(MAX_FILE + 1)
        else:
            with Path(source).open("rb") as file:
                data = file.read(MAX_FILE + 1)
    except FileNotFoundError as error:
        raise NotFound(f"no spec file '{source}'", hint="-f takes a YAML, TOML or JSON file, or '-'") from error
    except PermissionError as error:
        raise PermissionDenied(f"cannot read '{source}'", hint="check the file's mode") from error
    except OSError as error:
        raise UsageError(f"cannot read '{source}': {error.strerror}", hint="is this a spec file?") from error
    if len(data) > MAX_FILE:
        raise UsageError(f"{source}: larger than 1 MiB", hint="is this a spec file?")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{source}: not UTF-8 text", hint="is this a spec file?") from error


def parse(text: str, suffix: str, label: str) -> object:
    """The document in ``text`` as dictionaries, lists and scalars."""
    reader: Callable[[str], object] = {".toml": _toml, ".json": _json}.get(suffix, _yaml)
    try:
        return reader(text)
    except ValueError as error:
        raise UsageError(f"{label}: {error}", hint=_BROKEN_HINT) from error
    except RecursionError as error:
        raise UsageError(f"{label}: nested too deeply", hint=_BROKEN_HINT) from error


def decode(document: object, label: str) -> SpecForm:
    """``document`` as a spec's form. Raises UsageError with the key's path and the closest known key."""
    if not isinstance(document, dict):
        raise UsageError(f"{label}: not a table of keys and values", hint="begin with 'kind: container'")
    try:
        return msgspec.convert(document, SpecForm)
    except msgspec.ValidationError as error:
        raise _explain(str(error), label) from error


def _explain(text: str, label: str) -> UsageError:
    if unknown := _UNKNOWN.fullmatch(text):
        path = (unknown["path"] or "$").removeprefix("$").lstrip(".")
        form = _FORMS.get(path.partition("[")[0], SpecForm)
        known = [field.encode_name for field in msgspec.structs.fields(form)]
        hint = did_you_mean(unknown["key"], known, "known keys: " + " ".join(known))
        return UsageError(f"{label}: unknown key '{'.'.join(filter(None, (path, unknown['key'])))}'", hint=hint)
    if wrong := _ENUM.fullmatch(text):
        return UsageError(f"{label}: unknown kind '{wrong['value']}'", hint=did_you_mean(wrong["value"], Kind, _KINDS))
    if other := _OTHER.fullmatch(text):
        path = other["path"].removeprefix("$").lstrip(".")
        return UsageError(f"{label}: {path}: {other['text'].replace('`', '').lower()}", hint=_BROKEN_HINT)
    return UsageError(f"{label}: {text.replace('`', '')}", hint=_BROKEN_HINT)


def _toml(text: str) -> object:
    import tomllib

    return tomllib.loads(text)


def _json(text: str) -> object:
    return json.loads(text, object_pairs_hook=_no_duplicates)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"key '{key}' is there twice")
        table[key] = value
    return table


def _yaml(text: str) -> object:
    import yaml

    try:
        _check_depth(text)
        return yaml.load(text, Loader=_yaml_loader())  # noqa: S506 - a safe loader with fewer surprises
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{place}{error.problem or 'not valid YAML'}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {error}") from error


def _check_depth(text: str) -> None:
    """Raises RecursionError. libyaml's composer recurses on the C stack and crashes where Python would raise."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=_yaml_loader()):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise RecursionError


@functools.cache
def _yaml_loader() -> Any:
    """The safe loader, with YAML 1.2's scalars: ``no`` is text (a restart policy), ``22:22`` is no base-60 number."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key_node, _ in node.value:
                if key_node.value in seen and key_node.tag != "tag:yaml.org,2002:merge":
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key '{key_node.value}' is there twice", key_node.start_mark
                    )
                seen.add(str(key_node.value))
            return dict(super().construct_mapping(node, deep=deep))

    for tag, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?", "-+.0123456789"),
        ("merge", r"<<", "<"),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), list(first))
    return Loader
