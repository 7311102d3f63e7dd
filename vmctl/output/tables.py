"""Plain aligned tables: two spaces between columns, nothing cut off a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

_GAP = "  "
_NARROWEST = 8


class Column(NamedTuple, Generic[T]):
    """``show`` gives a cell's text; numbers are aligned right; ``cut`` columns give way on a narrow terminal."""

    title: str
    show: Callable[[T], str]
    right: bool = False
    cut: bool = False


def render(columns: Sequence[Column[T]], items: Sequence[T], width: int | None = None) -> str:
    """The table with its title line; ``width`` is the terminal's, None for unlimited."""
    rows = [[clean(column.show(item)) for column in columns] for item in items]
    widths = [
        max([len(column.title), *(display_width(row[index]) for row in rows)]) for index, column in enumerate(columns)
    ]
    if width is not None:
        _narrow(widths, columns, width)
    lines = [_line([column.title for column in columns], widths, columns)]
    lines += [_line(row, widths, columns) for row in rows]
    return "\n".join(lines) + "\n"


def clean(text: str) -> str:
    """Control characters (a label may hold an escape sequence) become visible escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def display_width(text: str) -> int:
    """Cells of a terminal that ``text`` takes; wide East Asian characters take two."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def _narrow(widths: list[int], columns: Sequence[Column[T]], limit: int) -> None:
    """Take the excess from the widest columns that may be cut, one cell at a time."""
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - limit
    for _ in range(max(0, excess)):
        widest = max((i for i, column in enumerate(columns) if column.cut), key=lambda i: widths[i], default=None)
        if widest is None or widths[widest] <= _NARROWEST:
            return
        widths[widest] -= 1


def _line(cells: Sequence[str], widths: Sequence[int], columns: Sequence[Column[T]]) -> str:
    parts = []
    for cell, width, column in zip(cells, widths, columns, strict=True):
        shown = _cut(cell, width)
        padding = " " * (width - display_width(shown))
        parts.append(padding + shown if column.right else shown + padding)
    return _GAP.join(parts).rstrip()


def _cut(text: str, width: int) -> str:
    if display_width(text) <= width:
        return text
    while display_width(text) > width - 1:
        text = text[:-1]
    return text + "…"
