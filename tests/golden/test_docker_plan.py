"""What is sent to the engine, word for word, and what is refused before. VMCTL_TEST_GOLDEN=write renews the files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmctl.backends.base import Body
from vmctl.backends.docker.adapter import open_backend
from vmctl.errors import Unsupported, UsageError, VmctlError
from vmctl.model.image import ImageConfig, PreparedImage
from vmctl.model.process import resolve_process
from vmctl.model.spec import InstanceSpec, Mount, Port
from vmctl.model.state import Kind, RestartPolicy

GOLDEN = Path(__file__).parent
CONFIG = ImageConfig(entrypoint=("/entry",), cmd=("serve",), env=("A=image", "B=image"), user="app", workdir="/srv",
                     stop_signal="SIGQUIT")  # fmt: skip
IMAGE = PreparedImage(name="web", digest="sha256:" + "d" * 64, config_digest="sha256:" + "c" * 64, config=CONFIG)
SPECS = {
    "minimal": InstanceSpec(kind=Kind.CONTAINER, name="web", image="web"),
    "full": InstanceSpec(
        kind=Kind.CONTAINER,
        name="web",
        image="web",
        command=("sh", "-c", "echo 'quoted \"text\"' ü"),
        entrypoint=("/bin/busybox",),
        env={"A": "spec"},
        workdir="/tmp",
        user="1000:1000",
        hostname="other",
        labels={"team": "blue", "vmctl.id": "forged"},
        cpu_millis=1500,
        memory=256 << 20,
        pids=64,
        mounts=(Mount(source="/data", target="/data", read_only=True), Mount(source="cache", target="/var/cache")),
        ports=(Port(port=80, host_port=8080), Port(port=80, host_address="::1"), Port(port=53, protocol="udp")),
        network="backbone",
        tty=True,
        stdin=True,
        read_only=True,
        restart=RestartPolicy.ON_FAILURE,
        restart_max=3,
        stop_signal="SIGUSR1",
        stop_timeout=2.6,
    ),
}


def body(spec: InstanceSpec) -> Body:
    return Body(
        id="01hzzzzzzzzzzzzzzzzzzzzzzz",
        ledger="00000000-0000-0000-0000-000000000001",
        claim="01hzzzzzzzzzzzzzzzzzzzzzzc",
        name=spec.name,
        spec=spec,
        directory=Path("/var/lib/vmctl/instances/01hzzzzzzzzzzzzzzzzzzzzzzz"),
        process=resolve_process(spec, CONFIG),
        image=IMAGE,
    )


@pytest.mark.parametrize("name", SPECS)
def test_plan(name: str, tmp_path: Path) -> None:
    plan = open_backend(tmp_path).plan(body(SPECS[name]))
    file = GOLDEN / f"docker_{name}.json"
    if os.environ.get("VMCTL_TEST_GOLDEN") == "write":
        file.write_text(plan.text)
    assert plan.text == file.read_text()


BAD: dict[str, tuple[type[VmctlError], dict[str, object]]] = {
    "kind": (Unsupported, {"kind": Kind.APP}),
    "no image": (UsageError, {"image": None}),
    "too little CPU": (UsageError, {"cpu_millis": 9}),
    "too little memory": (UsageError, {"memory": (6 << 20) - 1}),
    "no process": (UsageError, {"pids": 0}),
    "ports without network": (UsageError, {"ports": (Port(port=80),), "network": "none"}),
    "ports on the host's network": (UsageError, {"ports": (Port(port=80),), "network": "host"}),
    "protocol": (UsageError, {"ports": (Port(port=80, protocol="ip"),)}),
    "relative target": (UsageError, {"mounts": (Mount(source="/a", target="b"),)}),
    "a target twice": (UsageError, {"mounts": (Mount(source="/a", target="/b"), Mount(source="/c", target="/b"))}),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_before_anything_is_made(name: str, tmp_path: Path) -> None:
    error, changes = BAD[name]
    spec = InstanceSpec(**{"kind": Kind.CONTAINER, "name": "web", "image": "web"} | changes)  # type: ignore[arg-type]
    with pytest.raises(error):
        open_backend(tmp_path).validate(spec)


def test_bytes_that_json_cannot_carry_are_refused(tmp_path: Path) -> None:
    spec = InstanceSpec(kind=Kind.CONTAINER, name="web", image="web", command=("echo", "\udcff"))
    with pytest.raises(UsageError, match="UTF-8"):
        open_backend(tmp_path).plan(body(spec))


def test_overhead_grows_with_the_ports(tmp_path: Path) -> None:
    backend = open_backend(tmp_path)
    small, large = backend.overhead(SPECS["minimal"]), backend.overhead(SPECS["full"])
    assert large.memory - small.memory == 3 << 20
    assert large.pids > small.pids > 0
