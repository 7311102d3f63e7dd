"""Attached sessions: the main process's streams, or those of a process started by exec, forwarded both ways."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import time
from collections import deque
from contextlib import suppress
from typing import Protocol

from vmctl.backends.base import Stdio
from vmctl.backends.docker.streams import Demultiplexer
from vmctl.backends.docker.transport import Connection
from vmctl.model.event import Stream
from vmctl.model.state import Exit

_CHUNK = 64 << 10
_BACKLOG = 256 << 10
_PIPE_ROOM = 4096  # a pipe that polls writable takes PIPE_BUF without blocking; the caller's streams are shared,
#                    so they are never made non-blocking
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR | select.POLLNVAL
_WRITABLE = select.POLLOUT | select.POLLHUP | select.POLLERR | select.POLLNVAL
_NOT_FORWARDED = frozenset({signal.SIGCHLD, signal.SIGPIPE, signal.SIGWINCH})
_QUIET_END = 2.0
_END_OF_FILE_KEY = b"\x04"


class Peer(Protocol):
    """The process behind a stream."""

    @property
    def ended_fd(self) -> int | None:
        """Readable as soon as the process has ended; None if only :meth:`result` can tell."""
        ...

    def resize(self, rows: int, columns: int) -> None: ...

    def signal(self, number: int) -> None: ...

    def take_error(self, data: bytes) -> bool:
        """Whether this piece of output is the engine's word that the program could not be started."""
        ...

    def result(self) -> Exit | None:
        """How it ended; None while it lives. Raises CannotInvoke, ProgramNotFound."""
        ...

    def close(self) -> None: ...


class Session:
    """An Attachment over a hijacked connection; ``early`` is output that came with the answer's header."""

    def __init__(self, connection: Connection, peer: Peer, *, tty: bool, early: bytes = b"") -> None:
        self._connection = connection
        self._peer = peer
        self._tty = tty
        self._early = early

    def pump(self, stdio: Stdio) -> Exit | None:
        """See ``Attachment.pump``. None also when stdout has no reader any more, or by Docker's detach keys."""
        early, self._early = self._early, b""
        return _Pump(self._connection.socket, self._peer, stdio, tty=self._tty).run(early)

    def close(self) -> None:
        self._connection.close()
        self._peer.close()


