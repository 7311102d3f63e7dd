"""One suite, four backends: each test of this folder runs once for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.harness import IDLE, Harness, harness
from vmctl.backends.base import Ref
from vmctl.images.store import ImageStore

BACKENDS = [
    pytest.param("fake"),
    pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.xdist_group("contract-docker")]),
    pytest.param("sandbox", marks=[pytest.mark.sandbox, pytest.mark.xdist_group("contract-sandbox")]),
    pytest.param("libvirt", marks=[pytest.mark.libvirt, pytest.mark.xdist_group("contract-libvirt")]),
]


@pytest.fixture(scope="module", params=BACKENDS)
def h(request: pytest.FixtureRequest, shared_state: Path) -> Iterator[Harness]:
    """The backend under test."""
    images = None
    if request.param != "fake":
        request.getfixturevalue("busybox_image")
        images = ImageStore(shared_state / "images", shared_state / "cache")
    with harness(request.param, shared_state, images) as made:
        yield made


@pytest.fixture(scope="module")
def idle(h: Harness) -> Ref:
    """One running instance for all tests of a module that leave it as they found it: a machine takes its time."""
    return h.start(*IDLE)
