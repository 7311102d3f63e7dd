"""``vmctl doctor`` on this host: whole, and with parts taken away."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.runner import Vmctl

pytestmark = [pytest.mark.libvirt, pytest.mark.docker, pytest.mark.sandbox]


def checks(vmctl: Vmctl, code: int, **env: str) -> dict[str, dict[str, Any]]:
    done = vmctl("doctor", "--format", "json", env=env, timeout=180).expect(code)
    return {item["part"]: item for item in json.loads(done.out)["items"]}


def test_a_host_that_is_set_up_is_whole(vmctl: Vmctl) -> None:
    found = checks(vmctl, 0)
    assert {"permissions", "cgroups", "user namespaces", "AppArmor", "seccomp", "bubblewrap"} <= found.keys()
    assert {"libvirt", "docker", "sandbox", "accelerator", "machine kernel", "free disk", "ledger"} <= found.keys()
    assert [part for part, check in found.items() if check["needed"] and not check["ok"]] == []
    assert all(check["remedy"] for check in found.values() if not check["ok"])
    assert found["accelerator"]["detail"].startswith(("kvm", "tcg: "))


def test_people_read_marks_and_remedies(vmctl: Vmctl) -> None:
    done = vmctl("doctor", env={"DOCKER_HOST": "unix:///nowhere/docker.sock"}, timeout=180).expect(1)
    lines = done.out.splitlines()
    assert any(line.startswith("✓ sandbox") for line in lines)
    broken = next(index for index, line in enumerate(lines) if line.startswith("✗ docker"))
    assert "remedy: " in lines[broken + 1]


def test_a_program_that_is_gone(vmctl: Vmctl, tmp_path: Path) -> None:
    """A PATH that holds every program but bwrap."""
    for folder in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        for program in os.listdir(folder) if os.path.isdir(folder) else ():
            if program != "bwrap" and not (tmp_path / program).is_symlink():
                (tmp_path / program).symlink_to(f"{folder}/{program}")
    assert shutil.which("bwrap", path=str(tmp_path)) is None
    found = checks(vmctl, 1, PATH=str(tmp_path))
    assert not found["bubblewrap"]["ok"]
    assert found["bubblewrap"]["remedy"] == "apt-get install bubblewrap"
    assert not found["sandbox"]["ok"]
    assert found["libvirt"]["ok"]


def test_a_damaged_ledger(vmctl: Vmctl) -> None:
    (vmctl.state_dir / "ledger.db").write_bytes(b"no database" * 1000)
    found = checks(vmctl, 1)
    assert not found["ledger"]["ok"]
    assert found["ledger"]["remedy"]
    (vmctl.state_dir / "ledger.db").unlink()
