"""Tables: alignment, width, and what others wrote cannot steer the terminal."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from vmctl.output.tables import Column, clean, display_width, render


class Row(NamedTuple):
    name: str
    size: str


COLUMNS = (
    Column[Row]("NAME", lambda row: row.name, cut=True),
    Column[Row]("SIZE", lambda row: row.size, right=True),
)


def test_columns_are_aligned() -> None:
    text = render(COLUMNS, [Row("a", "1"), Row("longer", "100M")])
    assert text == "NAME    SIZE\na          1\nlonger  100M\n"


def test_nothing_is_cut_without_a_width() -> None:
    assert "x" * 300 in render(COLUMNS, [Row("x" * 300, "1")])


def test_a_terminal_cuts_only_what_may_be_cut() -> None:
    text = render(COLUMNS, [Row("x" * 300, "12345")], width=40)
    assert max(map(len, text.splitlines())) == 40
    assert "…  12345" in text


def test_a_tiny_terminal_keeps_columns_readable() -> None:
    assert "xxxxxxx…" in render(COLUMNS, [Row("x" * 300, "12345")], width=3)


def test_no_trailing_spaces() -> None:
    text = render((COLUMNS[0], Column[Row]("B", lambda row: row.size)), [Row("a", ""), Row("bb", "x")])
    assert all(line == line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb", "a\\nb"),
        ("grüße", "grüße"),
        ("a\u202eb", "a\\u202eb"),
    ],
)
def test_control_characters_become_visible(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize(("text", "cells"), [("abc", 3), ("日本", 4), ("e\u0301", 1)])
def test_display_width(text: str, cells: int) -> None:
    assert display_width(text) == cells


def test_wide_characters_are_aligned() -> None:
    lines = render(COLUMNS, [Row("日本", "1"), Row("abcdef", "2")]).splitlines()
    assert {display_width(line) for line in lines} == {12}
