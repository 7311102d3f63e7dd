"""The client's side of the session protocol: one connection to a machine's init or a sandbox's supervisor.

The peer is not trusted. Whatever it sends, the client holds at most one frame and WINDOW_SIZE bytes of output, never
blocks in a read or write of the socket, and writes only to the streams it was given.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import struct
import time
from collections import deque
from pathlib import Path

import msgspec

from vmctl.backends.wire.frames import (
    MAX_PAYLOAD,
    WINDOW_SIZE,
    Frame,
    FrameError,
    FrameParser,
    FrameType,
    decode_pairs,
    encode,
    encode_pairs,
)
from vmctl.backends.wire.logfile import exit_of_pairs
from vmctl.errors import (
    AttachFailed,
    BackendUnavailable,
    CannotInvoke,
    ProgramNotFound,
    TimedOut,
    VmctlError,
    WrongState,
)
from vmctl.model.process import Process
from vmctl.model.state import Exit

PAD_AFTER = 0.25
"""Seconds without an answer to SYNC after which a frame left half written by an earlier client is assumed."""
ANSWER_TIMEOUT = 30.0
"""Seconds a peer that has answered SYNC may take for any other answer."""
_CHUNK = 64 << 10
_MESSAGE_LIMIT = 300
_SUN_PATH = 100

_UNSENT_LIMIT = 2 * MAX_PAYLOAD
"""A peer that does not take what it is sent is not read any more, or its output could make acknowledgements pile up."""

_OUTPUT = (FrameType.STDOUT, FrameType.STDERR)


class SessionCut(Exception):
    """The stream has ended: the peer, or the machine around it, is gone."""


class Ready(msgspec.Struct, frozen=True):
    """What the peer says of itself: ``state`` is waiting (for BOOT), running or ended."""

    version: str
    state: str
    pid: int


class Session:
    """A connected and synchronised stream. ``release`` is a descriptor closed with it (a port's lock)."""

    def __init__(self, sock: socket.socket, *, release: int | None = None) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._release = release
        self._parser = FrameParser()
        self._outgoing = bytearray()
        self._kept: deque[Frame] = deque()
        self._unacknowledged = 0
        self.ready = Ready("", "", 0)

    # -- the stream ---------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def unsent(self) -> int:
        """Bytes queued that the socket has not taken."""
        return len(self._outgoing)

    @property
    def poll_events(self) -> int:
        """What to poll this session for."""
        unsent = len(self._outgoing)
        return (select.POLLIN if unsent < _UNSENT_LIMIT else 0) | (select.POLLOUT if unsent else 0)

    def queue(self, kind: FrameType, payload: bytes = b"") -> None:
        """Queue a frame and send what the socket takes now. A frame once begun is always finished."""
        self._outgoing += encode(kind, payload)
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes without blocking.

        To a peer that is gone it sends nothing, silently: what that peer said last, EXIT perhaps, is still to be read.
        """
        try:
            while self._outgoing:
                sent = self._sock.send(memoryview(self._outgoing)[:_CHUNK])
                del self._outgoing[:sent]
        except BlockingIOError:
            return
        except OSError:
            self._outgoing.clear()

    def receive(self) -> list[Frame]:
        """The frames that have arrived, kept ones first. Raises SessionCut, FrameError."""
        if self._kept:
            frames = list(self._kept)
            self._kept.clear()
            return frames
        frames = list(self._parser.feed(self._read()))
        for frame in frames:
            if frame.type in _OUTPUT:
                self._unacknowledged += len(frame.payload)
        if self._unacknowledged > WINDOW_SIZE:
            raise FrameError("more output than it has credit for")
        return frames

    def acknowledge(self, count: int) -> None:
        """Give the peer credit for ``count`` bytes of output that have been disposed of."""
        self._unacknowledged -= count
        self.queue(FrameType.WINDOW, struct.pack(">I", count))

    def has_kept(self) -> bool:
        """Whether ``receive`` has something without reading the socket."""
        return bool(self._kept)

    def close(self) -> None:
        """Let go. A process that this session started by EXEC is ended by the peer."""
        self._sock.close()
        if self._release is not None:
            os.close(self._release)
            self._release = None

    def _read(self) -> bytes:
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise SessionCut(str(error)) from None
        if not data:
            raise SessionCut("end of file")
        return data

    def _wait(self, deadline: float) -> None:
        """Until something can be read, sending what is queued meanwhile. Raises TimedOut."""
        poller = select.poll()
        poller.register(self._sock, self.poll_events)
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not poller.poll(remaining * 1000):
            raise TimedOut("the instance's init does not answer", hint="see 'vmctl logs' and the serial console")
        self.flush()

    # -- handshake and answers ----------------------------------------------------------------------------------

    def synchronise(self, deadline: float, *, fresh: bool = False) -> None:
        """Exchange SYNC and take READY. ``fresh``: nobody has written to this peer before, so never pad.

        Raises SessionCut, TimedOut, FrameError.
        """
        sync = encode(FrameType.SYNC, secrets.token_bytes(16))
        self._outgoing += sync
        self.flush()
        pad_at = deadline if fresh else min(deadline, time.monotonic() + PAD_AFTER)
        seen = b""
        while True:
            try:
                self._wait(pad_at)
            except TimedOut:
                if pad_at == deadline:
                    raise
                pad_at = deadline
                self._outgoing += bytes(MAX_PAYLOAD) + sync
                self.flush()
                continue
            seen += self._read()
            before, found, rest = seen.partition(sync)
            if found:
                break
            seen = before[-len(sync) :]
        self._kept.extend(self._parser.feed(rest))
        ready = dict(decode_pairs(self.expect(FrameType.READY, deadline).payload))
        pid = ready.get("pid", "")
        self.ready = Ready(ready.get("version", ""), ready.get("state", ""), int(pid) if pid.isdecimal() else 0)

    def expect(self, kind: FrameType, deadline: float) -> Frame:
        """The next frame of this type; output and EXIT met on the way are kept for ``receive``.

        An ERROR that arrives first is raised (see :func:`error_of`). Raises SessionCut, TimedOut, FrameError.
        """
        kept: deque[Frame] = deque()
        answer: Frame | None = None
        ended = False
        while answer is None:
            for frame in self.receive():
                if answer is None and frame.type == kind:
                    answer = frame
                elif answer is None and frame.type == FrameType.ERROR:
                    raise error_of(frame.payload)
                elif not ended and (frame.type == FrameType.EXIT or (frame.type in _OUTPUT and frame.payload)):
                    kept.append(frame)  # output is bounded by its credit
                    ended = frame.type == FrameType.EXIT
            if answer is None:
                self._wait(deadline)
        self._kept = kept
        return answer

    def settle(self) -> None:
        """Wait until the peer has acted on everything sent (closing earlier could lose it). Raises what it answers."""
        token = secrets.token_bytes(8)
        deadline = time.monotonic() + ANSWER_TIMEOUT
        self.queue(FrameType.PING, token)
        while self.expect(FrameType.PONG, deadline).payload != token:
            pass

    # -- requests -----------------------------------------------------------------------------------------------

    def boot(self, pairs: list[tuple[str, str]]) -> None:
        """Set the machine up and start its main process; this session is attached to it.

        Raises ProgramNotFound, CannotInvoke, WrongState (booted before), TimedOut, AttachFailed.
        """
        with _translated():
            self.queue(FrameType.BOOT, encode_pairs(pairs))
            self.expect(FrameType.STARTED, time.monotonic() + ANSWER_TIMEOUT)

    def exec(self, process: Process, size: tuple[int, int] | None = None) -> None:
        """Start a process of this session (``size``: rows and columns of its TTY); ``pump`` says how it goes."""
        with _translated():
            self.queue(FrameType.EXEC, encode_pairs(process_pairs(process, size)))

    def attach(self, *, stdin: bool) -> None:
        """Join the main process: its output from now on, its end, and its stdin if wanted and open."""
        with _translated():
            self.queue(FrameType.ATTACH, encode_pairs([("stdin", str(int(stdin)))]))
            self.settle()

    def signal(self, number: int) -> None:
        """Send a signal to the session's process, or the main one if it has none. Raises WrongState if it has ended."""
        with _translated():
            self.queue(FrameType.SIGNAL, bytes([number]))
            self.settle()

    def ping(self) -> float:
        """Seconds that a round trip takes."""
        started = time.monotonic()
        with _translated():
            self.settle()
        return time.monotonic() - started

    def poweroff(self, timeout: float, signal: int) -> None:
        """Have the main process ended (``signal``, after ``timeout`` seconds SIGKILL), then all; wait for that.

        Raises TimedOut when the peer is still there 10 seconds after the time-out.
        """
        pairs = [("timeout", str(max(0, round(timeout * 1000)))), ("signal", str(signal))]
        deadline = time.monotonic() + timeout + 10
        try:
            self.queue(FrameType.POWEROFF, encode_pairs(pairs))
            while True:
                self._wait(deadline)
                for frame in self.receive():
                    if frame.type in _OUTPUT and frame.payload:
                        self.acknowledge(len(frame.payload))
        except SessionCut:
            return
        except FrameError as error:
            raise AttachFailed(f"the instance's init broke the protocol: {error}") from None


class _translated:  # noqa: N801 - reads as a phrase: "with _translated():"
    """Inside, what goes wrong on the stream becomes AttachFailed."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SessionCut):
            raise AttachFailed("the instance ended during the request", hint="see 'vmctl logs'") from None
        if isinstance(error, FrameError):
            raise AttachFailed(f"the instance's init broke the protocol: {error}") from None


def error_of(payload: bytes) -> VmctlError:
    """The typed error that an ERROR frame stands for."""
    values = dict(decode_pairs(payload))
    message = "".join(c if c.isprintable() else "?" for c in values.get("message", "")[:_MESSAGE_LIMIT])
    match values.get("code"):
        case "not-found":
            return ProgramNotFound(message or "program not found")
        case "cannot-invoke":
            return CannotInvoke(message or "cannot execute")
        case "busy" | "no-process":
            return WrongState(message or "the instance's main process does not run")
        case _:
            return AttachFailed(f"the instance's init refused: {message or 'bad request'}")


def process_pairs(process: Process, size: tuple[int, int] | None = None) -> list[tuple[str, str]]:
    """What EXEC says of a process (and BOOT of the main one)."""
    pairs = [("argv", argument) for argument in process.argv]
    pairs += [("env", f"{name}={value}") for name, value in process.env.items()]
    pairs += [("cwd", process.workdir), ("user", process.user)]
    pairs += [("tty", str(int(process.tty))), ("stdin", str(int(process.stdin)))]
    if size is not None:
        pairs += [("rows", str(size[0])), ("cols", str(size[1]))]
    return pairs


def connect(path: Path, timeout: float, *, fresh: bool = False, release: int | None = None) -> Session:
    """Connect to a unix socket and synchronise, in ``timeout`` seconds altogether.

    Raises BackendUnavailable (nobody listens), AttachFailed (ended, or no peer of ours), TimedOut.
    """
    deadline = time.monotonic() + timeout
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    session = Session(sock, release=release)
    try:
        _connect_path(sock, path)
        with _translated():
            session.synchronise(deadline, fresh=fresh)
    except OSError as error:
        session.close()
        raise BackendUnavailable(f"cannot reach the instance's init: {error.strerror or error}") from None
    except BaseException:
        session.close()
        raise
    return session


def _connect_path(sock: socket.socket, path: Path) -> None:
    """connect(2), also where the path is longer than a socket address holds."""
    if len(os.fsencode(path)) <= _SUN_PATH:
        sock.connect(str(path))
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def exit_of(frame: Frame) -> Exit:
    """The Exit that an EXIT frame carries."""
    return exit_of_pairs(frame.payload, time.time_ns())
