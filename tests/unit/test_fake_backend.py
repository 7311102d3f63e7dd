"""What the fake has beyond the contract: programs, memory that outlives the process, misbehaviour on demand."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.harness import Harness, harness, ref_of
from vmctl.backends.fake import FakeBackend, open_backend
from vmctl.backends.fake.program import CopyInput, End, Output, Sleep, Step, work_out
from vmctl.errors import BackendUnavailable, Conflict, PermissionDenied, UsageError
from vmctl.model.event import Stream
from vmctl.model.observed import Foreign
from vmctl.model.process import Process
from vmctl.model.spec import InstanceSpec, Mount, Port
from vmctl.model.state import Kind, State


@pytest.fixture
def h(tmp_path: Path) -> Iterator[Harness]:
    with harness("fake", tmp_path, None) as made:
        yield made


def steps(*argv: str, **process: object) -> list[Step]:
    env = {"WORD": "value"}
    return work_out(Process(argv=argv, env=env, **process), "host", {"/etc/motd": b"hi\n"}.get)  # type: ignore[arg-type]


def out(text: str, stream: Stream = Stream.STDOUT) -> Output:
    return Output(stream, text.encode())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("echo a b", [out("a b\n"), End(0)]),
        ("echo -n $WORD ${WORD}", [out("value value"), End(0)]),
        ("echo 'a;b' >&2; exit 42", [out("a;b\n", Stream.STDERR), End(42), End(42)]),
        ("false && echo no || echo yes", [out("yes\n"), End(0)]),
        ("true && false", [End(1)]),
        ("sleep 0.5; cat", [Sleep(0.5), CopyInput(), End(0)]),
        ("nonsense", [out("sh: nonsense: not found\n", Stream.STDERR), End(127)]),
        (r"printf '%s\n' x", [out("x\n"), End(0)]),
        ("cat /etc/motd", [out("hi\n"), End(0)]),
        ("hostname; pwd", [out("host\n"), out("/\n"), End(0)]),
    ],
)
def test_shell(line: str, expected: list[Step]) -> None:
    assert steps("/bin/sh", "-c", line) == expected


def test_bodies_outlive_the_process(tmp_path: Path, h: Harness) -> None:
    """Another process sees the body, and its program has gone on meanwhile."""
    ref = h.start("sh", "-c", "echo one; sleep 0.3; echo two; exit 3")
    code = f"""
from pathlib import Path
from vmctl.backends.base import Ref
from vmctl.backends.fake import open_backend
backend = open_backend(Path({str(h.folder)!r}))
ref = Ref({ref.id!r}, Path({str(ref.directory)!r}))
print(backend.wait(ref, 5).code, b"".join(record.data for record in backend.logs(ref)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "3 b'one\\ntwo\\n'\n"


def test_without_a_folder_it_is_forgotten() -> None:
    assert FakeBackend().instances() == FakeBackend().instances() == []


def test_told_to_fail(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMCTL_FAKE_FAIL", "create:backend-unavailable,delete:permission")
    body = h.body("true")
    with pytest.raises(BackendUnavailable):
        h.backend.create(body)
    assert h.backend.instances() == []
    with pytest.raises(PermissionDenied):
        h.backend.delete(ref_of(body))
    monkeypatch.setenv("VMCTL_FAKE_FAIL", "create:no-such-code")
    with pytest.raises(UsageError, match="no-such-code"):
        h.backend.create(body)
    monkeypatch.delenv("VMCTL_FAKE_FAIL")
    h.backend.create(body)


def test_told_to_wait(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMCTL_FAKE_DELAY", "create:0.3")
    started = time.monotonic()
    h.create("true")
    assert time.monotonic() - started >= 0.3


def test_time_stands_still_while_paused(h: Harness) -> None:
    ref = h.start("sh", "-c", "sleep 0.3; exit 5")
    h.backend.pause(ref)
    time.sleep(0.4)
    assert h.backend.inspect(ref).state is State.PAUSED
    h.backend.resume(ref)
    assert h.backend.inspect(ref).state is State.RUNNING
    assert h.backend.wait(ref, 2).code == 5


def test_a_machine_boots_by_itself_and_obeys_the_power_button(tmp_path: Path, h: Harness) -> None:
    from vmctl.backends.base import Body
    from vmctl.model.ids import new_id

    spec = InstanceSpec(kind=Kind.VM, name="machine")
    order = Body(id=new_id(), ledger="l", claim="c", name="machine", spec=spec, directory=tmp_path / "d", process=None)
    h.backend.create(order)
    h.backend.start(ref_of(order))
    assert h.backend.inspect(ref_of(order)).state is State.RUNNING
    h.backend.stop(ref_of(order), timeout=1)
    assert h.backend.wait(ref_of(order), 1).code == 0
    h.backend.delete(ref_of(order))


def test_one_host_port_for_one_instance(h: Harness) -> None:
    ports = (Port(port=80, host_port=8080),)
    first, second = h.start("sleep", "60", ports=ports), h.create("sleep", "60", ports=ports)
    with pytest.raises(Conflict):
        h.backend.start(second)
    h.backend.kill(first)
    h.backend.start(second)
    assert h.backend.inspect(second).ports == ("127.0.0.1:8080->80/tcp",)


def test_host_folders_can_be_read(h: Harness, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    outcome, _ = h.run("cat", "/data/file", mounts=(Mount(source=str(tmp_path), target="/data"),))
    assert outcome.out == b"from the host\n"


def test_workloads_of_others(h: Harness) -> None:
    other = Foreign(backend="fake", native_name="x", kind=Kind.VM, running=True, cpu_millis=100, memory=1 << 30)
    h.backend.set_foreign([other])
    assert open_backend(h.folder).foreign() == [other]
