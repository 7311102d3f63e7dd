"""The Docker backend on a real engine: what only Docker has, or what only a kernel can show."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.contract.harness import IDLE, Harness, harness, pump, ref_of, until
from vmctl.backends.base import Ref
from vmctl.backends.docker.cgroup import Cgroup
from vmctl.errors import Conflict, NotFound, Unsupported, UsageError, VmctlError
from vmctl.images.store import ImageStore
from vmctl.model.ids import native_name
from vmctl.model.spec import InstanceSpec, Mount, Port
from vmctl.model.state import RestartPolicy, State

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def h(shared_state: Path, busybox_image: str) -> Iterator[Harness]:
    with harness("docker", shared_state, ImageStore(shared_state / "images", shared_state / "cache")) as made:
        yield made


def docker(*args: str) -> str:
    return subprocess.run(["docker", *args], check=True, capture_output=True, text=True).stdout.strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_limits_are_in_the_cgroup(h: Harness) -> None:
    ref = h.start(*IDLE, memory=48 << 20, cpu_millis=250, pids=33)
    pid = int(docker("inspect", "-f", "{{.State.Pid}}", native_name(ref.id)))
    assert h.backend.inspect(ref).pid == pid
    limits = Cgroup(pid, docker("inspect", "-f", "{{.Id}}", native_name(ref.id))).limits()
    assert (limits.memory, limits.cpu_millis, limits.pids) == (48 << 20, 250, 33)
    swap = docker("inspect", "-f", "{{.HostConfig.MemorySwap}}", native_name(ref.id))
    assert int(swap) == 48 << 20


def test_a_limit_that_the_kernel_does_not_enforce_ends_the_body(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Cgroup.limits
    monkeypatch.setattr(Cgroup, "limits", lambda self: msgspec.structs.replace(real(self), memory=1 << 40))
    ref = h.create(*IDLE)
    with pytest.raises(Unsupported, match="268435456 bytes"):
        h.backend.start(ref)
    with pytest.raises(NotFound):
        h.backend.inspect(ref)
    assert not ref.directory.exists()


def test_more_cpus_than_the_host_leaves_nothing(h: Harness) -> None:
    body = h.body("true", cpu_millis=10_000_000)
    with pytest.raises(UsageError, match="CPUs"):
        h.backend.create(body)
    assert not body.directory.exists()
    with pytest.raises(NotFound):
        h.backend.inspect(ref_of(body))


def test_out_of_memory_is_told(h: Harness) -> None:
    outcome, ref = h.run("sh", "-c", "x=a; while true; do x=$x$x; done", memory=16 << 20)
    assert outcome.code == 137
    assert outcome.exit is not None
    assert outcome.exit.oom
    end = h.backend.inspect(ref).exit
    assert end is not None
    assert end.oom


def test_labels_can_rebuild_a_ledger(h: Harness) -> None:
    body = h.body(*IDLE, labels={"team": "blue"})
    h.backend.create(body)
    text = docker("inspect", "-f", "{{json .Config.Labels}}", native_name(body.id))
    labels = msgspec.json.decode(text, type=dict[str, str])
    assert (labels["vmctl.id"], labels["vmctl.ledger"], labels["vmctl.claim"]) == (body.id, body.ledger, body.claim)
    assert (labels["vmctl.name"], labels["team"]) == (body.name, "blue")
    assert msgspec.json.decode(labels["vmctl.spec"], type=InstanceSpec) == body.spec


def test_published_port(h: Harness) -> None:
    port = free_port()
    server = "mkdir /www; echo hello >/www/index.html; echo ready; exec httpd -f -p 80 -h /www"
    ref = h.start("sh", "-c", server, network="default", ports=(Port(port=80, host_port=port),))
    assert h.backend.inspect(ref).ports == (f"127.0.0.1:{port}->80/tcp",)
    assert len(h.backend.inspect(ref).addresses) == 1

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
                return bool(answer.read() == b"hello\n")
        except OSError:
            return False

    until(answers)
    second = h.create(*IDLE, network="default", ports=(Port(port=80, host_port=port),))
    with pytest.raises(Conflict):
        h.backend.start(second)
    assert h.backend.inspect(second).state is State.FAILED


@pytest.mark.parametrize(("network", "links"), [("none", "lo"), ("default", "eth0 lo")])
def test_networks(h: Harness, network: str, links: str) -> None:
    outcome, _ = h.run("sh", "-c", "cd /sys/class/net; echo *", network=network)
    assert " ".join(name for name in outcome.out.decode().split() if name in ("lo", "eth0")) == links


def test_host_network_and_a_named_one(h: Harness) -> None:
    here = set(os.listdir("/sys/class/net"))
    outcome, _ = h.run("sh", "-c", "cd /sys/class/net; echo *", network="host")
    assert "docker0" in here & set(outcome.out.decode().split())
    missing = h.create("true", network="no-such-network")
    with pytest.raises(NotFound, match="no-such-network"):
        h.backend.start(missing)
    name = f"vmctl-test-{os.getpid()}"
    docker("network", "create", name)
    try:
        outcome, ref = h.run("true", network=name)
        assert outcome.code == 0
        h.backend.delete(ref)
    finally:
        docker("network", "rm", name)


def test_mounts(h: Harness, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    volume = f"vmctl-test-{os.getpid()}"
    mounts = (
        Mount(source=str(tmp_path), target="/ro", read_only=True),
        Mount(source=str(tmp_path), target="/rw"),
        Mount(source=volume, target="/vol"),
    )
    script = "cat /ro/file; echo x >/ro/new && exit 9; echo made >/rw/new; echo kept >/vol/file"
    try:
        outcome, ref = h.run("sh", "-c", script, mounts=mounts)
        assert (outcome.code, outcome.out) == (0, b"from the host\n"), outcome
        assert (tmp_path / "new").read_text() == "made\n"
        h.backend.delete(ref)
        outcome, ref = h.run("cat", "/vol/file", mounts=mounts)
        assert outcome.out == b"kept\n"
        h.backend.delete(ref)
    finally:
        docker("volume", "rm", volume)
    nowhere = h.body("true", mounts=(Mount(source=str(tmp_path / "nowhere"), target="/a"),))
    with pytest.raises(UsageError, match="nowhere"):
        h.backend.create(nowhere)
    assert not (tmp_path / "nowhere").exists()


def test_read_only_root(h: Harness) -> None:
    outcome, ref = h.run("sh", "-c", "echo x >/tmp/file", read_only=True)
    assert outcome.code == 1
    assert b"Read-only" in outcome.err
    h.backend.delete(ref)


def test_process_is_as_resolved(h: Harness) -> None:
    script = "id -u; id -g; pwd; hostname; echo $WORD"
    outcome, _ = h.run("sh", "-c", script, user="123:45", workdir="/tmp", hostname="other", env={"WORD": "a b"})
    assert outcome.out == b"123\n45\n/tmp\nother\na b\n"


def test_tty(h: Harness) -> None:
    """One stream, a terminal inside, the end of input as a key, and a log of lines."""
    outcome, ref = h.run("sh", "-c", "tty; cat; echo err >&2", stdin=b"typed\n", tty=True)
    assert outcome.code == 0
    assert outcome.out == b"typed\r\n/dev/pts/0\r\ntyped\r\nerr\r\n" or outcome.out.endswith(b"typed\r\nerr\r\n")
    assert outcome.err == b""
    assert h.log(ref) == outcome.out


def test_log_keeps_every_byte(h: Harness) -> None:
    outcome, ref = h.run("sh", "-c", r"printf '\377\000\n'; printf 'no end'")
    assert outcome.out == b"\xff\x00\nno end"
    assert h.log(ref) == outcome.out
    long, ref = h.run("sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x")
    assert h.log(ref) == long.out == b"x" * 100_000


def test_stop_by_another_signal_beats_the_restart_policy(h: Harness) -> None:
    script = "trap 'exit 9' USR1; echo ready; sleep 600 & wait"
    ref = h.start("sh", "-c", script, restart=RestartPolicy.ALWAYS)
    until(lambda: b"ready" in h.log(ref))
    h.backend.stop(ref, timeout=5, signal="SIGUSR1")
    time.sleep(0.5)
    found = h.backend.inspect(ref)
    assert (found.state, found.restarts) == (State.STOPPED, 0)
    assert found.exit is not None
    assert found.exit.code == 9
    assert docker("inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", native_name(ref.id)) == "always"


def test_between_two_lives_it_is_starting(h: Harness) -> None:
    ref = h.start("false", restart=RestartPolicy.ALWAYS)
    until(lambda: h.backend.inspect(ref).state is State.STARTING)
    assert h.backend.inspect(ref).exit is None
    h.backend.stop(ref, timeout=1)
    assert h.backend.inspect(ref).state is State.STOPPED


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_paused_one_can_be_ended(h: Harness, end: str) -> None:
    ref = h.start(*IDLE)
    h.backend.pause(ref)
    if end == "stop":
        h.backend.stop(ref, timeout=5)
    else:
        h.backend.kill(ref)
    assert h.backend.wait(ref, 5).code == (7 if end == "stop" else 137)


def test_foreign_containers(h: Harness) -> None:
    """Limits where they are set, else what is used now and a little more; only what runs, and none of ours."""
    assert h.image is not None
    names = [f"vmctl-foreign-{which}-{os.getpid()}" for which in ("limited", "free", "stopped")]
    ours = h.start(*IDLE)
    try:
        limits = ["--memory", "32m", "--cpus", "0.5"]
        for name, options, command in zip(names, (limits, [], []), ("600", "600", "0"), strict=True):
            docker("run", "-d", "--network", "none", "--name", name, *options, h.image.config_digest, "sleep", command)
        until(lambda: docker("inspect", "-f", "{{.State.Running}}", names[2]) == "false")
        found = {one.native_name: one for one in h.backend.foreign()}
        assert not [name for name in found if ours.id in name]
        assert (found[names[0]].memory, found[names[0]].cpu_millis, found[names[0]].running) == (32 << 20, 500, True)
        free = found[names[1]]
        assert free.resident <= free.memory <= free.resident * 1.1
        assert 0 < free.memory < 100 << 20
        assert 0 <= free.cpu_millis < 1000
        assert names[2] not in found
    finally:
        for name in names:
            subprocess.run(["docker", "rm", "-f", name], capture_output=True, check=False)


def test_image_goes_in_and_out(h: Harness) -> None:
    """An image of the test's own: loaded by its config digest, saved, refused while used, dropped, dropped again."""
    from tests.support.images import SMALL, config_of, sha256, tar_of

    layer = tar_of(*SMALL)
    config = config_of([layer], Cmd=["none"], Labels={"made": str(time.time_ns())})
    digest = sha256(config)
    manifest = msgspec.json.encode([{"Config": "config.json", "RepoTags": None, "Layers": ["layer.tar"]}])
    from tests.support.images import entry

    archive = tar_of(
        entry("config.json", data=config), entry("layer.tar", data=layer), entry("manifest.json", data=manifest)
    )
    backend = h.backend
    assert not backend.has_image(digest)
    backend.load_image(archive[start : start + 1000] for start in range(0, len(archive), 1000))
    assert backend.has_image(digest)
    assert digest.removeprefix("sha256:").encode() in b"".join(backend.save_image(digest))
    body = h.body("none")
    assert body.image is not None
    body = msgspec.structs.replace(body, image=msgspec.structs.replace(body.image, config_digest=digest))
    backend.create(body)
    with pytest.raises(Conflict):
        backend.drop_image(digest)
    backend.delete(ref_of(body))
    backend.drop_image(digest)
    backend.drop_image(digest)
    assert not backend.has_image(digest)
    with pytest.raises(NotFound):
        backend.save_image(digest)
    with pytest.raises(NotFound, match="busybox"):
        backend.create(body)
    assert not body.directory.exists()


