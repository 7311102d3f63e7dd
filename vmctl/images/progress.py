"""How long work in the store reports where it is; showing it is the caller's business."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called with a label, the units done (bytes, or steps) and their total, None where it cannot be known."""


def silent(label: str, done: int, total: int | None) -> None:
    """The Progress of callers who do not watch."""
