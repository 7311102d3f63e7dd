"""Machine output: stable names, integers for bytes, RFC 3339 UTC for times."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from vmctl.output import SCHEMA

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(nanoseconds: int) -> str:
    """UTC with microseconds: ``2026-01-31T12:00:00.000000Z``."""
    moment = _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def is_time(name: str) -> bool:
    """Whether the field called ``name`` is a point in time (nanoseconds in views, text in machine output)."""
    return name == "at" or name.endswith("_at")


def plain(view: msgspec.Struct) -> dict[str, object]:
    """``view`` as dictionaries, lists and scalars, with times as text."""
    built: dict[str, object] = msgspec.to_builtins(view)
    return {key: _with_times(key, value) for key, value in built.items()}


def _with_times(name: str, value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _with_times(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_times(name, item) for item in value]
    if is_time(name) and isinstance(value, int):
        return rfc3339(value)
    return value


def envelope(kind: str, items: Iterable[msgspec.Struct]) -> dict[str, object]:
    """What JSON and YAML output consist of; additive changes keep the schema's number."""
    return {"schema": SCHEMA, "kind": kind, "items": [plain(item) for item in items]}


def to_json(kind: str, items: Iterable[msgspec.Struct]) -> str:
    """One indented document."""
    return json.dumps(envelope(kind, items), indent=2, ensure_ascii=False) + "\n"


def to_json_line(item: msgspec.Struct) -> str:
    """One item on one line, without the envelope (jsonl)."""
    return json.dumps(plain(item), ensure_ascii=False, separators=(",", ":")) + "\n"


def to_yaml(kind: str, items: Iterable[msgspec.Struct]) -> str:
    """The same document as JSON, as YAML."""
    return dump_yaml(envelope(kind, items))


def dump_yaml(document: Mapping[str, object]) -> str:
    """YAML in the order of ``document``; text that YAML 1.1 would read as something else is quoted."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120))


def to_csv(view: type[msgspec.Struct], items: Sequence[msgspec.Struct]) -> str:
    """A header of field names, then one line an item; what is no scalar is JSON text."""
    names = [field.name for field in msgspec.structs.fields(view)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for item in items:
        values = plain(item)
        writer.writerow([_cell(values.get(name)) for name in names])
    return text.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
