"""Output of machines: records of the init for image machines, the serial console's text for the others."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vmctl.backends.libvirt import folder
from vmctl.backends.wire import machine
from vmctl.backends.wire.logfile import RecordParser, log_files
from vmctl.errors import PermissionDenied
from vmctl.model.event import LogRecord, Stream

_CHUNK = 64 << 10
_POLL = 0.1
_CONSOLE_TAIL = 8192


def records(directory: Path, *, init: bool, ended: Callable[[], bool] | None, tail: int | None) -> Iterator[LogRecord]:
    """All records, oldest first; ``tail`` keeps the last lines. With ``ended`` go on until that is true.

    A machine whose init said nothing (it failed to boot, say) shows its console instead.
    """
    path = machine.log_path(directory)
    if init and not any(file.stat().st_size for file in log_files(path)) and (ended is None or ended()):
        init = False
    reader = _Follower(path if init else folder.console_log(directory))
    decode = _decode_records if init else _decode_console
    parser = RecordParser()
    past = decode(parser, reader.read(), reader.at)
    yield from past if tail is None else _last_lines(past, tail)
    while ended is not None:
        over = ended()  # asked before the last read: what was written before the end is not lost
        yield from decode(parser, reader.read(), reader.at)
        if over:
            return
        time.sleep(_POLL)


def console_tail(directory: Path, lines: int = 5) -> str:
    """The last lines of the console for an error message: printable, one line."""
    try:
        with folder.console_log(directory).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - _CONSOLE_TAIL))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    last = [line.strip() for line in text.splitlines() if line.strip()][-lines:]
    return " | ".join("".join(c for c in line if c.isprintable())[:160] for line in last)


class _Follower:
    """Reads a log with its rotated files, then what is added to it, over rotations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0
        self.at = 0

    def read(self) -> Iterator[bytes]:
        """Everything new since the last call, in pieces; ``at`` is when the file was last written, in ns."""
        try:
            for file in self._unread():
                with file.open("rb") as stream:
                    stream.seek(self._offset)
                    while chunk := stream.read(_CHUNK):
                        self.at = file.stat().st_mtime_ns
                        yield chunk
                    self._offset = stream.tell()
                    self._inode = file.stat().st_ino
        except PermissionError as error:
            raise PermissionDenied(f"cannot read {error.filename}", hint="read it as root") from error

    def _unread(self) -> list[Path]:
        """Files from the one read last on. If that one is gone (rotated away), from the oldest on."""
        files = log_files(self._path)
        for index, file in enumerate(files):
            if file.stat().st_ino == self._inode:
                return self._after(files, index)
        self._offset = 0
        return files

    def _after(self, files: list[Path], index: int) -> list[Path]:
        if files[index].stat().st_size > self._offset or index == len(files) - 1:
            return [files[index]]  # the next files are for the next call, which finds this one read to its end
        self._offset = 0
        return files[index + 1 :]


def _decode_records(parser: RecordParser, chunks: Iterable[bytes], _at: int) -> Iterator[LogRecord]:
    for chunk in chunks:
        for record in parser.feed(chunk):
            if isinstance(record, LogRecord):
                yield record


def _decode_console(_parser: RecordParser, chunks: Iterable[bytes], at: int) -> Iterator[LogRecord]:
    """The console has no times of its own: the log file's is the best there is."""
    for chunk in chunks:
        yield LogRecord(at or time.time_ns(), Stream.CONSOLE, chunk)


def _last_lines(past: Iterable[LogRecord], count: int) -> Iterator[LogRecord]:
    """The records that hold the last ``count`` lines, the first of them cut at the line's beginning.

    A piece without a newline at the very end counts as a line.
    """
    kept: deque[LogRecord] = deque()
    newlines = 0
    for record in past:
        kept.append(record)
        newlines += record.data.count(b"\n")
        while kept and newlines - kept[0].data.count(b"\n") > count:
            newlines -= kept.popleft().data.count(b"\n")
    if not kept:
        return
    surplus = newlines + (not kept[-1].data.endswith(b"\n")) - max(count, 0)
    while surplus > 0 and kept:
        first = kept.popleft()
        inside = first.data.count(b"\n")
        if inside >= surplus:
            rest = first.data.split(b"\n", surplus)[-1]
            if rest:
                kept.appendleft(first._replace(data=rest))
        surplus -= inside
    yield from kept
