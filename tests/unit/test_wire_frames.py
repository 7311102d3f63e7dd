"""Frames and log records: round trips, any cut of the stream, and junk."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.backends.wire.frames import (
    MAX_PAYLOAD,
    FrameError,
    FrameParser,
    FrameType,
    decode_pairs,
    encode,
    encode_pairs,
)
from vmctl.backends.wire.logfile import RecordParser, encode_exit, encode_record, last_exit, read_records
from vmctl.backends.wire.machine import GuestNetwork, boot_pairs
from vmctl.model.event import LogRecord, Stream
from vmctl.model.process import Process
from vmctl.model.state import Exit

KINDS = st.sampled_from([kind for kind in FrameType if kind is not FrameType.NOP])
TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(st.tuples(KINDS, st.binary(max_size=300))), st.lists(st.integers(0, 5000)))
def test_frames_survive_any_cut(frames: list[tuple[FrameType, bytes]], places: list[int]) -> None:
    stream = b"\0\0".join(encode(kind, payload) for kind, payload in frames)
    parser = FrameParser()
    assert [tuple(frame) for piece in cut(stream, places) for frame in parser.feed(piece)] == frames


@given(st.lists(st.binary(max_size=200)))
def test_junk_never_grows_the_parser(pieces: list[bytes]) -> None:
    parser = FrameParser()
    with contextlib.suppress(FrameError):
        for piece in pieces:
            for frame in parser.feed(piece):
                assert len(frame.payload) <= MAX_PAYLOAD
    assert len(parser._buffer) <= MAX_PAYLOAD + 5 + 200


def test_a_length_over_the_limit_is_refused_before_its_bytes_come() -> None:
    with pytest.raises(FrameError):
        list(FrameParser().feed(b"\x08\x00\x10\x00\x01"))
    with pytest.raises(ValueError, match="STDOUT"):
        encode(FrameType.STDOUT, bytes(MAX_PAYLOAD + 1))


@given(st.lists(st.tuples(TEXT, TEXT)))
def test_pairs_round_trip(pairs: list[tuple[str, str]]) -> None:
    assert decode_pairs(encode_pairs(pairs)) == pairs


def test_pairs_keep_bytes_that_are_no_text_and_refuse_nul() -> None:
    name = b"\xff\xfe".decode("utf-8", "surrogateescape")
    assert decode_pairs(encode_pairs([("env", name)])) == [("env", name)]
    with pytest.raises(ValueError, match="NUL"):
        encode_pairs([("argv", "a\0b")])


RECORDS = st.builds(
    LogRecord, st.integers(0, 2**63), st.sampled_from([Stream.STDOUT, Stream.STDERR]), st.binary(max_size=100)
)


JUNK = st.binary(max_size=30).filter(lambda junk: b"\xf5" not in junk)


@given(st.lists(RECORDS), st.lists(st.integers(0, 5000)), JUNK)
def test_records_survive_any_cut_and_leading_junk(records: list[LogRecord], places: list[int], junk: bytes) -> None:
    stream = junk + b"".join(encode_record(record) for record in records)
    parser = RecordParser()
    assert [record for piece in cut(stream, places) for record in parser.feed(piece)] == records


def test_log_of_a_rotated_file(tmp_path: Path) -> None:
    first, second = LogRecord(1, Stream.STDOUT, b"one"), LogRecord(2, Stream.STDERR, b"two")
    end = Exit(code=137, signal=9, oom=True, at=3)
    stream = encode_record(first) + encode_record(second) + encode_exit(end) + b"\0"
    (tmp_path / "log.1").write_bytes(stream[:25])  # cuts the second record
    (tmp_path / "log.0").write_bytes(stream[25:60])
    (tmp_path / "log").write_bytes(stream[60:])
    assert list(read_records(tmp_path / "log")) == [first, second, end]
    assert last_exit(tmp_path / "log") == end


def test_boot_says_everything_once_and_is_never_the_same() -> None:
    process = Process(argv=("a", "b"), env={"X": "1"}, user="ann")
    network = GuestNetwork(mac="52:54:00:00:00:01", address="10.0.0.2/24", dns=("10.0.0.1", "9.9.9.9"))
    pairs = boot_pairs(process, hostname="h", root_fs="erofs", network=network, size=(24, 80))
    values = dict(pairs)
    assert [value for key, value in pairs if key == "argv"] == ["a", "b"]
    assert [value for key, value in pairs if key == "dns"] == ["10.0.0.1", "9.9.9.9"]
    assert (values["env"], values["user"], values["rows"], values["cols"]) == ("X=1", "ann", "24", "80")
    assert len(values["entropy"]) == 128
    again = dict(boot_pairs(process, hostname="h", root_fs="erofs", network=network))
    assert again["entropy"] != values["entropy"]
    assert int(again["clock"]) >= int(values["clock"])
