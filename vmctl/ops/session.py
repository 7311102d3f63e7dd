"""An attached session and the signals that reach vmctl while it lasts."""

from __future__ import annotations

import dataclasses
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType

from vmctl.backends.base import Attachment, Backend, Ref, Stdio
from vmctl.errors import VmctlError
from vmctl.model.state import Exit

_ENDING = frozenset({signal.SIGTERM, signal.SIGHUP})


def attend(
    backend: Backend, ref: Ref, attachment: Attachment, stdio: Stdio, *, grace: float, force: bool
) -> Exit | None:
    """Forward streams and signals until the main process ends.

    Every signal goes to the workload. With ``force``, one that asks vmctl itself to end (SIGTERM, SIGHUP) ends the
    session in any case: a workload that ignores it is killed after ``grace`` seconds, so that it can be removed.
    """

    killed = threading.Event()

    def kill() -> None:
        try:
            backend.kill(ref)
            killed.set()
        except VmctlError:
            return  # it has ended meanwhile

    try:
        if not force or stdio.signals is None:
            return attachment.pump(stdio)
        with _SignalRelay(stdio.signals, kill, grace) as relayed:
            end = attachment.pump(dataclasses.replace(stdio, signals=relayed))
        if end is None and killed.is_set():  # a machine that is switched off says nothing any more
            return Exit(code=128 + signal.SIGKILL, signal=signal.SIGKILL)
        return end
    finally:
        attachment.close()


class _SignalRelay:
    """Copies signal bytes into a pipe of its own; the first that asks for the end starts the clock of ``kill``."""

    def __init__(self, source: int, kill: Callable[[], None], grace: float) -> None:
        self._source = source
        self._kill = kill
        self._grace = grace
        self._relayed, self._sink = os.pipe()
        self._wake, self._done = os.pipe()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> int:
        self._thread.start()
        return self._relayed

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._done)
        self._thread.join()
        for descriptor in (self._wake, self._relayed, self._sink):
            os.close(descriptor)

    def _work(self) -> None:
        deadline: float | None = None
        while True:
            timeout = None if deadline is None else max(deadline - time.monotonic(), 0)
            ready, _, _ = select.select([self._source, self._wake], [], [], timeout)
            if self._wake in ready:
                return
            if not ready:
                deadline = None
                self._kill()
                continue
            signals = os.read(self._source, 64)
            if not signals:
                return
            os.write(self._sink, signals)
            if deadline is None and _ENDING.intersection(signals):
                deadline = time.monotonic() + self._grace
