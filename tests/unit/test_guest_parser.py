"""The init's own parser, under the address sanitizer, against clients that send anything."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path

import pytest

from vmctl.backends.wire.frames import MAX_PAYLOAD, Frame, FrameParser, FrameType, decode_pairs, encode, encode_pairs
from vmctl.images.init import SOURCES

HARNESS = Path(__file__).parent.parent / "support" / "guest_parser.c"
SYNC = encode(FrameType.SYNC, bytes(range(16)))
RESYNC = SYNC + bytes(MAX_PAYLOAD) + SYNC


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("guest") / "parser"
    sources = [HARNESS, *(SOURCES / f"{name}.c" for name in ("session", "spec", "fifo"))]
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover", "-g", "-O1", "-D_GNU_SOURCE", f"-I{SOURCES}"]
    subprocess.run(["gcc", *flags, "-o", program, *sources], check=True)
    return program


def answers(harness: Path, cases: list[bytes]) -> list[bytes]:
    """What the session sent in each case, all run by one process."""
    stream = b"".join(struct.pack(">I", len(case)) + case for case in cases)
    done = subprocess.run([harness], input=stream, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:].decode(errors="replace")
    found, at = [], 0
    while at < len(done.stdout):
        (length,) = struct.unpack_from(">I", done.stdout, at)
        found.append(done.stdout[at + 4 : at + 4 + length])
        at += 4 + length
    assert len(found) == len(cases)
    return found


def frames(answer: bytes) -> list[Frame]:
    return list(FrameParser().feed(answer))


def test_requests_are_understood(harness: Path) -> None:
    request = encode(FrameType.EXEC, encode_pairs([("argv", "prog"), ("env", "A=1"), ("tty", "1")]))
    (answer,) = answers(harness, [SYNC + bytes(7) + request + encode(FrameType.PING, b"x")])
    kinds = [frame.type for frame in frames(answer)]
    assert kinds == [FrameType.SYNC, FrameType.READY, FrameType.ERROR, FrameType.PONG]
    assert ("message", "prog") in decode_pairs(frames(answer)[2].payload)


def test_a_request_cut_short_and_padded_is_never_another_request(harness: Path) -> None:
    request = encode(FrameType.EXEC, encode_pairs([("argv", "rm"), ("argv", "-rf"), ("argv", "/home/some/folder")]))
    # All cuts that lose more than what zeros replace: the last NUL is one.
    results = answers(harness, [SYNC + request[:end] + bytes(MAX_PAYLOAD) for end in range(6, len(request) - 1)])
    for answer in results:
        errors = [decode_pairs(frame.payload) for frame in frames(answer) if frame.type == FrameType.ERROR]
        assert [dict(error)["code"] for error in errors] == ["bad-request"]


def test_sync_is_answered_after_anything(harness: Path) -> None:
    rng = random.Random(7)
    good = [
        SYNC,
        encode(FrameType.EXEC, encode_pairs([("argv", "x"), ("env", "a=b")])),
        encode(FrameType.STDIN, bytes(range(256)) * 20),
        encode(FrameType.WINDOW, b"\xff\xff\xff\xff"),
        encode(FrameType.BOOT, encode_pairs([("clock", "1"), ("dns", "1.1.1.1")])),
        encode(FrameType.POWEROFF, encode_pairs([("timeout", "99999999999")])),
        encode(FrameType.SIGNAL, b"\x0f"),
        encode(FrameType.WINCH, b"\0\1\0\1"),
        encode(FrameType.ATTACH, encode_pairs([("stdin", "1")])),
        encode(FrameType.STDIN_EOF),
    ]
    cases = []
    for _ in range(150):
        stream = bytearray(b"".join(rng.choices(good, k=rng.randrange(8))))
        for _ in range(rng.randrange(4)):
            if stream:
                stream[rng.randrange(len(stream))] = rng.randrange(256)
        cases.append(bytes(stream[: rng.randrange(len(stream) + 1)]) + RESYNC)
    for answer in answers(harness, cases):
        assert SYNC + encode(FrameType.READY)[:1] in answer
        assert frames(answer[answer.rindex(SYNC) :])[1].type == FrameType.READY


@pytest.mark.parametrize("kind", [FrameType.STDIN, FrameType.EXEC, FrameType.BOOT])
def test_absurd_lengths_allocate_nothing(harness: Path, kind: FrameType) -> None:
    for length in (0xFFFFFFFF, MAX_PAYLOAD + 1):
        (answer,) = answers(harness, [struct.pack(">BI", kind, length) + b"x" * 1000 + SYNC])
        assert [frame.type for frame in frames(answer)][-2:] == [FrameType.SYNC, FrameType.READY]


def test_nothing_is_done_before_sync(harness: Path) -> None:
    (answer,) = answers(harness, [encode(FrameType.EXEC, encode_pairs([("argv", "x")])) + encode(FrameType.PING)])
    assert answer == b""
