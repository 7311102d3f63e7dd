"""Shows lists of views in the format that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from vmctl.errors import UsageError
from vmctl.output import machine, streams, tables, template
from vmctl.suggest import did_you_mean

FORMATS = ("table", "json", "jsonl", "yaml", "csv")

T = TypeVar("T", bound=msgspec.Struct)


class Listing(NamedTuple, Generic[T]):
    """How one type of view is listed: ``kind`` in machine output, columns in tables, ``key`` under ``-q``."""

    kind: str
    view: type[T]
    columns: tuple[tables.Column[T], ...]
    key: Callable[[T], str]


def check_format(format: str) -> str:
    """``format`` itself if it is the name of a format or a valid template. Raises UsageError."""
    if template.is_template(format):
        template.compile_template(format)
    elif format not in FORMATS:
        raise UsageError(
            f"unknown format '{format}'",
            hint=did_you_mean(format, FORMATS, "one of " + ", ".join(FORMATS) + ", or a template such as '{{.Name}}'"),
        )
    return format


def show(listing: Listing[T], items: Sequence[T], format: str, *, quiet: bool = False) -> None:
    """Write all of ``items`` to stdout."""
    streams.write(render(listing, items, format, quiet=quiet, width=streams.answer_width()))


def render(
    listing: Listing[T], items: Sequence[T], format: str, *, quiet: bool = False, width: int | None = None
) -> str:
    """The text that :func:`show` writes; ``width`` limits tables."""
    if quiet:
        return "".join(listing.key(item) + "\n" for item in items)
    if template.is_template(format):
        fill = template.compile_template(format)
        return "".join(fill(item) + "\n" for item in items)
    match check_format(format):
        case "json":
            return machine.to_json(listing.kind, items)
        case "jsonl":
            return "".join(machine.to_json_line(item) for item in items)
        case "yaml":
            return machine.to_yaml(listing.kind, items)
        case "csv":
            return machine.to_csv(listing.view, items)
        case _:
            return tables.render(listing.columns, items, width)


def show_each(listing: Listing[T], items: Iterable[T], format: str) -> None:
    """Write items as they come (events, statistics): one line each; JSON means JSON lines here."""
    one: Callable[[T], str]
    if template.is_template(format):
        fill = template.compile_template(format)
        one = lambda item: fill(item) + "\n"  # noqa: E731
    elif check_format(format) == "table":
        one = lambda item: "  ".join(tables.clean(column.show(item)) for column in listing.columns) + "\n"  # noqa: E731
    elif format in ("json", "jsonl"):
        one = machine.to_json_line
    else:
        raise UsageError(f"a stream cannot be shown as {format}", hint="use table, jsonl or a template")
    for item in items:
        streams.write(one(item), now=True)


def show_detail(listing: Listing[T], items: Sequence[T], format: str) -> None:
    """Write whole objects: ``table`` means readable YAML without the envelope, one document an item."""
    if format != "table":
        show(listing, items, format)
        return
    for index, item in enumerate(items):
        streams.write(("---\n" if index else "") + machine.dump_yaml(machine.plain(item)))
