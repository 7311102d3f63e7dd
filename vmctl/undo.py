"""A stack of undo steps, run backwards unless the work succeeded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType

log = logging.getLogger(__name__)


class UndoStack:
    """Armed on entry; :meth:`disarm` on success. Steps MUST be idempotent: a crash may repeat them."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def push(self, what: str, step: Callable[[], object]) -> None:
        """Register ``step`` (described by ``what``, for the log) to be run if the block fails."""
        self._steps.append((what, step))

    def disarm(self) -> None:
        """The work succeeded: forget every step."""
        self._steps.clear()

    def __enter__(self) -> UndoStack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._steps:
            what, step = self._steps.pop()
            try:
                step()
            except Exception:
                log.warning("undo step failed: %s", what, exc_info=True)
