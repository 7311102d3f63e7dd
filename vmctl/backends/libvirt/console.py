"""The serial console as a session: what a disk machine can be attached to, and ``vmctl console`` for every machine."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from vmctl.backends.base import Stdio
from vmctl.errors import BackendUnavailable, Conflict
from vmctl.model.state import Exit

_CHUNK = 16 << 10
_ESCAPE = b"\x1d"  # ^], as in virsh and telnet: leave the console of a terminal
_QUIET = frozenset({signal.SIGCHLD, signal.SIGPIPE, signal.SIGWINCH})
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


def _lock(path: Path) -> int:
    """QEMU serves one client, and lets a second one wait without a word."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Conflict("the console is in use", hint="leave it there with ^]") from None
    return lock


class ConsoleAttachment:
    """A connected console. ``ended`` tells how the machine ended once the console is cut; ``interrupt`` takes signals.

    A serial line has one stream and no size: everything goes to stdout.
    """

    def __init__(
        self, path: Path, *, ended: Callable[[], Exit | None], interrupt: Callable[[int], None] | None = None
    ) -> None:
        self._lock = _lock(path.with_suffix(".lock"))
        self._ended = ended
        self._interrupt = interrupt
        self._pending = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self.close()
            raise BackendUnavailable(f"cannot reach the console: {error.strerror}") from None
        self._socket.setblocking(False)

    def pump(self, stdio: Stdio) -> Exit | None:
        """See ``Attachment.pump``: until the machine ends (its Exit), or ^] is typed on a terminal (None)."""
        stdin = stdio.stdin
        while True:
            poller = select.poll()
            poller.register(self._socket, select.POLLIN | (select.POLLOUT if self._pending else 0))
            if stdin is not None and not self._pending:
                poller.register(stdin, select.POLLIN)
            if stdio.signals is not None:
                poller.register(stdio.signals, select.POLLIN)
            events = dict(poller.poll())
            if stdio.signals is not None and events.get(stdio.signals, 0) & _READABLE:
                self._take_signals(stdio.signals)
            if events.get(self._socket.fileno(), 0) & _READABLE and not self._take_output(stdio.stdout):
                return self._ended()
            if stdin is not None and events.get(stdin, 0) & _READABLE:
                data = os.read(stdin, _CHUNK)
                if stdio.tty and _ESCAPE in data:
                    return None
                self._pending += data
                stdin = stdin if data else None
            self._send()

    def close(self) -> None:
        self._socket.close()
        os.close(self._lock)

    def _take_output(self, stdout: int) -> bool:
        """Pass on what the machine wrote; False when it is gone."""
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        view = memoryview(data)
        while view:
            view = view[os.write(stdout, view) :]
        return bool(data)

    def _take_signals(self, signals: int) -> None:
        for number in os.read(signals, 64):
            if self._interrupt is not None and number not in _QUIET:
                self._interrupt(number)

    def _send(self) -> None:
        try:
            while self._pending:
                self._pending = self._pending[self._socket.send(self._pending) :]
        except BlockingIOError:
            return
        except OSError:  # gone: the next read says so
            self._pending = b""
