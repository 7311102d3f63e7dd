"""Frames: how they are laid out, and an incremental parser that a hostile peer cannot make allocate.

A frame is ``type`` (1 byte), ``length`` (4 bytes, big endian) and ``length`` bytes. Type 0 is the exception: a NOP of
one single byte, so that a run of zeros as long as the longest frame completes whatever frame a dead client left half
written, and ends on a frame boundary. A client begins with SYNC(nonce); the peer drops what it has queued for an
earlier client and answers SYNC(nonce); the client drops everything before it. Without an answer (a SYNC swallowed by
the rest of such a frame may even have looked like a frame of absurd length) the client sends the zeros and SYNC again;
a peer that has seen what is no frame passes over everything up to the next SYNC.

Structured payloads are a list of pairs ``key NUL value NUL``, keys may repeat (``argv``, ``env``): simple to
parse in C, no escaping. Numbers are decimal text.

=========  ==  =========  ==============================================================================
type       no  direction  payload
=========  ==  =========  ==============================================================================
NOP         0  both       none, and no length either
SYNC        1  both       16 bytes nonce
READY       2  to client  pairs: version, state (waiting | running | ended), pid; after each SYNC
BOOT        3  to peer    pairs: the machine's set-up and its main process (init only, once)
EXEC        4  to peer    pairs: a process of this session: argv*, env*, cwd, user, tty, stdin, rows, cols
ATTACH      5  to peer    pairs: stdin (0|1): join the main process
STDIN       6  to peer    bytes
STDIN_EOF   7  to peer    none
STDOUT      8  to client  bytes
STDERR      9  to client  bytes
EXIT       10  to client  pairs: code, signal, oom: the session's process has ended, after all its output
SIGNAL     11  to peer    1 byte, the signal's number, for the session's process
WINCH      12  to peer    2 x 2 bytes, big endian: rows, columns
POWEROFF   13  to peer    pairs: timeout, signal: end the main process, then everything
PING       14  to peer    any bytes
PONG       15  to client  the same bytes
ERROR      16  to client  pairs: code (not-found | cannot-invoke | busy | no-process | bad-request), message
WINDOW     17  both       4 bytes, big endian: the receiver of STDIN (or of STDOUT and STDERR together) took so
                          many more bytes
STARTED    18  to client  pairs: pid: EXEC or BOOT has started its process
=========  ==  =========  ==============================================================================

Credit: each side may have WINDOW_SIZE bytes of data frames under way that the other has not acknowledged by WINDOW.
Control frames need no credit, so a child that does not read its stdin never blocks SIGNAL or POWEROFF.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

MAX_DATA = 64 << 10
"""Longest payload of STDIN, STDOUT and STDERR."""
MAX_PAYLOAD = 1 << 20
"""Longest payload of any frame (BOOT and EXEC carry an environment)."""
WINDOW_SIZE = 256 << 10

_HEADER = struct.Struct(">BI")


class FrameType(IntEnum):
    """See the table in the module's docstring."""

    NOP = 0
    SYNC = 1
    READY = 2
    BOOT = 3
    EXEC = 4
    ATTACH = 5
    STDIN = 6
    STDIN_EOF = 7
    STDOUT = 8
    STDERR = 9
    EXIT = 10
    SIGNAL = 11
    WINCH = 12
    POWEROFF = 13
    PING = 14
    PONG = 15
    ERROR = 16
    WINDOW = 17
    STARTED = 18


class Frame(NamedTuple):
    """``type`` stays an int: frames of unknown types are passed on, to be ignored."""

    type: int
    payload: bytes


class FrameError(Exception):
    """The peer broke the protocol: the stream cannot be used any more."""


def encode(kind: FrameType, payload: bytes = b"") -> bytes:
    """One frame as bytes. Raises ValueError for a payload over MAX_PAYLOAD."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"{kind.name} frame of {len(payload)} bytes")
    return _HEADER.pack(kind, len(payload)) + payload


def encode_pairs(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Pairs as ``key NUL value NUL``; surrogate escapes restore bytes that are not UTF-8. NULs are refused."""
    parts: list[bytes] = []
    for key, value in pairs:
        for text in (key, value):
            raw = text.encode("utf-8", "surrogateescape")
            if b"\0" in raw:
                raise ValueError(f"NUL byte in {key}")
            parts += (raw, b"\0")
    return b"".join(parts)


def decode_pairs(payload: bytes) -> list[tuple[str, str]]:
    """The inverse of :func:`encode_pairs`; an incomplete last pair is dropped."""
    texts = [part.decode("utf-8", "surrogateescape") for part in payload.split(b"\0")[:-1]]
    return list(zip(texts[::2], texts[1::2], strict=False))


class FrameParser:
    """Feed it bytes, take frames. Holds at most one frame (MAX_PAYLOAD) and what one feed brought."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield every frame completed by ``data``. Raises FrameError for a length over MAX_PAYLOAD."""
        self._buffer += data
        start = 0
        while start < len(self._buffer):
            if self._buffer[start] == FrameType.NOP:
                start += 1
                continue
            if len(self._buffer) - start < _HEADER.size:
                break
            kind, length = _HEADER.unpack_from(self._buffer, start)
            if length > MAX_PAYLOAD:
                raise FrameError(f"frame of {length} bytes")
            end = start + _HEADER.size + length
            if end > len(self._buffer):
                break
            yield Frame(kind, bytes(self._buffer[start + _HEADER.size : end]))
            start = end
        del self._buffer[:start]
