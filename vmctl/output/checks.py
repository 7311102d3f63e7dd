"""``doctor``: a mark, what was found, and the remedy below what is broken."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from vmctl.model.views import Check
from vmctl.output.show import Listing, show
from vmctl.output.streams import one_line, paint, write
from vmctl.output.tables import Column

CHECKS: Listing[Check] = Listing(
    kind="checks",
    view=Check,
    columns=(
        Column("PART", lambda check: check.part),
        Column("OK", lambda check: "yes" if check.ok else "no"),
        Column("NEEDED", lambda check: "yes" if check.needed else "no"),
        Column("DETAIL", lambda check: check.detail, cut=True),
        Column("REMEDY", lambda check: check.remedy, cut=True),
    ),
    key=lambda check: check.part,
)


def show_checks(checks: Iterable[Check], format: str) -> bool:
    """Write each check as it ends; whether everything that is needed is well."""
    if format != "table":
        done = list(checks)
        show(CHECKS, done, format)
        return all(check.ok for check in done if check.needed)
    healthy = True
    for check in checks:
        healthy = healthy and (check.ok or not check.needed)
        write(_line(check), now=True)
    return healthy


def _line(check: Check) -> str:
    mark, colour = ("✓", "32") if check.ok else ("✗", "31") if check.needed else ("-", "33")
    if (sys.stdout.encoding or "").lower().replace("-", "") != "utf8":
        mark = {"✓": "ok", "✗": "BAD"}.get(mark, mark)
    text = f"{paint(mark, colour, sys.stdout)} {check.part}: {one_line(check.detail)}\n"
    if not check.ok and check.remedy:
        text += f"    remedy: {check.remedy}\n"
    return text
