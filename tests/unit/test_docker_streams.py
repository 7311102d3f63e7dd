"""Multiplexed streams and log records, however the bytes are cut."""

from __future__ import annotations

import struct

import pytest

from vmctl.backends.docker.streams import Demultiplexer, log_records
from vmctl.model.event import Stream


def frame(number: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxI", number, len(payload)) + payload


WIRE = frame(1, b"out") + frame(2, b"errors") + frame(1, b"") + frame(1, b"more") + frame(3, b"daemon")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 1000])
def test_any_cut_gives_the_same_bytes(size: int) -> None:
    demultiplexer = Demultiplexer()
    found = {Stream.STDOUT: b"", Stream.STDERR: b""}
    for start in range(0, len(WIRE), size):
        for stream, piece in demultiplexer.feed(WIRE[start : start + size]):
            assert piece
            found[stream] += piece
    assert found == {Stream.STDOUT: b"outmore", Stream.STDERR: b"errorsdaemon"}


def test_a_long_frame_is_not_held() -> None:
    demultiplexer = Demultiplexer()
    header = struct.pack(">BxxxI", 1, 1 << 30)
    assert list(demultiplexer.feed(header + b"x" * 10)) == [(Stream.STDOUT, b"x" * 10)]
    assert list(demultiplexer.feed(b"y")) == [(Stream.STDOUT, b"y")]


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_records_without_tty(size: int) -> None:
    wire = frame(1, b"2026-11-21T23:59:00.5Z a line\n") + frame(2, b"2026-11-21T23:59:01Z \xff\n")
    chunks = [wire[start : start + size] for start in range(0, len(wire), size)]
    assert list(log_records(chunks, tty=False)) == [
        (1795305540500000000, Stream.STDOUT, b"a line\n"),
        (1795305541000000000, Stream.STDERR, b"\xff\n"),
    ]


def test_records_with_tty_are_lines() -> None:
    wire = b"2026-11-21T23:59:00Z one\r\n2026-11-21T23:59:01Z two"
    assert [record.data for record in log_records([wire[:9], wire[9:]], tty=True)] == [b"one\r\n", b"two"]


def test_a_record_without_time_is_kept_whole() -> None:
    assert list(log_records([frame(1, b"no time here")], tty=False)) == [(0, Stream.STDOUT, b"no time here")]
