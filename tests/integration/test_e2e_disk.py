"""A machine that boots by itself: firmware, boot sector, no image and no init of ours."""

from __future__ import annotations

import hashlib
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.leftovers import assert_nothing_left
from tests.support.runner import Vmctl

pytestmark = pytest.mark.libvirt

MESSAGE = b"booted from disk\r\n\0"
BOOT_SECTOR = (
    bytes.fromhex("31c0 8ed8 fc be167c baf803")  # ds = 0, si = the message, dx = the first serial port
    + bytes.fromhex("ac 84c0 7403 ee ebf8")      # one character after the other
    + bytes.fromhex("f4 ebfd")                   # halt for good
    + MESSAGE
).ljust(510, b"\0") + b"\x55\xaa"


@pytest.fixture
def disk(vmctl: Vmctl) -> Path:
    file = vmctl.state_dir / "cwd" / "disk.raw"
    file.write_bytes(BOOT_SECTOR.ljust(1 << 20, b"\0"))
    file.chmod(0o644)
    file.parent.chmod(0o755)  # QEMU runs as another user
    return file


def test_boots_logs_stops_and_leaves_the_disk_alone(vmctl: Vmctl, disk: Path) -> None:
    before = hashlib.sha256(disk.read_bytes()).hexdigest()
    vmctl("run", "-d", "--vm", "--name", "own", "-m", "64M", "--disk", "2M", "--boot-disk", str(disk)).expect()
    deadline = time.monotonic() + 30
    while "booted from disk" not in (said := vmctl("logs", "own").expect().out) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert "booted from disk" in said
    assert [row["state"] for row in vmctl.json("ps")] == ["running"]
    vmctl("exec", "own", "--", "true").expect(7)
    started = time.monotonic()
    vmctl("stop", "-t", "1s", "own").expect()  # nobody listens to the power button
    assert 1 <= time.monotonic() - started < 15
    assert [(row["state"], row["exit_code"]) for row in vmctl.json("ps", "-a")] == [("stopped", 137)]
    vmctl("start", "own").expect()
    vmctl("rm", "own").expect(4)
    vmctl("rm", "-f", "own").expect()
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == before
    assert_nothing_left(vmctl.state_dir)


def test_a_disk_that_names_another_file_is_refused(vmctl: Vmctl, disk: Path) -> None:
    linked = disk.with_name("linked.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(disk), "-F", "raw", str(linked)], check=True)
    refused = vmctl("run", "-d", "--vm", "-m", "64M", "--boot-disk", str(linked))
    assert refused.code in (2, 7)
    assert "backing" in refused.err
    assert vmctl.json("ps", "-a") == []
