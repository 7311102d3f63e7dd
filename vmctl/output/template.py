r"""``--format '{{.Name}}\t{{.State}}'``: Go's words for what Docker's users write most.

``{{.Field}}`` (nested with dots, CamelCase or snake_case), ``{{json .}}`` and ``{{json .Field}}``; ``\t`` and ``\n``
stand for tab and newline.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

import msgspec

from vmctl.errors import UsageError
from vmctl.output.machine import plain
from vmctl.suggest import did_you_mean

_ACTION = re.compile(r"\{\{\s*(json\s+)?(\.[A-Za-z0-9_.\-]*)\s*\}\}")
_ESCAPES = {"\\t": "\t", "\\n": "\n", "\\\\": "\\"}


def is_template(text: str) -> bool:
    """Whether ``text`` is meant as a template and not as a format's name."""
    return "{{" in text


def compile_template(text: str) -> Callable[[msgspec.Struct], str]:
    """A function that fills the template for one item. Raises UsageError for an action it does not know."""
    text = re.sub(r"\\[tn\\]", lambda match: _ESCAPES[match[0]], text)
    rest = _ACTION.sub("", text)
    if "{{" in rest or "}}" in rest:
        raise UsageError(f"cannot understand the template '{text}'", hint="write {{.Field}} or {{json .Field}}")

    def fill(item: msgspec.Struct) -> str:
        values = plain(item)

        def replace(match: re.Match[str]) -> str:
            found = _lookup(values, match[2])
            return json.dumps(found, ensure_ascii=False) if match[1] else _text(found)

        return _ACTION.sub(replace, text)

    return fill


def _lookup(values: object, path: str) -> object:
    for part in filter(None, path.split(".")):
        names = {_fold(name): name for name in values} if isinstance(values, Mapping) else {}
        if _fold(part) not in names:
            known = ["." + name for name in names.values()]
            hint = did_you_mean("." + part, known, "fields: " + " ".join(known))
            raise UsageError(f"no field '.{part}' for the template", hint=hint)
        values = values[names[_fold(part)]] if isinstance(values, Mapping) else None
    return values


def _fold(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(_text(item) for item in value)
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_text(item)}" for key, item in value.items())
    return str(value)
