"""The engine and the store agree: what goes out comes back, under the same digests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import docker_archive, entry, make_store, tar_of
from vmctl.images.recipe import Base, BuildRecipe
from vmctl.images.store import ImageStore

pytestmark = pytest.mark.docker


def docker(*arguments: str, stdin: bytes | None = None) -> bytes:
    return subprocess.run(["docker", *arguments], input=stdin, capture_output=True, check=True).stdout


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[tuple[ImageStore, str]]:
    """A busybox of this test's own in the engine, and its id there."""
    store = make_store(tmp_path)
    store.build("busybox", BuildRecipe(base=Base.BUSYBOX))
    own = tar_of(entry("own", data=str(tmp_path).encode()))
    base = store.inspect("busybox").layers[0][7:]
    layer = (tmp_path / "images" / "blobs" / "sha256" / base).read_bytes()
    view = store.import_("own", iter([docker_archive([layer, own])]))
    docker("load", stdin=b"".join(store.docker_archive("own")))
    yield store, view.config_digest
    docker("rmi", "-f", view.config_digest)


def test_docker_knows_the_image_by_its_config_digest(loaded: tuple[ImageStore, str], tmp_path: Path) -> None:
    _, config_digest = loaded
    assert docker("run", "--rm", config_digest, "/bin/cat", "/own") == str(tmp_path).encode()


def test_what_docker_saves_is_the_same_image(loaded: tuple[ImageStore, str]) -> None:
    store, config_digest = loaded
    with subprocess.Popen(["docker", "save", config_digest], stdout=subprocess.PIPE) as saved:
        assert saved.stdout is not None
        back = store.import_("back", iter(lambda: saved.stdout.read(1 << 16), b""))  # type: ignore[union-attr]
    assert back.digest == store.resolve("own")
