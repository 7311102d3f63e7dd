"""What can be done with a running instance; all tests share one."""

from __future__ import annotations

import io
import os
import signal
import tarfile
import threading
from collections.abc import Callable

import pytest

from tests.contract.harness import IDLE, LEDGER, PATH, Harness, pump, until
from vmctl.backends.base import Ref, Stdio
from vmctl.errors import CannotInvoke, Conflict, NotFound, ProgramNotFound, TimedOut, VmctlError, WrongState
from vmctl.model.event import Stream
from vmctl.model.process import Process
from vmctl.model.state import State


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exec_exit_codes(h: Harness, idle: Ref, code: int) -> None:
    assert h.exec(idle, "sh", "-c", f"exit {code}").code == code


def test_exec_streams_apart(h: Harness, idle: Ref) -> None:
    outcome = h.exec(idle, "sh", "-c", "echo out; echo err >&2")
    assert (outcome.code, outcome.out, outcome.err) == (0, b"out\n", b"err\n")


def test_exec_stdin_to_its_end(h: Harness, idle: Ref) -> None:
    text = bytes(range(256)) * 1000
    outcome = h.exec(idle, "cat", stdin=text)
    assert outcome.code == 0
    assert outcome.out == text


def test_exec_environment_and_folder(h: Harness, idle: Ref) -> None:
    outcome = h.exec(idle, "sh", "-c", "echo $WORD; pwd", env={"PATH": "/bin", "WORD": "a b"}, workdir="/tmp")
    assert outcome.out == b"a b\n/tmp\n"


def test_exec_of_what_is_not_there(h: Harness, idle: Ref) -> None:
    with pytest.raises(ProgramNotFound):
        h.exec(idle, "no-such-program")
    with pytest.raises(CannotInvoke):
        h.exec(idle, "/etc/passwd")


def test_bad_requests_are_errors_of_ours(h: Harness, idle: Ref) -> None:
    """Whatever the engine makes of it, one VmctlError comes out, and nothing has changed."""
    for verb in (
        lambda: h.backend.kill(idle, signal="SIGNONSENSE"),
        lambda: h.exec(idle, "true", workdir="/no/such/folder"),
        lambda: h.exec(idle, "true", user="nobody-knows-me"),
        lambda: h.backend.copy_in(idle, "/tmp", io.BytesIO(b"no archive" * 1000)),
    ):
        with pytest.raises(VmctlError):
            verb()
    assert h.backend.inspect(idle).state is State.RUNNING


def test_a_file_is_no_folder_to_copy_into(h: Harness, idle: Ref) -> None:
    with pytest.raises(Conflict):
        h.backend.copy_in(idle, "/etc/passwd", archive({"new": b"data"}))


def test_exec_signal(h: Harness, idle: Ref) -> None:
    """A signal that reaches vmctl goes to the process."""
    reader, writer = os.pipe()
    threading.Timer(1.0, os.write, (writer, bytes([signal.SIGTERM]))).start()
    attachment = h.backend.exec(idle, process("sleep", "60"))
    try:
        outcome = pump(attachment, signals=reader)
    finally:
        os.close(reader)
        os.close(writer)
    assert outcome.code == 128 + signal.SIGTERM


def test_exec_with_tty(h: Harness, idle: Ref) -> None:
    outcome = h.exec(idle, "sh", "-c", "echo out; echo err >&2", tty=True)
    assert outcome.code == 0
    assert (outcome.out, outcome.err) == (b"out\r\nerr\r\n", b"")


def test_close_ends_the_exec_and_not_the_main_process(h: Harness, idle: Ref) -> None:
    h.backend.exec(idle, process("sleep", "60")).close()
    assert h.backend.inspect(idle).state is State.RUNNING


def test_nobody_reads_stdout(h: Harness, idle: Ref) -> None:
    """The session ends, or swallows the rest; it neither hangs nor raises."""
    reader, writer = os.pipe()
    os.close(reader)
    attachment = h.backend.exec(idle, process("sh", "-c", "echo 1; echo 2"))
    try:
        attachment.pump(Stdio(None, writer, writer))
    finally:
        attachment.close()
        os.close(writer)


def test_copy_round_trip(h: Harness, idle: Ref) -> None:
    data = os.urandom(100_000)
    h.backend.copy_in(idle, "/tmp", archive({"copied/file": data}))
    assert h.exec(idle, "cat", "/tmp/copied/file").out == data
    back = io.BytesIO()
    h.backend.copy_out(idle, "/tmp/copied", back)
    back.seek(0)
    with tarfile.open(fileobj=back) as tar:
        assert [name.rstrip("/") for name in tar.getnames()] == ["copied", "copied/file"]
        content = tar.extractfile("copied/file")
        assert content is not None
        assert content.read() == data


