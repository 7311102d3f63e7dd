"""The sum is kept: over all kinds, over many processes, and with what others have started."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runner import Vmctl

pytestmark = [pytest.mark.docker, pytest.mark.libvirt, pytest.mark.sandbox, pytest.mark.xdist_group("memory")]

GIB = 1 << 30


def host_memory() -> int:
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    return int(line.split()[1]) * 1024


MOST = f"{host_memory() * 6 // 10 // GIB}G"


def sleeper(kind: str, name: str, memory: str) -> tuple[str, ...]:
    return ("run", "-d", "--kind", kind, "--name", name, "-m", memory, "busybox", "--", "sleep", "600")


@pytest.mark.parametrize(("first", "second"), [("app", "container"), ("container", "vm"), ("vm", "app")])
def test_two_that_together_exceed_the_host(vmctl_with_image: Vmctl, first: str, second: str) -> None:
    vmctl = vmctl_with_image
    vmctl(*sleeper(first, "holder", MOST)).expect()
    refused = vmctl(*sleeper(second, "late", MOST)).expect(75)
    error, hint = (line for line in refused.err.splitlines() if not line.startswith("note:"))
    assert error.startswith("error:")
    assert "mem" in error
    assert "needed" in error or "needs" in error
    assert "free" in error
    assert "holder" in error
    assert hint.startswith("hint:")
    assert [row["name"] for row in vmctl.json("ps", "-a")] == ["holder"]
    vmctl("rm", "-f", "holder").expect()
    vmctl(*sleeper(second, "late", MOST)).expect()


@pytest.mark.parametrize("kind", ["app", "container", "vm"])
def test_one_that_can_never_fit(vmctl_with_image: Vmctl, kind: str) -> None:
    refused = vmctl_with_image(*sleeper(kind, "huge", "1T")).expect(5)
    assert "mem" in refused.err
    refused = vmctl_with_image("run", "-d", "--kind", kind, "--cpus", "200", "busybox", "--", "true").expect(5)
    assert "CPU needs 200" in refused.err
    assert vmctl_with_image.json("ps", "-a") == []


def test_errors_for_machines(vmctl_with_image: Vmctl) -> None:
    flags = ("--kind", "app", "-m", "1T", "--format", "json")
    refused = vmctl_with_image("run", "-d", *flags, "busybox", "--", "true").expect(5)
    document = json.loads(refused.err.splitlines()[-1])
    assert (document["kind"], document["code"]) == ("error", "never-fits")


@pytest.fixture
def foreign_domain() -> Iterator[str]:
    name = f"foreign-{uuid.uuid4().hex[:8]}"
    root = ET.Element("domain", type="qemu")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "memory", unit="b").text = str(host_memory() * 6 // 10)
    ET.SubElement(ET.SubElement(root, "os"), "type", arch="x86_64", machine="q35").text = "hvm"
    subprocess.run(
        ["virsh", "-q", "create", "/dev/stdin"], input=ET.tostring(root), check=True, capture_output=True, timeout=60
    )
    yield name
    subprocess.run(["virsh", "-q", "destroy", name], check=False, capture_output=True, timeout=60)
    Path(f"/var/log/libvirt/qemu/{name}.log").unlink(missing_ok=True)


@pytest.fixture
def foreign_container(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/busybox", tmp_path / "bin" / "sleep")
    name = f"foreign-{uuid.uuid4().hex[:8]}"
    archive = subprocess.run(["tar", "cf", "-", "-C", str(tmp_path), "bin"], check=True, capture_output=True).stdout
    subprocess.run(["docker", "import", "-", name], input=archive, check=True, capture_output=True, timeout=60)
    limit = str(host_memory() * 6 // 10)
    subprocess.run(
        ["docker", "run", "-d", "--name", name, "--memory", limit, name, "/bin/sleep", "600"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    yield name
    subprocess.run(["docker", "rm", "-f", name], check=False, capture_output=True, timeout=60)
    subprocess.run(["docker", "rmi", "-f", name], check=False, capture_output=True, timeout=60)


def check_refused_beside(vmctl: Vmctl, name: str) -> None:
    refused = vmctl(*sleeper("app", "late", MOST)).expect(75)
    assert name in refused.err
    small = sleeper("app", "small", "64M")
    vmctl(*small).expect()


def test_a_domain_that_virsh_started_counts(vmctl_with_image: Vmctl, foreign_domain: str) -> None:
    check_refused_beside(vmctl_with_image, foreign_domain)
    subprocess.run(["virsh", "-q", "destroy", foreign_domain], check=True, capture_output=True, timeout=60)
    vmctl_with_image(*sleeper("app", "late", MOST)).expect()


def test_a_container_that_docker_started_counts(vmctl_with_image: Vmctl, foreign_container: str) -> None:
    check_refused_beside(vmctl_with_image, foreign_container)
    subprocess.run(["docker", "rm", "-f", foreign_container], check=True, capture_output=True, timeout=60)
    vmctl_with_image(*sleeper("app", "late", MOST)).expect()


@pytest.mark.parametrize("backend", ["fake", "sandbox"])
def test_sixteen_racing_for_eight(vmctl_with_image: Vmctl, backend: str) -> None:
    vmctl = vmctl_with_image
    # Of memory others on this host take some, at any time; of a ledger's instances nobody but itself.
    vmctl("host", "set", "inst", "--total", "8").expect()
    flags = ("run", "-d", "--backend", backend, "--kind", "app", "--cpus", "0.1", "-m", "16M", "busybox")
    racers = [vmctl.start(*flags, "--", "sleep", "600") for _ in range(16)]
    codes = []
    for racer in racers:
        racer.communicate(timeout=120)
        codes.append(racer.returncode)
    assert sorted(codes) == [0] * 8 + [75] * 8
    assert len(vmctl.json("ps")) == 8
