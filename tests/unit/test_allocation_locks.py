"""Owner locks: exclusive between descriptors, gone with the process, and never two of them for one claim."""

from __future__ import annotations

import fcntl
import multiprocessing
from pathlib import Path

import pytest

from vmctl.allocation import locks
from vmctl.allocation.locks import OwnerLocks


def test_one_at_a_time(tmp_path: Path) -> None:
    mine, yours = OwnerLocks(tmp_path / "run" / "claims"), OwnerLocks(tmp_path / "run" / "claims")
    assert mine.take("x")
    assert mine.take("x"), "again is fine"
    assert mine.holds("x")
    assert not yours.take("x")
    assert not yours.holds("x")
    mine.leave("x")
    assert yours.take("x")
    assert yours.files() == ["x"]
    yours.drop("x")
    assert yours.files() == []


def test_dies_with_its_process(tmp_path: Path) -> None:
    held = OwnerLocks(tmp_path)
    process = multiprocessing.get_context("fork").Process(target=lambda: OwnerLocks(tmp_path).take("x"))
    process.start()
    process.join()
    assert held.take("x")


def test_a_lock_on_a_removed_file_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between open and flock the owner drops the lock, with its file, and a third process takes a new one."""
    owner, third, late = OwnerLocks(tmp_path), OwnerLocks(tmp_path), OwnerLocks(tmp_path)
    assert owner.take("x")
    real = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        monkeypatch.setattr(locks.fcntl, "flock", real)
        owner.drop("x")
        assert third.take("x")
        real(fd, operation)

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    assert not late.take("x")
