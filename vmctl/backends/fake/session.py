"""Attached sessions of the fake: they let the clock run, and carry bytes."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from typing import Protocol

from vmctl.backends.base import Stdio
from vmctl.backends.fake.store import Running
from vmctl.model.event import Stream
from vmctl.model.state import Exit

_TICK = 0.01
_NOT_FORWARDED = frozenset({signal.SIGCHLD, signal.SIGPIPE, signal.SIGWINCH})
_CHUNK = 64 << 10


class Target(Protocol):
    """The process that a session is connected to."""

    def look(self) -> tuple[Running | None, bool]:
        """The process now, and whether the session is over. None: the body is gone."""
        ...

    def feed(self, data: bytes) -> None: ...

    def signal(self, number: int) -> None: ...

    def close(self) -> None: ...


class FakeSession:
    """An Attachment; ``seen`` records of output are left out (they came before it attached)."""

    def __init__(self, target: Target, *, tty: bool, seen: int = 0) -> None:
        self._target = target
        self._tty = tty
        self._seen = seen

    def pump(self, stdio: Stdio) -> Exit | None:
        """See ``Attachment.pump``. None also when stdout has no reader any more."""
        stdin = stdio.stdin
        while True:
            process, over = self._target.look()
            if process is None:
                return None
            if not self._write(process, stdio):
                return None
            if over:
                return process.exit
            watched = [fd for fd in (stdio.signals, stdin if process.reads else None) if fd is not None]
            ready, _, _ = select.select(watched, [], [], _TICK)
            if stdio.signals in ready and stdio.signals is not None:
                self._forward(stdio.signals)
            if stdin in ready and stdin is not None:
                data = os.read(stdin, _CHUNK)
                self._target.feed(data)
                stdin = stdin if data else None

    def close(self) -> None:
        self._target.close()

    def _write(self, process: Running, stdio: Stdio) -> bool:
        """Whether there is still somebody to write to."""
        for record in process.log[self._seen :]:
            self._seen += 1
            data = record.data.replace(b"\n", b"\r\n") if self._tty else record.data
            apart = record.stream is Stream.STDERR and not self._tty
            try:
                while data:
                    data = data[os.write(stdio.stderr if apart else stdio.stdout, data) :]
            except OSError:
                if not apart:
                    return False
        return True

    def _forward(self, signals: int) -> None:
        for number in os.read(signals, 64):
            if number not in _NOT_FORWARDED:
                self._target.signal(number)


class ExecTarget:
    """A process of its own, which lives in the session and dies with it or with its body."""

    def __init__(self, process: Running, alive: Callable[[], bool]) -> None:
        self._process = process
        self._alive = alive

    def look(self) -> tuple[Running | None, bool]:
        now = time.time_ns()
        if not self._alive():
            self._process.end(128 + signal.SIGKILL, now, signal.SIGKILL)
        self._process.advance(now)
        return self._process, self._process.exit is not None

    def feed(self, data: bytes) -> None:
        self._process.feed(data, time.time_ns())

    def signal(self, number: int) -> None:
        self._process.signal(number, time.time_ns())

    def close(self) -> None:
        self._process.signal(signal.SIGKILL, time.time_ns())
