"""Fixtures and rules for every test: ledgers of their own, real daemons or an honest word about their absence."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import daemons
from tests.support.leftovers import assert_nothing_left, names_of
from tests.support.runner import Vmctl
from vmctl.paths import default_paths

IMAGE = "busybox"
_ROOT = "VMCTL_TEST_ROOT"


def pytest_configure(config: pytest.Config) -> None:
    """One folder for all workers of a run: short (sockets' paths end at 107 bytes) and open to QEMU's user (0711)."""
    try:
        daemons.required()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    if not hasattr(config, "workerinput"):
        root = Path(tempfile.mkdtemp(prefix="vt-", dir="/var/tmp"))
        root.chmod(0o711)
        os.environ[_ROOT] = str(root)


def pytest_unconfigure(config: pytest.Config) -> None:
    """The image is removed as a user would, so that no backend keeps a copy of it."""
    if not hasattr(config, "workerinput") and (root := os.environ.pop(_ROOT, "")):
        if (shared := Path(root) / "shared").exists():
            Vmctl(shared)("image", "rm", IMAGE)
        shutil.rmtree(root, ignore_errors=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A marked test skips where its daemon is absent, and fails where VMCTL_TEST_REQUIRE promised it."""
    for marker in daemons.REAL:
        if item.get_closest_marker(marker) and (reason := daemons.why_absent(marker)):
            if marker in daemons.required():
                pytest.fail(f"VMCTL_TEST_REQUIRE names {marker}, but {reason}", pytrace=False)
            pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where every backend is required nothing may be skipped, whatever the reason."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and daemons.required() == set(daemons.REAL):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"VMCTL_TEST_REQUIRE allows no skip: {reason}"
    return report


@pytest.fixture(scope="session")
def shared_state() -> Path:
    """A state folder for the whole run: images and kernels are made in it once, by whichever worker comes first."""
    folder = Path(os.environ[_ROOT]) / "shared"
    _make_state(folder)
    return folder


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """A fresh, empty state folder, with the host's prepared kernels linked into it (to fetch one takes a while).

    Whatever the test leaves in it is removed, and then looked for: a leftover fails the test.
    """
    folder = Path(tempfile.mkdtemp(prefix="s-", dir=os.environ[_ROOT]))
    _make_state(folder)
    yield folder
    _remove_all(folder)


@pytest.fixture
def vmctl(state_dir: Path) -> Vmctl:
    """The command line with an empty ledger and an empty image store."""
    return Vmctl(state_dir)


@pytest.fixture
def vmctl_with_image(state_dir: Path, shared_state: Path, busybox_image: str) -> Vmctl:
    """The command line with an empty ledger and the run's image store, in which ``busybox`` is."""
    for folder in ("images", "cache"):
        (state_dir / folder).symlink_to(shared_state / folder)
    return Vmctl(state_dir)


@pytest.fixture(scope="session")
def busybox_image(shared_state: Path) -> str:
    """The name of an image of busybox in ``shared_state``, built once."""
    with (shared_state / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        vmctl = Vmctl(shared_state)
        if not any(image["name"].startswith(f"{IMAGE}:") for image in vmctl.json("image", "ls")):
            vmctl("image", "build", IMAGE, "--from", "busybox", timeout=300).expect()
    return IMAGE


def _make_state(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    folder.chmod(0o711)
    kernels = default_paths().state / "kernels"
    kernels.mkdir(mode=0o755, parents=True, exist_ok=True)
    with suppress(FileExistsError):  # another worker may make the same folder
        (folder / "kernels").symlink_to(kernels)


def _remove_all(folder: Path) -> None:
    if names := names_of(folder):
        Vmctl(folder)("rm", "-f", *names)
    assert_nothing_left(folder)
    shutil.rmtree(folder, ignore_errors=True)
