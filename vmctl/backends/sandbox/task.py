"""One process with its streams: the program of the instance, or one started by exec."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
from collections import deque

from vmctl.backends.sandbox.launch import Streams
from vmctl.backends.sandbox.peer import Session
from vmctl.backends.wire.frames import FrameType

_CHUNK = 64 << 10
_END_OF_TRANSMISSION = b"\x04"


class Task:
    """``outputs`` maps our ends to the kind of frame they become; ``pid`` is known once the process runs."""

    def __init__(self, *, tty: bool, stdin: bool, owner: int) -> None:
        self.pid: int | None = None
        self.sessions: list[Session] = []
        self.outputs: dict[int, FrameType] = {}
        self.input: int | None = None
        self._tty = tty
        self._pending: deque[tuple[Session | None, bytes]] = deque()
        self._ending = False
        if tty:
            master, slave = os.openpty()
            os.fchown(slave, owner or -1, -1)
            self.streams = Streams(slave, slave, slave)
            self.input = os.dup(master)
            self.outputs[master] = FrameType.STDOUT
        else:
            out_read, out_write = os.pipe2(os.O_CLOEXEC)
            err_read, err_write = os.pipe2(os.O_CLOEXEC)
            in_read = os.open("/dev/null", os.O_RDONLY)
            if stdin:
                os.close(in_read)
                in_read, self.input = os.pipe2(os.O_CLOEXEC)
            self.streams = Streams(in_read, out_write, err_write)
            self.outputs = {out_read: FrameType.STDOUT, err_read: FrameType.STDERR}
        for fd in (*self.outputs, *([] if self.input is None else [self.input])):
            os.set_blocking(fd, False)

    def close_streams(self) -> None:
        """Close the process's ends here: it has its own by now."""
        for fd in set(self.streams):
            os.close(fd)

    # -- output ---------------------------------------------------------------------------------------------------

    @property
    def flows(self) -> bool:
        """Whether every client takes more output."""
        return all(session.hungry for session in self.sessions)

    def read(self, fd: int) -> bytes:
        """What has been written; closes the stream and returns nothing at its end, or if nothing is there."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return b""
        except OSError:  # EIO: the last one has closed the terminal
            data = b""
        if not data:
            self._close_output(fd)
        return data

    def take(self, fd: int) -> tuple[FrameType, bytes] | None:
        """The next piece from ``fd`` with the kind of frame it becomes; None when nothing is there."""
        if fd not in self.outputs:
            return None
        kind = self.outputs[fd]
        data = self.read(fd)
        return (kind, data) if data else None

    def _close_output(self, fd: int) -> None:
        os.close(fd)
        del self.outputs[fd]

    # -- input ----------------------------------------------------------------------------------------------------

    @property
    def has_input(self) -> bool:
        """Whether input waits until the process takes it."""
        return self.input is not None and bool(self._pending)

    def feed(self, session: Session, data: bytes) -> None:
        """Input from a client; dropped where the process has none."""
        if self.input is None or self._ending:
            session.took_stdin(len(data))
        else:
            self._pending.append((session, data))
            self.write()

    def end_input(self) -> None:
        """End of file, after what waits."""
        if self._tty:
            self._pending.append((None, _END_OF_TRANSMISSION))
        else:
            self._ending = True
        self.write()

    def write(self) -> None:
        """Pass on what the process takes without blocking."""
        while self._pending and self.input is not None:
            session, data = self._pending.popleft()
            try:
                count = os.write(self.input, data)
            except BlockingIOError:
                self._pending.appendleft((session, data))
                return
            except OSError:  # nobody reads any more
                self._ending, count = True, len(data)
            if session is not None:
                session.took_stdin(count)
            if count < len(data):
                self._pending.appendleft((session, data[count:]))
        if self._ending:
            self._close_input()

    def resize(self, payload: bytes) -> None:
        """WINCH: rows and columns."""
        if self._tty and self.input is not None and len(payload) == 4:
            rows, columns = struct.unpack(">HH", payload)
            with contextlib.suppress(OSError):
                fcntl.ioctl(self.input, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def _close_input(self) -> None:
        if self.input is not None:
            os.close(self.input)
            self.input = None

    def close(self) -> None:
        """Let go of every stream."""
        self._close_input()
        for fd in list(self.outputs):
            self._close_output(fd)
