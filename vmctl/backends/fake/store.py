"""What the fake remembers: bodies with their processes, in memory or in a file that all processes of a ledger share."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from vmctl.backends.fake.program import CopyInput, End, Output, Sleep, Step, Trap
from vmctl.model.event import Event, Stream
from vmctl.model.observed import Foreign
from vmctl.model.process import Process
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Exit

SECOND = 1_000_000_000
_KEPT_EVENTS = 1000
_HARMLESS = frozenset({signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH})


class Written(msgspec.Struct, frozen=True):
    """A piece of output; a LogRecord that can be stored."""

    at: int
    stream: Stream
    data: bytes


class Running(msgspec.Struct):
    """A process: the steps it has still to do, the first of them at ``due`` (nanoseconds since the epoch)."""

    steps: list[Step]
    due: int
    stdin: bool
    log: list[Written] = []
    traps: dict[int, int | None] = {}
    exit: Exit | None = None

    @property
    def reads(self) -> bool:
        """Whether it waits for its stdin."""
        return self.exit is None and bool(self.steps) and isinstance(self.steps[0], CopyInput) and self.stdin

    def advance(self, now: int) -> Exit | None:
        """Do every step that is due at ``now``; how it ended, if it has."""
        while self.exit is None and self.due <= now and not self.reads:
            match self.steps.pop(0):
                case Output(stream, data):
                    self.log.append(Written(self.due, stream, data))
                case Sleep(seconds):
                    self.due += int(seconds * SECOND)
                case Trap(number, code):
                    self.traps[number] = code
                case End(code):
                    self.end(code, self.due)
        return self.exit

    def feed(self, data: bytes, now: int) -> None:
        """Stdin while it ``reads``; no data is its end."""
        self.due = now
        if data:
            self.log.append(Written(now, Stream.STDOUT, data))
        else:
            self.stdin = False
            self.advance(now)

    def signal(self, number: int, now: int) -> Exit | None:
        """What a signal does to a program that knows no more than ``trap``; how it ended, if it has."""
        if number in self.traps and number != signal.SIGKILL:
            if (code := self.traps[number]) is not None:
                self.end(code, now)
        elif number not in _HARMLESS:
            self.end(128 + number, now, number)
        return self.exit

    def end(self, code: int, at: int, number: int | None = None) -> None:
        if self.exit is None:
            self.exit = Exit(code=code, signal=number, at=at)
            self.steps = []


class FakeBody(msgspec.Struct):
    """One body. ``main`` is the present or last run of its main process, ``log`` the output of the earlier ones."""

    id: str
    ledger: str
    claim: str
    name: str
    spec: InstanceSpec
    process: Process | None
    files: dict[str, bytes | None]  # by absolute path inside; None is a folder
    main: Running | None = None
    log: list[Written] = []
    started_at: int | None = None
    paused_at: int | None = None
    restart_at: int | None = None
    restarts: int = 0
    stopped: bool = False  # by request: no restart
    failure: str = ""  # why the last start did not succeed


class Memory(msgspec.Struct):
    """Everything."""

    bodies: dict[str, FakeBody] = {}
    foreign: list[Foreign] = []
    events: list[Event] = []
    events_dropped: int = 0

    def tell(self, event: Event) -> None:
        self.events.append(event)
        if (excess := len(self.events) - _KEPT_EVENTS) > 0:
            del self.events[:excess]
            self.events_dropped += excess


class Store:
    """``with store.open() as memory``: exclusive over threads of one process and over processes; saved at the end."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._memory = Memory()

    @contextmanager
    def open(self) -> Iterator[Memory]:
        if self._file is None:
            yield self._memory
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = self._file.read_bytes() if self._file.exists() else b""
            memory = msgspec.json.decode(before, type=Memory) if before else Memory()
            try:
                yield memory
            finally:
                self._save(self._file, before, msgspec.json.encode(memory))

    @staticmethod
    def _save(file: Path, before: bytes, after: bytes) -> None:
        if after != before:
            fresh = file.with_suffix(".new")
            fresh.write_bytes(after)
            os.replace(fresh, file)
