"""The pump between a hijacked stream and the caller's descriptors, with a peer made of a socket pair."""

from __future__ import annotations

import os
import pty
import signal
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator

import pytest

from vmctl.backends.base import Stdio
from vmctl.backends.docker.session import Session
from vmctl.backends.docker.transport import Connection
from vmctl.errors import ProgramNotFound
from vmctl.model.state import Exit


class Peer:
    """Ends when told; notes what it was asked."""

    def __init__(self) -> None:
        self.ended_fd, self._end = os.pipe()
        self.signals: list[int] = []
        self.sizes: list[tuple[int, int]] = []
        self.exit: Exit | None = None
        self.complaint = False

    def finish(self, code: int = 0) -> None:
        self.exit = Exit(code=code)
        os.write(self._end, b".")

    def resize(self, rows: int, columns: int) -> None:
        self.sizes.append((rows, columns))

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def take_error(self, data: bytes) -> bool:
        self.complaint = data.startswith(b"complaint")
        return self.complaint

    def result(self) -> Exit | None:
        if self.complaint:
            raise ProgramNotFound("no program")
        return self.exit

    def close(self) -> None:
        os.close(self.ended_fd)
        os.close(self._end)


class Wire:
    """A session, the far end of its stream, and pipes for the caller's streams."""

    def __init__(self, *, tty: bool = False, early: bytes = b"") -> None:
        near, self.far = socket.socketpair()
        connection = Connection.__new__(Connection)
        connection.socket = near
        self.peer = Peer()
        self.session = Session(connection, self.peer, tty=tty, early=early)
        self.out, self._out = os.pipe()
        self.err, self._err = os.pipe()
        self.stdin, self.typed = os.pipe()
        self.signals, self.raised = os.pipe()
        self.result: list[Exit | BaseException | None] = []

    def begin(self, **stdio: object) -> threading.Thread:
        streams = Stdio(**{"stdin": None, "stdout": self._out, "stderr": self._err} | stdio)  # type: ignore[arg-type]

        def work() -> None:
            try:
                self.result.append(self.session.pump(streams))
            except BaseException as error:  # noqa: BLE001 - looked at by the test
                self.result.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def end(self, thread: threading.Thread, code: int = 0) -> Exit | BaseException | None:
        self.peer.finish(code)
        self.far.close()
        return self.joined(thread)

    def joined(self, thread: threading.Thread) -> Exit | BaseException | None:
        thread.join(5)
        assert not thread.is_alive(), "the pump hangs"
        return self.result[0]

    def close(self) -> None:
        self.far.close()
        self.session.close()
        for fd in (self.out, self._out, self.err, self._err, self.stdin, self.typed, self.signals, self.raised):
            try:
                os.close(fd)
            except OSError:
                continue  # the test closed it


@pytest.fixture
def wire() -> Iterator[Wire]:
    one = Wire(early=frame(1, b"early "))
    yield one
    one.close()


def frame(number: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxI", number, len(payload)) + payload


def test_streams_apart_with_what_came_early(wire: Wire) -> None:
    thread = wire.begin()
    wire.far.sendall(frame(1, b"out") + frame(2, b"err"))
    end = wire.end(thread, 42)
    assert isinstance(end, Exit)
    assert end.code == 42
    assert os.read(wire.out, 100) == b"early out"
    assert os.read(wire.err, 100) == b"err"


def test_a_slow_reader_gets_everything(wire: Wire) -> None:
    """Far more than pipe and backlog hold; meanwhile signals are still forwarded."""
    thread = wire.begin(signals=wire.signals)
    data = os.urandom(3 << 20)
    sender = threading.Thread(target=wire.far.sendall, args=(frame(1, data),))
    sender.start()
    time.sleep(0.2)
    os.write(wire.raised, bytes([signal.SIGHUP]))
    time.sleep(0.2)
    assert wire.peer.signals == [signal.SIGHUP]
    got = b""
    while len(got) < len(data) + len(b"early "):
        got += os.read(wire.out, 65536)
    sender.join()
    wire.end(thread)
    assert got == b"early " + data


def test_stdin_and_its_end(wire: Wire) -> None:
    thread = wire.begin(stdin=wire.stdin)
    os.write(wire.typed, b"hello")
    assert wire.far.recv(100) == b"hello"
    os.close(wire.typed)
    assert wire.far.recv(100) == b""
    wire.far.sendall(frame(1, b"still there"))
    wire.end(thread)
    assert os.read(wire.out, 100) == b"early still there"


def test_nobody_reads_stdout(wire: Wire) -> None:
    """``vmctl run IMAGE yes | head -1`` must end."""
    os.close(wire.out)
    thread = wire.begin()
    wire.far.sendall(frame(1, b"y\n" * 1000))
    assert wire.joined(thread) is None


def test_nobody_reads_stderr(wire: Wire) -> None:
    os.close(wire.err)
    thread = wire.begin()
    wire.far.sendall(frame(2, b"e\n" * 1000) + frame(1, b"out"))
    assert isinstance(wire.end(thread), Exit)
    assert os.read(wire.out, 100) == b"early out"


def test_a_program_that_could_not_be_started(wire: Wire) -> None:
    wire.session._early = b""
    thread = wire.begin()
    wire.far.sendall(frame(1, b"complaint: no"))
    assert isinstance(wire.end(thread), ProgramNotFound)


def test_streams_closed_early_by_a_process_that_lives_on(wire: Wire) -> None:
    """The session waits for the end, and forwards signals meanwhile."""
    thread = wire.begin(signals=wire.signals)
    wire.far.close()
    time.sleep(0.1)
    assert thread.is_alive()
    os.write(wire.raised, bytes([signal.SIGTERM, signal.SIGCHLD, signal.SIGWINCH]))
    time.sleep(0.1)
    wire.peer.finish(3)
    end = wire.joined(thread)
    assert isinstance(end, Exit)
    assert end.code == 3
    assert wire.peer.signals == [signal.SIGTERM]


def test_a_stream_that_never_ends_after_the_process_has(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmctl.backends.docker.session._QUIET_END", 0.2)
    thread = wire.begin()
    wire.peer.finish(5)
    end = wire.joined(thread)
    assert isinstance(end, Exit)
    assert end.code == 5


def test_tty() -> None:
    """Raw bytes, sizes at the start and when the terminal says so, and the end of input as a key."""
    wire = Wire(tty=True, early=b"$ ")
    terminal, screen = pty.openpty()
    try:
        termios.tcsetwinsize(screen, (24, 80))
        thread = wire.begin(stdout=screen, stdin=wire.stdin, tty=True, signals=wire.signals)
        assert os.read(terminal, 100) == b"$ "
        termios.tcsetwinsize(screen, (50, 132))
        os.write(wire.raised, bytes([signal.SIGWINCH]))
        os.close(wire.typed)
        assert wire.far.recv(100) == b"\x04"
        deadline = time.monotonic() + 5
        while len(wire.peer.sizes) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert wire.peer.sizes == [(24, 80), (50, 132)]
        assert isinstance(wire.end(thread), Exit)
    finally:
        wire.close()
        os.close(terminal)
        os.close(screen)


def test_tty_detached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker ends the stream on its detach keys; the process lives on."""
    monkeypatch.setattr("vmctl.backends.docker.session._QUIET_END", 0.2)
    wire = Wire(tty=True)
    thread = wire.begin()
    wire.far.close()
    assert wire.joined(thread) is None
    wire.close()