class _Outlet:
    """One of the caller's streams with what it has not taken yet."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.broken = False
        self.backlog = 0
        self._queue: deque[bytes] = deque()
        # What is no pipe (a file, a terminal) takes all at once.
        self._room = _PIPE_ROOM if stat.S_ISFIFO(os.fstat(fd).st_mode) else _CHUNK

    def put(self, data: bytes) -> None:
        if data and not self.broken:
            self._queue.append(data)
            self.backlog += len(data)

    def write(self) -> None:
        """Write a piece; nobody reading makes it swallow everything."""
        data = self._queue.popleft()
        try:
            count = os.write(self.fd, data[: self._room])
        except BlockingIOError:
            count = 0
        except OSError:
            self.broken = True
            self.backlog = 0
            self._queue.clear()
            return
        self.backlog -= count
        if count < len(data):
            self._queue.appendleft(data[count:])


class _Pump:
    """The state of one ``pump`` call."""

    def __init__(self, sock: socket.socket, peer: Peer, stdio: Stdio, *, tty: bool) -> None:
        self._sock = sock
        self._peer = peer
        self._stdio = stdio
        self._stdin = stdio.stdin
        self._unsent = b""
        self._out, self._err = _Outlet(stdio.stdout), _Outlet(stdio.stderr)
        self._split = None if tty else Demultiplexer()
        self._ended = False  # the process has ended (as far as ended_fd tells)
        self._open = True  # the stream has not ended
        self._quiet_at: float | None = None

    def run(self, early: bytes) -> Exit | None:
        self._sock.setblocking(False)
        if self._stdio.tty:
            self._resize()
        self._take_output(early)
        while self._open or self._backlog():
            if self._out.broken:
                return self._peer.result()
            self._step(None if self._quiet_at is None else max(0.0, self._quiet_at - time.monotonic()))
            if self._quiet_at is not None and time.monotonic() >= self._quiet_at:
                self._open = False
        return self._wait_for_end()

    def _step(self, timeout: float | None) -> None:
        wanted = self._wanted()
        poller = select.poll()
        for fd, mask in wanted.items():
            poller.register(fd, mask)
        events = dict(poller.poll(None if timeout is None else timeout * 1000))
        sock, stdin, signals = self._sock.fileno(), self._stdin, self._stdio.signals
        if signals is not None and events.get(signals, 0) & _READABLE:
            self._take_signals(signals)
        for outlet in (self._out, self._err):
            if outlet.backlog and events.get(outlet.fd, 0) & _WRITABLE:
                outlet.write()
        if wanted.get(sock, 0) & select.POLLIN and events.get(sock, 0) & _READABLE:
            self._read_socket()
        if self._unsent and events.get(sock, 0) & _WRITABLE:
            self._send()
        if stdin is not None and wanted.get(stdin, 0) & select.POLLIN and events.get(stdin, 0) & _READABLE:
            self._take_stdin(stdin)
        if (ended := self._peer.ended_fd) is not None and events.get(ended, 0) & _READABLE:
            self._ended = True
            self._quiet_at = time.monotonic() + _QUIET_END

    def _wanted(self) -> dict[int, int]:
        """Descriptors to wait for; stdin, stdout and stderr may be one of them (a terminal)."""
        wanted: dict[int, int] = {}

        def want(fd: int | None, mask: int) -> None:
            if fd is not None:
                wanted[fd] = wanted.get(fd, 0) | mask

        if self._open:
            if self._backlog() < _BACKLOG:
                want(self._sock.fileno(), select.POLLIN)
            if self._unsent:
                want(self._sock.fileno(), select.POLLOUT)
            else:
                want(self._stdin, select.POLLIN)
            if not self._ended:
                want(self._peer.ended_fd, select.POLLIN)
        want(self._stdio.signals, select.POLLIN)
        for outlet in (self._out, self._err):
            if outlet.backlog:
                want(outlet.fd, select.POLLOUT)
        return wanted

    def _backlog(self) -> int:
        return self._out.backlog + self._err.backlog

    def _read_socket(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take_output(data)
        else:
            self._open = False
            self._quiet_at = None

    def _take_output(self, data: bytes) -> None:
        if self._quiet_at is not None:
            self._quiet_at = time.monotonic() + _QUIET_END
        pieces = self._split.feed(data) if self._split else iter([(Stream.STDOUT, data)] if data else [])
        for stream, piece in pieces:
            if not self._peer.take_error(piece):
                (self._err if stream is Stream.STDERR else self._out).put(piece)

    def _take_stdin(self, stdin: int) -> None:
        try:
            data = os.read(stdin, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: a terminal that hung up, or one that a background process may not read
            data = b""
        if data:
            self._unsent = data
            self._send()
        elif self._split is None:  # a terminal is told by its end-of-file key; closing our half would end the session
            self._stdin = None
            self._unsent = _END_OF_FILE_KEY
            self._send()
        else:
            self._stdin = None
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    def _send(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:  # the process reads no more; its output and its end are still to come
            self._unsent, self._stdin = b"", None
            return
        self._unsent = self._unsent[sent:]

    def _take_signals(self, signals: int) -> None:
        try:
            numbers = os.read(signals, 64)
        except BlockingIOError:
            return
        for number in numbers:
            if number == signal.SIGWINCH:
                if self._stdio.tty:
                    self._resize()
            elif number not in _NOT_FORWARDED:
                self._peer.signal(number)

    def _resize(self) -> None:
        try:
            size = os.get_terminal_size(self._stdio.stdout)
        except OSError:
            return
        self._peer.resize(size.lines, size.columns)

    def _wait_for_end(self) -> Exit | None:
        """The stream is over: the process has ended, or closed its streams, or the user detached (a TTY only)."""
        deadline = time.monotonic() + _QUIET_END
        while (end := self._peer.result()) is None:
            if self._split is None and time.monotonic() > deadline:
                return None
            ended, signals = self._peer.ended_fd, self._stdio.signals
            poller = select.poll()
            for fd in (ended, signals):
                if fd is not None:
                    poller.register(fd, select.POLLIN)
            events = dict(poller.poll(20 if ended is None else 1000))
            if signals is not None and events.get(signals, 0):
                self._take_signals(signals)
        return end
