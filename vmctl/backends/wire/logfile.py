"""The log of an instance as a file of records, written by a supervisor or by a machine's init.

A record is MAGIC, stream (1 byte), time (8 bytes, nanoseconds since the epoch), length (4 bytes), big endian, then
the data. A file may begin in the middle of a record (rotation cuts anywhere): a reader MUST skip to the next MAGIC.
Stream EXIT carries pairs ``code``, ``signal``, ``oom``: how the main process ended; the last one counts.
Rotated files are ``path.0`` (the youngest), ``path.1`` ..., as virtlogd names them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from vmctl.backends.wire.frames import decode_pairs, encode_pairs
from vmctl.model.event import LogRecord, Stream
from vmctl.model.state import Exit

MAGIC = b"\xf5VL1"
_REST = struct.Struct(">BQI")
_HEADER_SIZE = len(MAGIC) + _REST.size
MAX_RECORD = 64 << 10
_ROTATED = 8

_EXIT = 0
_STREAMS = {1: Stream.STDOUT, 2: Stream.STDERR}
_NUMBERS = {stream: number for number, stream in _STREAMS.items()}


def encode_record(record: LogRecord) -> bytes:
    """One record as bytes; ``data`` longer than MAX_RECORD MUST be split by the caller."""
    return MAGIC + _REST.pack(_NUMBERS[record.stream], record.at, len(record.data)) + record.data


def encode_exit(end: Exit) -> bytes:
    """The record that says how the main process ended."""
    pairs = [("code", str(end.code)), ("oom", str(int(end.oom)))]
    if end.signal is not None:
        pairs.append(("signal", str(end.signal)))
    payload = encode_pairs(pairs)
    return MAGIC + _REST.pack(_EXIT, end.at or 0, len(payload)) + payload


def exit_of_pairs(payload: bytes, at: int | None = None) -> Exit:
    """An Exit from the pairs of an EXIT frame or record; what is missing or no number counts as 125."""
    values = dict(decode_pairs(payload))

    def number(key: str) -> int | None:
        text = values.get(key, "")
        return int(text) if text.isdecimal() and len(text) < 10 else None

    code = number("code")
    return Exit(code=125 if code is None else code, signal=number("signal"), oom=values.get("oom") == "1", at=at)


class RecordParser:
    """Incremental: feed bytes, take records; resynchronises on MAGIC after anything that is no record."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[LogRecord | Exit]:
        """Yield what ``data`` completed, in order."""
        self._buffer += data
        while True:
            start = self._buffer.find(MAGIC)
            if start < 0:
                del self._buffer[: max(0, len(self._buffer) - len(MAGIC) + 1)]
                return
            del self._buffer[:start]
            if len(self._buffer) < _HEADER_SIZE:
                return
            stream, at, length = _REST.unpack_from(self._buffer, len(MAGIC))
            if length > MAX_RECORD or (stream != _EXIT and stream not in _STREAMS):
                del self._buffer[:1]
                continue
            end = _HEADER_SIZE + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEADER_SIZE:end])
            del self._buffer[:end]
            yield exit_of_pairs(payload, at) if stream == _EXIT else LogRecord(at, _STREAMS[stream], payload)


def log_files(path: Path) -> list[Path]:
    """The log's files that exist, oldest first."""
    candidates = [path.with_name(f"{path.name}.{number}") for number in reversed(range(_ROTATED))]
    return [file for file in (*candidates, path) if file.exists()]


def read_records(path: Path) -> Iterator[LogRecord | Exit]:
    """Every record of the log, oldest first, rotated files included."""
    parser = RecordParser()
    for file in log_files(path):
        with file.open("rb") as stream:
            while chunk := stream.read(MAX_RECORD):
                yield from parser.feed(chunk)


def last_exit(path: Path) -> Exit | None:
    """How the main process last ended, or None if the log does not say."""
    ends = [record for record in read_records(path) if isinstance(record, Exit)]
    return ends[-1] if ends else None
