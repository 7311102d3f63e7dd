"""Error and exit codes are a contract: one code a class, each documented, none reused."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.support.generator import generator
from vmctl.errors import VmctlError

ROOT = Path(__file__).resolve().parents[2]


def test_codes_are_unique() -> None:
    counts = Counter(one.code for one in generator().error_classes())
    assert [code for code, count in counts.items() if count > 1] == []


def test_exit_codes_belong_to_one_class_or_its_subclasses() -> None:
    owners: dict[int, type[VmctlError]] = {}
    for one in generator().error_classes():
        owner = owners.setdefault(one.exit_code, one)
        assert issubclass(one, owner), f"{one.__name__} reuses the exit code of {owner.__name__}"


def test_every_code_is_on_the_page() -> None:
    page = (ROOT / "contrib/docs/reference/exit-codes.md").read_text(encoding="utf-8")
    for one in generator().error_classes():
        assert re.search(rf"^\| {one.exit_code} \| `{one.code}` \| \S", page, re.MULTILINE), one.code


def test_the_numbers_of_the_design() -> None:
    expected = {
        "failed": 1, "usage": 2, "not-found": 3, "conflict": 4, "wrong-state": 4, "never-fits": 5,
        "backend-unavailable": 6, "unsupported": 7, "permission": 8, "partial": 9, "ledger": 10,
        "does-not-fit-now": 75, "timed-out": 124, "attach-failed": 125, "cannot-invoke": 126,
        "program-not-found": 127, "hung-up": 129, "interrupted": 130, "terminated": 143,
    }  # fmt: skip
    assert {one.code: one.exit_code for one in generator().error_classes()} == expected
