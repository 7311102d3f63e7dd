"""The search for leftovers finds each kind of thing that was left, and only what is this ledger's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.leftovers import Leftover, assert_nothing_left, ids_of, leftovers, uuid_of
from tests.support.runner import Vmctl
from vmctl.ledger.ledger import Ledger
from vmctl.model.event import EventType
from vmctl.model.ids import native_name, new_id

Undo = Callable[[Callable[[], Any]], None]


@pytest.fixture
def later() -> Iterator[Undo]:
    """Registers what the test is to undo, run also when it fails."""
    with ExitStack() as stack:
        yield lambda step: stack.callback(step) and None


@pytest.fixture
def instance_id(state_dir: Path) -> str:
    """The id of an instance that this ledger knew once."""
    ledger = Ledger.open(state_dir / "ledger.db", state_dir / "run")
    known = new_id()
    ledger.record(EventType.CREATE, known, name="gone")
    ledger.close()
    return known


def places(state_dir: Path) -> set[str]:
    return {found.place for found in leftovers(state_dir, patience=0)}


def test_an_unused_ledger_leaves_nothing(state_dir: Path, instance_id: str) -> None:
    assert ids_of(state_dir) == {instance_id}
    assert len(uuid_of(state_dir)) >= 26
    assert_nothing_left(state_dir)


def test_files(state_dir: Path, instance_id: str) -> None:
    folder = state_dir / "instances" / instance_id
    folder.mkdir(parents=True)
    assert leftovers(state_dir, patience=0) == [Leftover("files", str(folder))]
    assert leftovers(state_dir, patience=0, keep=[instance_id]) == []
    folder.rmdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(state_dir / "run" / "s"))
    assert places(state_dir) == {"files"}
    (state_dir / "run" / "s").unlink()
    (state_dir / "tmp").mkdir(exist_ok=True)
    temporary = state_dir / "tmp" / "half"
    temporary.touch()
    with pytest.raises(AssertionError, match=f"files: {temporary}"):
        assert_nothing_left(state_dir, patience=0)
    temporary.unlink()


def sleeper(*args: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    code = "import sys, time; print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, *args], env=env or {}, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    process.stdout.close()
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_processes_by_command_line_and_by_environment(state_dir: Path, instance_id: str, later: Undo) -> None:
    started_with: list[tuple[tuple[str, ...], dict[str, str]]] = [
        ((native_name(instance_id),), {}),
        ((f"path={state_dir}/x",), {}),
        ((), {"VMCTL_STATE_DIR": str(state_dir)}),
    ]
    for args, env in started_with:
        process = sleeper(*args, env=env)
        later(lambda process=process: end(process))
        assert places(state_dir) == {"processes"}
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, not reaped: does not count
        assert places(state_dir) == set()
        process.wait()


def test_what_goes_soon_is_waited_for(state_dir: Path, instance_id: str, later: Undo) -> None:
    process = sleeper(instance_id)
    later(lambda: end(process))
    reaper = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {process.pid}"])
    later(reaper.wait)
    assert_nothing_left(state_dir, patience=10)


def test_mounts(state_dir: Path, instance_id: str, later: Undo) -> None:
    target = state_dir / "mounted"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(target)], check=True)
    later(lambda: subprocess.run(["umount", "-q", str(target)], check=False))
    assert leftovers(state_dir, patience=0) == [Leftover("mounts", str(target))]


@pytest.mark.sandbox
def test_cgroups(state_dir: Path, instance_id: str, later: Undo) -> None:
    top = Path("/sys/fs/cgroup")
    group = (top if (top / "cgroup.controllers").exists() else top / "pids") / native_name(instance_id)
    group.mkdir()
    later(group.rmdir)
    assert leftovers(state_dir, patience=0) == [Leftover("cgroups", str(group))]


def test_links(state_dir: Path, instance_id: str, later: Undo) -> None:
    name = f"vt{os.getpid()}"
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"], check=True)
    later(lambda: subprocess.run(["ip", "link", "del", name], check=True))
    assert places(state_dir) == set(), "somebody else's link"
    subprocess.run(["ip", "link", "set", name, "alias", native_name(instance_id)], check=True)
    assert leftovers(state_dir, patience=0) == [Leftover("links", name)]


@pytest.mark.libvirt
def test_domains_and_networks(state_dir: Path, instance_id: str, later: Undo) -> None:
    import libvirt

    connection = libvirt.open("qemu:///system")
    later(connection.close)
    name = native_name(instance_id)
    machine = "<os><type>hvm</type></os><memory unit='MiB'>32</memory>"
    domain = connection.defineXML(f"<domain type='qemu'><name>{name}</name>{machine}</domain>")
    later(domain.undefine)
    assert leftovers(state_dir, patience=0) == [Leftover("libvirt", name)]
    network = connection.networkDefineXML(f"<network><name>{name}</name></network>")
    later(network.undefine)
    assert Leftover("libvirt", f"network {name}") in leftovers(state_dir, patience=0)


@pytest.mark.docker
def test_docker_objects(state_dir: Path, instance_id: str, later: Undo) -> None:
    import docker

    client = docker.from_env()
    later(client.close)
    label = {"test": uuid_of(state_dir)}
    volume = client.volumes.create(labels=label)
    later(volume.remove)
    network = client.networks.create(native_name(instance_id), internal=True)
    later(network.remove)
    found = leftovers(state_dir, patience=0)
    assert {item.place for item in found} == {"docker"}
    assert {item.name.split()[0] for item in found} == {"volume", "network"}


def test_claims_and_instances(vmctl_with_image: Vmctl) -> None:
    state_dir = vmctl_with_image.state_dir
    vmctl_with_image("create", "--backend", "fake", "--name", "kept", "busybox", "--", "true").expect()
    assert {"claims", "instances"} <= places(state_dir)
    assert leftovers(state_dir, patience=0, keep=["kept", *ids_of(state_dir)]) == []
    vmctl_with_image("rm", "-f", "kept").expect()
    assert_nothing_left(state_dir)