def test_copy_of_what_is_not_there(h: Harness, idle: Ref) -> None:
    with pytest.raises(NotFound):
        h.backend.copy_out(idle, "/tmp/nothing-here", io.BytesIO())
    with pytest.raises(NotFound):
        h.backend.copy_in(idle, "/no/such/folder", archive({"file": b"x"}))


def test_pause_and_resume(h: Harness, idle: Ref) -> None:
    h.backend.resume(idle)
    h.backend.pause(idle)
    h.backend.pause(idle)
    try:
        assert h.backend.inspect(idle).state is State.PAUSED
        with pytest.raises(WrongState):
            h.backend.start(idle)
    finally:
        h.backend.resume(idle)
    h.backend.resume(idle)
    assert h.backend.inspect(idle).state is State.RUNNING
    assert h.exec(idle, "true").code == 0


def test_stats_are_plausible(h: Harness, idle: Ref) -> None:
    nobody = Ref("01zzzzzzzzzzzzzzzzzzzzzzzz", h.folder / "nobody")
    (first,) = h.backend.stats([nobody, idle])
    h.exec(idle, "sh", "-c", "echo work")
    (second,) = h.backend.stats([idle])
    assert first.id == second.id == idle.id
    assert second.at > first.at
    assert second.cpu_ns >= first.cpu_ns > 0
    assert 0 < second.memory <= 1 << 30


def test_logs(h: Harness, idle: Ref) -> None:
    records = list(h.backend.logs(idle))
    assert sorted((record.stream, record.data) for record in records) == [
        (Stream.STDERR, b"complaint\n"),
        (Stream.STDOUT, b"ready\n"),
    ]
    assert all(record.at > 1_600_000_000_000_000_000 for record in records)
    assert len(list(h.backend.logs(idle, tail=1))) == 1
    assert list(h.backend.logs(idle, tail=0)) == []


def test_attach_and_let_go(h: Harness, idle: Ref) -> None:
    h.backend.attach(idle).close()
    assert h.backend.inspect(idle).state is State.RUNNING


def test_wait_times_out(h: Harness, idle: Ref) -> None:
    with pytest.raises(TimedOut):
        h.backend.wait(idle, 0.2)


def test_it_is_ours(h: Harness, idle: Ref) -> None:
    """The listing tells what a lost ledger needs, and nobody else's list has it."""
    (one,) = [one for one in h.backend.instances() if one.id == idle.id]
    assert (one.ledger, one.kind, one.state) == (LEDGER, h.kind, State.RUNNING)
    assert one.name.startswith("contract-")
    assert not [other for other in h.backend.foreign() if idle.id in other.native_name]


def test_wrong_state_when_it_does_not_run(h: Harness) -> None:
    ref = h.create(*IDLE)
    for verb in (
        lambda: h.backend.exec(ref, process("true")),
        lambda: h.backend.attach(ref),
        lambda: h.backend.pause(ref),
        lambda: h.backend.resume(ref),
    ):
        with pytest.raises(WrongState):
            verb()
    assert h.backend.stats([ref]) == []


def test_follow_the_log_to_the_end(h: Harness) -> None:
    ref = h.start("sh", "-c", "echo one; sleep 1; echo two")
    assert h.log(ref, follow=True) == b"one\ntwo\n"


def test_signals_reach_the_main_process(h: Harness) -> None:
    ref = h.create(*IDLE)
    reader, writer = os.pipe()
    attachment = h.backend.start(ref, attach=True)
    assert attachment is not None
    watcher = threading.Thread(target=lambda: _when_ready(h, ref, lambda: os.write(writer, bytes([signal.SIGTERM]))))
    watcher.start()
    try:
        outcome = pump(attachment, signals=reader)
    finally:
        watcher.join()
        os.close(reader)
        os.close(writer)
    assert (outcome.code, outcome.out, outcome.err) == (7, b"ready\n", b"complaint\n")


def test_attached_to_a_running_one(h: Harness) -> None:
    """attach sees the output from now on, and the end."""
    ref = h.start(*IDLE)
    attachment = h.backend.attach(ref)
    stopper = threading.Timer(0.5, h.backend.stop, (ref,), {"timeout": 10})
    stopper.start()
    try:
        assert pump(attachment).code == 7
    finally:
        stopper.join()
    with pytest.raises(WrongState):
        h.backend.attach(ref)


def _when_ready(h: Harness, ref: Ref, act: Callable[[], object]) -> None:
    until(lambda: b"ready" in h.log(ref))
    act()


def process(*argv: str) -> Process:
    return Process(argv=argv, env=PATH)


def archive(files: dict[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folders = {name.rpartition("/")[0] for name in files} - {""}
        for folder in sorted(folders):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    buffer.seek(0)
    return buffer
