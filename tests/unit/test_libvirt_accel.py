"""The proof of KVM, with programs that stand in for QEMU; and the memory of its verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmctl.backends.libvirt import accel

GOOD = "printf '[ 0.0] Linux version 6.1\\n[ 0.4] Run /init as init process\\n'; exec sleep 60"
ROOTLESS = "printf 'booting\\nVFS: Unable to mount root fs on unknown-block(0,0)\\n'; exec sleep 60"
SILENT = "exec sleep 60"
STUCK = "printf 'Linux version'; exec sleep 60"
DIES = "echo 'qemu: error: failed to set MSR 0x10a to 0x0' >&2; exit 1"


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(accel, "_FIRST_BYTE", 0.5)
    monkeypatch.setattr(accel, "_USER_SPACE", 1.0)
    monkeypatch.setattr(accel, "cannot_open", lambda: "")
    monkeypatch.setattr(accel, "no_virtualization", lambda: "")
    program = tmp_path / "qemu"
    monkeypatch.setattr(accel.shutil, "which", lambda name: str(program))
    (tmp_path / "vmlinuz").touch()
    return program


def behave(emulator: Path, script: str) -> None:
    emulator.write_text(f"#!/bin/sh\necho run >> {emulator}.runs\n{script}\n")
    emulator.chmod(0o755)


def verdict(emulator: Path) -> accel.Verdict:
    folder = emulator.parent
    return accel.verdict(folder / "cache", [accel.Guest(folder / "missing"), accel.Guest(folder / "vmlinuz")])


@pytest.mark.parametrize("script", [GOOD, ROOTLESS])
def test_a_kernel_that_reaches_user_space_proves_it(emulator: Path, script: str) -> None:
    behave(emulator, script)
    assert verdict(emulator).fact == "kvm"


@pytest.mark.parametrize(
    ("script", "word"),
    [(SILENT, "printed nothing"), (STUCK, "did not reach user space"), (DIES, "failed to set MSR 0x10a")],
)
def test_anything_else_does_not(emulator: Path, script: str, word: str) -> None:
    behave(emulator, script)
    found = verdict(emulator)
    assert found.accel == "tcg"
    assert word in found.reason
    assert found.fact.startswith("tcg: ")


def test_the_verdict_is_remembered_until_something_changes(emulator: Path) -> None:
    behave(emulator, GOOD)
    assert verdict(emulator) == verdict(emulator)
    runs = Path(f"{emulator}.runs")
    assert runs.read_text().count("run") == 1
    behave(emulator, DIES + " # another QEMU")
    assert verdict(emulator).accel == "tcg"
    assert runs.read_text().count("run") == 2


def test_bad_signs_spare_the_try_unless_it_is_forced(emulator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(emulator, GOOD)
    monkeypatch.setattr(accel, "no_virtualization", lambda: "no flag")
    cache, guest = emulator.parent / "cache", accel.Guest(emulator.parent / "vmlinuz")
    assert accel.verdict(cache, [guest]).fact == "tcg: no flag"
    assert not Path(f"{emulator}.runs").exists()
    assert accel.verdict(cache, [guest], force=True).fact == "kvm"


def test_without_a_kernel_nothing_is_proven_or_remembered(emulator: Path) -> None:
    behave(emulator, GOOD)
    assert "not proven" in accel.verdict(emulator.parent / "cache", []).reason
    assert not (emulator.parent / "cache").exists()


def test_a_device_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(accel, "_DEVICE", tmp_path / "kvm")
    assert accel.verdict(tmp_path, []).fact == f"tcg: there is no {tmp_path / 'kvm'}"
