"""The supervisor's side of the session protocol (see ``wire.frames``): one connected client."""

from __future__ import annotations

import socket
import struct
from collections import deque

from vmctl.backends.wire.frames import (
    MAX_DATA,
    WINDOW_SIZE,
    Frame,
    FrameParser,
    FrameType,
    encode,
    encode_pairs,
)

_CHUNK = 64 << 10
_UNSENT_LIMIT = 1 << 20


class Session:
    """Output waits in ``_backlog`` for credit and in ``_outgoing`` for the socket; both are bounded by ``hungry``."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.gone = False
        self._parser = FrameParser()
        self._outgoing = bytearray()
        self._backlog: deque[tuple[FrameType, bytes]] = deque()
        self._credit = WINDOW_SIZE
        self._stdin_credit = WINDOW_SIZE

    @property
    def hungry(self) -> bool:
        """Whether it takes more output now: a slow client slows the program down, as a pipe would."""
        return not self._backlog and self._credit > 0 and len(self._outgoing) < _UNSENT_LIMIT

    @property
    def unsent(self) -> bool:
        """Whether something waits for the socket to become writable."""
        return bool(self._outgoing)

    @property
    def idle(self) -> bool:
        """Whether everything said has been sent."""
        return not self._outgoing and not self._backlog

    def receive(self) -> list[Frame]:
        """The frames that arrived; ``gone`` afterwards if the client has left. Raises FrameError."""
        try:
            data = self.sock.recv(_CHUNK)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.gone = True
        frames = list(self._parser.feed(data))
        for frame in frames:
            if frame.type == FrameType.STDIN:
                self._stdin_credit -= len(frame.payload)
                self.gone = self.gone or self._stdin_credit < 0  # a client that sends without credit is none of ours
        return frames

    def send(self, kind: FrameType, payload: bytes = b"") -> None:
        """Queue a control frame, after the output that is waiting for credit if it tells of the end."""
        if self._backlog and kind == FrameType.EXIT:
            self._backlog.append((kind, payload))
        else:
            self._outgoing += encode(kind, payload)
        self.flush()

    def pairs(self, kind: FrameType, *pairs: tuple[str, str]) -> None:
        """Queue a control frame made of pairs."""
        self.send(kind, encode_pairs(pairs))

    def output(self, kind: FrameType, data: bytes) -> None:
        """Queue output of any length."""
        self._backlog.extend((kind, data[start : start + MAX_DATA]) for start in range(0, len(data), MAX_DATA))
        self._spend()
        self.flush()

    def grant(self, payload: bytes) -> None:
        """A WINDOW of the client's."""
        if len(payload) == 4:
            self._credit = min(WINDOW_SIZE, self._credit + struct.unpack(">I", payload)[0])
        self._spend()
        self.flush()

    def took_stdin(self, count: int) -> None:
        """Give the client credit for input that has been disposed of."""
        self._stdin_credit += count
        self.send(FrameType.WINDOW, struct.pack(">I", count))

    def _spend(self) -> None:
        while self._backlog:
            kind, data = self._backlog[0]
            if kind == FrameType.EXIT:
                self._outgoing += encode(kind, data)
                self._backlog.popleft()
                continue
            if self._credit <= 0:
                return
            part = data[: self._credit]
            self._credit -= len(part)
            self._outgoing += encode(kind, part)
            self._backlog.popleft()
            if len(part) < len(data):
                self._backlog.appendleft((kind, data[len(part) :]))

    def flush(self) -> None:
        """Send what the socket takes."""
        try:
            while self._outgoing:
                sent = self.sock.send(memoryview(self._outgoing)[:_CHUNK])
                del self._outgoing[:sent]
        except BlockingIOError:
            return
        except OSError:
            self.gone = True
            self._outgoing.clear()
