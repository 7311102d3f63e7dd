"""The supervisor's parts without a sandbox: its log, its side of the protocol, its filters, its groups, its events."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path

import pytest

from vmctl.backends.sandbox import cgroup
from vmctl.backends.sandbox.adapter import SandboxBackend
from vmctl.backends.sandbox.events import changes
from vmctl.backends.sandbox.logs import read_log
from vmctl.backends.sandbox.logwriter import STDERR, STDOUT, LogWriter
from vmctl.backends.sandbox.peer import Session
from vmctl.backends.sandbox.processes import exit_pairs
from vmctl.backends.sandbox.program import _reason
from vmctl.backends.sandbox.seccomp import PROFILE, _profile_rules, filters
from vmctl.backends.wire.frames import WINDOW_SIZE, FrameParser, FrameType, encode
from vmctl.backends.wire.logfile import last_exit, log_files, read_records
from vmctl.model.event import EventType, LogRecord, Stream
from vmctl.model.observed import Observed
from vmctl.model.state import Exit, Kind, State

# -- log ------------------------------------------------------------------------------------------------------------


def test_the_log_is_what_the_wire_reads(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path / "log"))
    writer.output(STDOUT, b"out\n")
    writer.output(STDERR, b"\xf5VL1 err")
    writer.exit(77, exit_pairs(137, 9, oom=True))
    first, second, end = read_records(tmp_path / "log")
    assert isinstance(first, LogRecord)
    assert isinstance(second, LogRecord)
    assert (first.stream, first.data, second.stream, second.data) == (
        Stream.STDOUT, b"out\n", Stream.STDERR, b"\xf5VL1 err")  # fmt: skip
    assert end == last_exit(tmp_path / "log") == Exit(code=137, signal=9, oom=True, at=77)


def test_the_log_takes_a_bounded_space(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path / "log"), file_size=1000)
    for number in range(100):
        writer.output(STDOUT, b"%04d" % number * 20)
    files = log_files(tmp_path / "log")
    assert len(files) == 5
    assert all(file.stat().st_size <= 1000 for file in files)
    kept = [record.data for record in read_records(tmp_path / "log") if isinstance(record, LogRecord)]
    assert kept[-1] == b"0099" * 20
    assert kept == sorted(kept)
    LogWriter(str(tmp_path / "log"), file_size=1000).output(STDOUT, b"again")
    assert [r.data for r in read_records(tmp_path / "log") if isinstance(r, LogRecord)][-1] == b"again"


@pytest.mark.parametrize(
    ("tail", "expected"),
    [(None, b"a\nb\nc\nd"), (0, b""), (1, b"d"), (2, b"c\nd"), (4, b"a\nb\nc\nd"), (9, b"a\nb\nc\nd")],
)
def test_tail_counts_lines_not_records(tmp_path: Path, tail: int | None, expected: bytes) -> None:
    writer = LogWriter(str(tmp_path / "log"))
    for piece in (b"a", b"\nb\n", b"c\nd"):
        writer.output(STDOUT, piece)
    records = read_log(tmp_path / "log", lambda: False, follow=False, tail=tail)
    assert b"".join(record.data for record in records) == expected


def test_follow_survives_rotation(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path / "log"), file_size=400)
    sent, steps = [b"%03d\n" % number for number in range(60)], iter(range(12))
    writer.output(STDOUT, sent[0])

    def alive() -> bool:
        step = next(steps, None)
        if step is None:
            return False
        for piece in sent[1 + step * 5 : 6 + step * 5]:
            writer.output(STDOUT, piece)
        return True

    records = read_log(tmp_path / "log", alive, follow=True, tail=None)
    assert [record.data for record in records] == sent


# -- protocol -------------------------------------------------------------------------------------------------------


def test_output_waits_for_credit_and_the_end_for_output() -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    session, parser = Session(ours), FrameParser()
    seen: list[tuple[int, int]] = []

    def collect() -> None:
        theirs.setblocking(False)
        try:
            while data := theirs.recv(1 << 20):
                seen.extend((frame.type, len(frame.payload)) for frame in parser.feed(data))
                session.flush()
        except BlockingIOError:
            return

    session.output(FrameType.STDOUT, bytes(WINDOW_SIZE + 1000))
    session.pairs(FrameType.EXIT, *exit_pairs(0, None))
    collect()
    assert not session.hungry
    assert sum(length for kind, length in seen if kind == FrameType.STDOUT) == WINDOW_SIZE
    assert FrameType.EXIT not in [kind for kind, _ in seen]
    session.grant(struct.pack(">I", 400))
    session.grant(struct.pack(">I", 1 << 31))
    collect()
    assert sum(length for kind, length in seen if kind == FrameType.STDOUT) == WINDOW_SIZE + 1000
    assert seen[-1][0] == FrameType.EXIT
    assert session.hungry
    assert session.idle


def test_input_without_credit_ends_the_session() -> None:
    ours, theirs = socket.socketpair()
    session = Session(ours)
    for _ in range(WINDOW_SIZE // 65536):
        theirs.sendall(encode(FrameType.STDIN, bytes(65536)))
        while not session.receive():
            pass
    assert not session.gone
    theirs.sendall(encode(FrameType.STDIN, b"x"))
    session.receive()
    assert session.gone


@pytest.mark.parametrize(
    ("complaint", "code"),
    [
        ("bwrap: execvp prog: No such file or directory", "not-found"),
        ("bwrap: execvp prog: Permission denied", "cannot-invoke"),
        ("bwrap: Can't chdir to /no: No such file or directory", "cannot-invoke"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "failed"),
        ("", "failed"),
    ],
)
def test_reasons_of_failed_starts(complaint: str, code: str) -> None:
    assert _reason(complaint, "prog")[0] == code


# -- filters --------------------------------------------------------------------------------------------------------


def test_the_profile_is_resolved_for_no_capability() -> None:
    allowed = {name for rule in _profile_rules(PROFILE.read_bytes(), "amd64") if rule.action == 0x7FFF0000
               and not rule.conditions for name in rule.names}  # fmt: skip
    assert {"read", "execve", "openat", "arch_prctl"} <= allowed
    assert not {"mount", "setns", "unshare", "bpf", "clone3", "chroot", "reboot", "keyctl", "clone"} & allowed


def test_programs_are_kept_and_differ(tmp_path: Path) -> None:
    with_setuid, without = filters(tmp_path, setuid_files=True), filters(tmp_path, setuid_files=False)
    assert with_setuid.deny.read_bytes() != without.deny.read_bytes()
    assert all(len(file.read_bytes()) % 8 == 0 for file in (*with_setuid, *without))
    stamps = [file.stat().st_mtime_ns for file in with_setuid]
    assert filters(tmp_path, setuid_files=True) == with_setuid
    assert [file.stat().st_mtime_ns for file in with_setuid] == stamps
    assert not list(tmp_path.glob("*.bpf.*"))


# -- groups ---------------------------------------------------------------------------------------------------------


def test_version_2_limits(tmp_path: Path) -> None:
    """The kernel's files as plain files: what is written where, and what is read back."""
    folder = tmp_path / "vmctl" / "vmctl-x"
    folder.mkdir(parents=True)
    for shared in (tmp_path, tmp_path / "vmctl"):
        (shared / "cgroup.controllers").write_text("cpu io memory pids\n")
        (shared / "cgroup.subtree_control").write_text("")
    for name in ("memory.max", "memory.swap.max", "memory.oom.group", "cpu.max", "pids.max", "cgroup.freeze"):
        (folder / name).write_text("")
    group = {"unified": str(folder)}
    limits = cgroup.Limits(64 << 20, 1500, 20)
    assert cgroup.make(group, limits) == limits
    assert (folder / "cpu.max").read_text() == "150000 100000"
    assert (folder / "memory.swap.max").read_text() == "0"
    assert (folder / "memory.oom.group").read_text() == "1"
    assert (folder / "pids.max").read_text() == "22"
    assert (tmp_path / "vmctl/cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    (folder / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    (folder / "memory.current").write_text("4096\n")
    (folder / "pids.current").write_text("5\n")
    (folder / "cpu.stat").write_text("usage_usec 7\nuser_usec 3\n")
    (folder / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert cgroup.oom_kills(group) == 2
    assert cgroup.counters(group) == cgroup.Counters(7000, 4096, 3)
    assert cgroup.is_frozen(group)


def test_a_group_that_is_gone_has_nothing() -> None:
    for group in ({"unified": "/nowhere"}, {"memory": "/nowhere", "cpu": "/nowhere"}, {}):
        assert cgroup.read_limits(group) == cgroup.Limits(None, None, None)
        assert cgroup.counters(group) is None
        assert cgroup.processes(group) == []
        assert cgroup.destroy(group)


# -- events ---------------------------------------------------------------------------------------------------------


def seen(state: State, started_at: int | None = None, end: Exit | None = None) -> Observed:
    return Observed(id="i", ledger="l", name="n", kind=Kind.APP, state=state, started_at=started_at, exit=end)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, seen(State.CREATED), [EventType.CREATE]),
        (seen(State.CREATED), seen(State.RUNNING, 1), [EventType.START]),
        (seen(State.CREATED), seen(State.STOPPED, 1, Exit(code=0, at=2)), [EventType.START, EventType.STOP]),
        (seen(State.RUNNING, 1), seen(State.PAUSED, 1), [EventType.PAUSE]),
        (seen(State.PAUSED, 1), seen(State.RUNNING, 1), [EventType.RESUME]),
        (seen(State.RUNNING, 1), seen(State.STOPPED, 1, Exit(code=137, oom=True)), [EventType.OOM, EventType.STOP]),
        (seen(State.RUNNING, 1), seen(State.RUNNING, 1), []),
    ],
)
def test_changes_become_events(before: Observed | None, now: Observed, expected: list[EventType]) -> None:
    assert [kind for kind, _ in changes(before, now)] == expected


def test_profile_is_json() -> None:
    assert json.loads(PROFILE.read_bytes())["defaultAction"] == "SCMP_ACT_ERRNO"


@pytest.mark.parametrize(("group", "expected"), [({}, "limits of applications are weak"), ({"unified": "/x"}, "")])
def test_weak_limits_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, group: cgroup.Group, expected: str
) -> None:
    monkeypatch.setattr(cgroup, "plan_group", lambda name: group)
    assert SandboxBackend(tmp_path).advice().partition(":")[0] == expected
