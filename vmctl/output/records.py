"""Log records: each stream where it belongs, with times if wanted."""

from __future__ import annotations

from collections.abc import Iterable

from vmctl.model.event import LogRecord, Stream
from vmctl.output.machine import rfc3339
from vmctl.output.streams import answer_bytes


def show_log(records: Iterable[LogRecord], *, timestamps: bool) -> None:
    """Write each record as it comes; with ``timestamps`` each line begins with the time of its first byte."""
    line_open = dict.fromkeys(Stream, False)
    for record in records:
        data = record.data
        if timestamps:
            data = _with_times(record, line_open)
        answer_bytes(data, to_stderr=record.stream is Stream.STDERR)


def _with_times(record: LogRecord, line_open: dict[Stream, bool]) -> bytes:
    stamp = rfc3339(record.at).encode() + b" "
    lines = record.data.splitlines(keepends=True)
    stamped = b"".join(stamp + line for line in lines) if lines else b""
    if line_open[record.stream]:
        stamped = stamped[len(stamp) :]
    line_open[record.stream] = not record.data.endswith((b"\n", b"\r"))
    return stamped