def test_nonsense_is_no_image(h: Harness) -> None:
    with pytest.raises(VmctlError):
        h.backend.load_image(iter([b"this is no archive" * 100]))


def test_listing_and_running_do_not_import_the_sdk(h: Harness) -> None:
    """80 ms at each start of ``vmctl ps`` and ``vmctl run``."""
    ref = h.start(*IDLE)
    code = f"""
import sys
from pathlib import Path
from vmctl.backends.base import Ref
from vmctl.backends.docker.adapter import open_backend
backend = open_backend(Path("/nowhere"))
ref = Ref({ref.id!r}, Path({str(ref.directory)!r}))
assert any(one.id == ref.id for one in backend.instances())
backend.foreign(), backend.inspect(ref), backend.stats([ref]), backend.stop(ref, timeout=5), backend.start(ref)
assert backend.has_image({h.image.config_digest if h.image else ""!r})
heavy = {{"docker", "requests", "urllib3", "http", "http.client", "email", "asyncio", "rich", "typer"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_many_sessions_at_once(h: Harness) -> None:
    """One backend object serves several threads."""
    from concurrent.futures import ThreadPoolExecutor

    ref = h.start(*IDLE)
    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(lambda code: h.exec(ref, "sh", "-c", f"echo {code}; exit {code}"), range(8)))
    assert [(end.code, end.out) for end in ends] == [(code, f"{code}\n".encode()) for code in range(8)]


def test_a_large_stream_through_stdin(h: Harness) -> None:
    ref = h.start(*IDLE)
    data = os.urandom(8 << 20)
    attachment = h.exec(ref, "cat", stdin=data)
    assert attachment.out == data
    assert h.backend.exec(ref, _process("true")) is not None


def _process(*argv: str) -> object:
    from vmctl.model.process import Process

    return Process(argv=argv, env={"PATH": "/bin"})


def test_attach_of_a_started_one_is_the_same_session(h: Harness) -> None:
    """start(attach) of what runs already attaches to it."""
    ref = h.start(*IDLE)
    attachment = h.backend.start(ref, attach=True)
    h.backend.kill(ref)
    assert pump(attachment).code == 137


def test_somebody_elses_container_of_our_name(h: Harness) -> None:
    assert h.image is not None
    body = h.body("true")
    docker("create", "--name", native_name(body.id), h.image.config_digest, "true")
    try:
        with pytest.raises(Conflict):
            h.backend.create(body)
        assert docker("inspect", "-f", "{{.State.Status}}", native_name(body.id)) == "created"
    finally:
        docker("rm", "-f", native_name(body.id))
    h.made.remove(Ref(body.id, body.directory))
