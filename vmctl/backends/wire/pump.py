"""Forwarding between a session and the caller's streams: the Attachment of machines and sandboxes."""

from __future__ import annotations

import os
import select
import signal
import struct

from vmctl.backends.base import Stdio
from vmctl.backends.wire.client import Session, SessionCut, error_of, exit_of
from vmctl.backends.wire.frames import MAX_DATA, WINDOW_SIZE, Frame, FrameError, FrameType
from vmctl.errors import AttachFailed
from vmctl.model.state import Exit

_PIPE_ROOM = 4096
"""What a pipe that polls writable takes without blocking (PIPE_BUF): our streams are shared, so never O_NONBLOCK."""
_UNSENT_LIMIT = 256 << 10
_ACKNOWLEDGE_AT = WINDOW_SIZE // 4
_NOT_FORWARDED = frozenset({signal.SIGCHLD, signal.SIGPIPE, signal.SIGWINCH})
_ENDED = select.POLLHUP | select.POLLERR | select.POLLNVAL


class WireAttachment:
    """An Attachment over a session that has sent BOOT, EXEC or ATTACH."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def pump(self, stdio: Stdio) -> Exit | None:
        """See ``Attachment.pump``. Raises also AttachFailed when the peer breaks the protocol."""
        try:
            return _Pump(self._session, stdio).run()
        except FrameError as error:
            raise AttachFailed(f"the instance's init broke the protocol: {error}") from None

    def close(self) -> None:
        self._session.close()


class _Output:
    """One local stream with what it has not taken yet; broken (EPIPE and the like) it swallows everything."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._queue = bytearray()
        self.broken = False

    def __bool__(self) -> bool:
        return bool(self._queue)

    def put(self, data: bytes) -> None:
        self._queue += data

    def write(self) -> int:
        """Write what does not block; how many bytes are disposed of. To be called when ``fd`` polls writable."""
        poller = select.poll()
        poller.register(self.fd, select.POLLOUT)
        done = 0
        try:
            while self._queue and not self.broken:
                count = os.write(self.fd, memoryview(self._queue)[:_PIPE_ROOM])
                del self._queue[:count]
                done += count
                if not poller.poll(0):
                    break
        except BlockingIOError:
            return done
        except OSError:
            self.broken = True
        if self.broken:
            done += len(self._queue)
            self._queue.clear()
        return done


class _Pump:
    """The state of one ``pump`` call."""

    def __init__(self, session: Session, stdio: Stdio) -> None:
        self._session = session
        self._stdio = stdio
        self._stdin = stdio.stdin
        self._credit = WINDOW_SIZE
        self._outputs = {FrameType.STDOUT: _Output(stdio.stdout), FrameType.STDERR: _Output(stdio.stderr)}
        self._exit: Exit | None = None
        self._unacknowledged = 0
        self._over = False
        self._abandon = False

    def run(self) -> Exit | None:
        """Until the process has ended, or the session, and the output is written."""
        if self._stdio.tty:
            self._send_size()
        while not (self._over and (self._abandon or not any(self._outputs.values()))):
            if self._session.has_kept():
                self._take_frames()
                continue
            events = dict(self._poll())
            if self._stdio.signals is not None and events.get(self._stdio.signals, 0) & (select.POLLIN | _ENDED):
                self._take_signals(self._stdio.signals)
            self._write_outputs(events)
            if self._over:
                continue
            if self._outputs[FrameType.STDOUT].broken:
                return None  # nobody reads any more (`| head`): the session is over, the process may live on
            if events.get(self._session.fileno(), 0):
                self._session.flush()
                self._take_frames()
            if self._stdin is not None and events.get(self._stdin, 0) & (select.POLLIN | _ENDED):
                self._take_stdin(self._stdin)
        return self._exit

    def _poll(self) -> list[tuple[int, int]]:
        wanted: dict[int, int] = {}
        if not self._over:
            wanted[self._session.fileno()] = self._session.poll_events
            if self._stdin is not None and self._credit and self._session.unsent < _UNSENT_LIMIT:
                wanted[self._stdin] = select.POLLIN
        if self._stdio.signals is not None:
            wanted[self._stdio.signals] = wanted.get(self._stdio.signals, 0) | select.POLLIN
        for output in self._outputs.values():
            if output:  # stdin, stdout and stderr may be one descriptor (a terminal)
                wanted[output.fd] = wanted.get(output.fd, 0) | select.POLLOUT
        poller = select.poll()
        for fd, events in wanted.items():
            poller.register(fd, events)
        return poller.poll()

    def _take_frames(self) -> None:
        try:
            frames = self._session.receive()
        except SessionCut:
            self._over = True
            return
        for frame in frames:
            self._take_frame(frame)
            if self._over:
                return

    def _take_frame(self, frame: Frame) -> None:
        match frame.type:
            case FrameType.STDOUT | FrameType.STDERR:
                if frame.payload:
                    self._outputs[FrameType(frame.type)].put(frame.payload)
            case FrameType.WINDOW if len(frame.payload) == 4:
                self._credit = min(WINDOW_SIZE, self._credit + struct.unpack(">I", frame.payload)[0])
            case FrameType.EXIT:
                self._exit = exit_of(frame)
                self._over = True
                self._session.close()  # nothing follows; a machine waits for this before it powers off
            case FrameType.ERROR:
                raise error_of(frame.payload)
            case _:
                pass  # READY, STARTED, PONG and unknown types say nothing here

    def _take_stdin(self, stdin: int) -> None:
        try:
            data = os.read(stdin, min(MAX_DATA, self._credit))
        except BlockingIOError:
            return
        except OSError:  # EIO: a terminal that hung up, or that we may not read in the background
            data = b""
        if data:
            self._credit -= len(data)
            self._session.queue(FrameType.STDIN, data)
        else:
            self._stdin = None
            self._session.queue(FrameType.STDIN_EOF)

    def _take_signals(self, signals: int) -> None:
        try:
            numbers = os.read(signals, 64)
        except BlockingIOError:
            return
        for number in numbers:
            if number == signal.SIGWINCH and self._stdio.tty:
                self._send_size()
            elif number not in _NOT_FORWARDED:
                # With the process gone and a local stream that blocks, the user wants out.
                self._abandon = self._over
                if not self._over:
                    self._session.queue(FrameType.SIGNAL, bytes([number]))

    def _send_size(self) -> None:
        try:
            size = os.get_terminal_size(self._stdio.stdout)
        except OSError:
            return
        self._session.queue(FrameType.WINCH, struct.pack(">HH", size.lines & 0xFFFF, size.columns & 0xFFFF))

    def _write_outputs(self, events: dict[int, int]) -> None:
        done = 0
        for output in self._outputs.values():
            if output and events.get(output.fd, 0) & (select.POLLOUT | _ENDED):
                done += output.write()
        self._unacknowledged += done
        # Each acknowledgement costs the peer an interrupt, so not one for every few kilobytes.
        late = self._unacknowledged >= _ACKNOWLEDGE_AT or not any(self._outputs.values())
        if self._unacknowledged and late and not self._over:
            self._session.acknowledge(self._unacknowledged)
            self._unacknowledged = 0
