"""Writes the instance's log in the form of ``wire.logfile``, within a bounded space.

That module is not imported: with it come msgspec and pathlib, 20 ms and 3 MiB of every supervisor. A test reads back
through it what is written here.
"""

from __future__ import annotations

import os
import struct
import time

from vmctl.backends.wire.frames import encode_pairs

STDOUT, STDERR = 1, 2
_EXIT = 0
_MAGIC = b"\xf5VL1"
_REST = struct.Struct(">BQI")
_MAX_RECORD = 64 << 10
_FILE_SIZE = 16 << 20
_ROTATED = 4


class LogWriter:
    """Appends records; a file that has grown to ``file_size`` bytes becomes ``path.0``, and the fifth is dropped."""

    def __init__(self, path: str, *, file_size: int = _FILE_SIZE) -> None:
        self._path = path
        self._file_size = file_size
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size

    def output(self, stream: int, data: bytes) -> None:
        """One record, of at most 64 KiB, stamped with the time of now."""
        self._append(stream, time.time_ns(), data[:_MAX_RECORD])

    def exit(self, at: int, pairs: list[tuple[str, str]]) -> None:
        """The record of how the program ended."""
        self._append(_EXIT, at, encode_pairs(pairs))

    def _append(self, stream: int, at: int, data: bytes) -> None:
        record = _MAGIC + _REST.pack(stream, at, len(data)) + data
        if self._size + len(record) > self._file_size:
            self._rotate()
        try:
            self._size += os.write(self._fd, record)
        except OSError:
            return  # a full disk loses the log, not the program

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _rotate(self) -> None:
        os.close(self._fd)
        for number in reversed(range(_ROTATED - 1)):
            if os.path.exists(f"{self._path}.{number}"):
                os.rename(f"{self._path}.{number}", f"{self._path}.{number + 1}")
        os.rename(self._path, f"{self._path}.0")
        self._fd = self._open()
        self._size = 0
