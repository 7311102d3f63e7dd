"""Docker's multiplexed streams: 8 bytes of header (stream, 3 zeros, length in big endian), then the payload."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from vmctl.backends.docker.states import nanoseconds
from vmctl.model.event import LogRecord, Stream

_HEADER = struct.Struct(">BxxxI")
_STREAMS = {1: Stream.STDOUT, 2: Stream.STDERR}


class Demultiplexer:
    """Incremental; a payload is passed on as it arrives, so that a long frame is never held."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._stream = Stream.STDOUT
        self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[Stream, bytes]]:
        """Pieces of output in their order."""
        start = 0
        while start < len(data):
            if not self._left:
                piece = data[start : start + _HEADER.size - len(self._header)]
                self._header += piece
                start += len(piece)
                if len(self._header) == _HEADER.size:
                    number, self._left = _HEADER.unpack(self._header)
                    self._stream = _STREAMS.get(number, Stream.STDERR)  # 3 is the daemon's own complaint
                    self._header.clear()
                continue
            payload = data[start : start + self._left]
            start += len(payload)
            self._left -= len(payload)
            yield self._stream, payload


def log_records(chunks: Iterable[bytes], *, tty: bool) -> Iterator[LogRecord]:
    """The answer of ``/logs?timestamps=1``: each record begins with its time and a space.

    Without a TTY a frame is a record. With one there are no frames: a line is a record.
    """
    for stream, record in _lines(chunks) if tty else _frames(chunks):
        stamp, _, data = record.partition(b" ")
        at = nanoseconds(stamp.decode("ascii", "replace"))
        yield LogRecord(at or 0, stream, data if at else record)


def _frames(chunks: Iterable[bytes]) -> Iterator[tuple[Stream, bytes]]:
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= _HEADER.size:
            number, length = _HEADER.unpack_from(buffer)
            end = _HEADER.size + length
            if len(buffer) < end:
                break
            yield _STREAMS.get(number, Stream.STDERR), bytes(buffer[_HEADER.size : end])
            del buffer[:end]


def _lines(chunks: Iterable[bytes]) -> Iterator[tuple[Stream, bytes]]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield Stream.STDOUT, line + b"\n"
    if rest:
        yield Stream.STDOUT, rest
