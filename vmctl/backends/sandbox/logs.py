"""Reading an instance's log while it may still grow."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from vmctl.backends.wire.logfile import RecordParser, read_records
from vmctl.model.event import LogRecord
from vmctl.model.state import Exit

_POLL = 0.05
_CHUNK = 64 << 10


def read_log(path: Path, alive: Callable[[], bool], follow: bool, tail: int | None) -> Iterator[LogRecord]:
    """Every record, or those of the last ``tail`` lines; with ``follow`` until ``alive()`` is false."""
    position, inode = _mark(path)
    past = (record for record in read_records(path) if not isinstance(record, Exit))
    yield from past if tail is None else _last_lines(past, tail)
    if follow:
        yield from _follow(path, alive, position, inode)


def _mark(path: Path) -> tuple[int, int]:
    try:
        info = path.stat()
    except FileNotFoundError:
        return 0, 0
    return info.st_size, info.st_ino


def _last_lines(records: Iterator[LogRecord], count: int) -> Iterator[LogRecord]:
    """The end of the log, cut inside a record where a line begins there."""
    kept: deque[LogRecord] = deque()
    lines = 0
    for record in records:
        kept.append(record)
        lines += record.data.count(b"\n")
        while kept and lines - kept[0].data.count(b"\n") >= count + 1:
            lines -= kept.popleft().data.count(b"\n")
    surplus = lines + (1 if kept and not kept[-1].data.endswith(b"\n") else 0) - count
    for record in kept:
        data = record.data
        while surplus > 0 and data:
            _, newline, rest = data.partition(b"\n")
            surplus -= 1 if newline else 0
            data = rest
        if data:
            yield record._replace(data=data)


def _follow(path: Path, alive: Callable[[], bool], position: int, inode: int) -> Iterator[LogRecord]:
    parser = RecordParser()
    while True:
        living = alive()
        if path.exists():
            with path.open("rb") as stream:
                if _mark(path)[1] != inode:  # rotated: the rest of the old file is the youngest of the rotated ones
                    rotated = path.with_name(f"{path.name}.0")
                    yield from _from(rotated, position, parser) if rotated.exists() else ()
                    position, inode = 0, _mark(path)[1]
                stream.seek(position)
                while chunk := stream.read(_CHUNK):
                    position += len(chunk)
                    yield from (record for record in parser.feed(chunk) if not isinstance(record, Exit))
        if not living:
            return
        time.sleep(_POLL)


def _from(path: Path, position: int, parser: RecordParser) -> Iterator[LogRecord]:
    with path.open("rb") as stream:
        stream.seek(position)
        while chunk := stream.read(_CHUNK):
            yield from (record for record in parser.feed(chunk) if not isinstance(record, Exit))
