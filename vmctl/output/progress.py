"""Progress of long work: on stderr, on a terminal, and only when it takes more than two seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE = 2.0


class ProgressBar:
    """Called with a label, the units done and their total (None: unknown). Rich is imported when it first shows."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._wanted = sys.stderr.isatty()
        self._shown: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, label: str, done: int, total: int | None) -> None:
        if not self._wanted or (self._shown is None and time.monotonic() - self._began < _PATIENCE):
            return
        shown = self._show()
        if label not in self._tasks:
            self._finish_tasks(shown)
            self._tasks[label] = shown.add_task(label, total=total)
        shown.update(self._tasks[label], completed=done, total=total)

    def _show(self) -> Progress:
        if self._shown is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._shown = Progress(*columns, console=Console(stderr=True), transient=True)
            self._shown.start()
        return self._shown

    def _finish_tasks(self, shown: Progress) -> None:
        for task in self._tasks.values():
            shown.update(task, visible=False)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown is not None:
            self._shown.stop()
