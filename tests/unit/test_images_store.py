"""The store: names, digests, removal, crashes, company, a full disk."""

from __future__ import annotations

import errno
import gzip
import multiprocessing
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import (
    SMALL,
    OciFolder,
    assert_untouched,
    blobs,
    docker_archive,
    entry,
    make_store,
    sha256,
    tar_of,
)
from vmctl.errors import BackendUnavailable, Conflict, NotFound, UsageError, VmctlError
from vmctl.images import store as store_module
from vmctl.images import tools
from vmctl.images.recipe import Base, BuildRecipe
from vmctl.images.store import ImageStore
from vmctl.model.image import ImageForm

BUSYBOX = BuildRecipe(base=Base.BUSYBOX)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return make_store(tmp_path)


def rootfs(tmp_path: Path, text: bytes) -> Path:
    """A root file system that differs by ``text``."""
    path = tmp_path / "rootfs.tar"
    path.write_bytes(tar_of(*SMALL, entry("etc/version", data=text)))
    return path


def test_reading_an_absent_store_makes_nothing(tmp_path: Path, store: ImageStore) -> None:
    assert store.list() == []
    assert [row.size for row in store.usage()] == [0, 0, 0]
    assert store.verify() == ()
    assert not (tmp_path / "images").exists()


def test_found_by_name_digest_and_beginning(tmp_path: Path, store: ImageStore) -> None:
    view = store.import_("os:1", rootfs(tmp_path, b"1"))
    for reference in ("os:1", view.digest, view.digest[:20], view.digest[7:15]):
        assert store.resolve(reference) == view.digest
    assert store.inspect("os:1") == view
    assert store.config("os:1").cmd == ("/bin/sh",)
    for reference in ("os", "os:2", "sha256:" + "0" * 64, "Not/A:Name", ""):
        with pytest.raises(NotFound):
            store.resolve(reference)


def test_unknown_names_are_told_the_nearest(tmp_path: Path, store: ImageStore) -> None:
    with pytest.raises(NotFound) as caught:
        store.resolve("busybox")
    assert "image build busybox" in caught.value.hint
    store.import_("debian", rootfs(tmp_path, b"1"))
    with pytest.raises(NotFound) as caught:
        store.resolve("debain")
    assert caught.value.hint == "did you mean 'debian'?"


def test_an_ambiguous_beginning_is_refused(tmp_path: Path, store: ImageStore) -> None:
    for number in range(17):
        store.import_(f"os:{number}", rootfs(tmp_path, b"%d" % number))
    first = [view.digest[7] for view in store.list()]
    twice = next(char for char in first if first.count(char) > 1)
    with pytest.raises(UsageError, match="several images"):
        store.resolve(twice)


def test_a_name_moves_and_the_old_image_stays_until_pruned(tmp_path: Path, store: ImageStore) -> None:
    old = store.import_("os", rootfs(tmp_path, b"old"))
    new = store.import_("os", rootfs(tmp_path, b"new"))
    assert [(view.name, view.digest) for view in store.list()] == [("os:latest", new.digest), ("", old.digest)]
    assert store.usage()[0].reclaimable > 0
    store.prune(in_use=[old.digest])
    assert store.inspect(old.digest).name == ""
    assert store.prune() > 0
    assert [view.digest for view in store.list()] == [new.digest]
    assert store.usage()[0].reclaimable == 0


def test_an_image_that_gets_its_name_back_is_listed_once(tmp_path: Path, store: ImageStore) -> None:
    store.import_("os", rootfs(tmp_path, b"old"))
    store.import_("os", rootfs(tmp_path, b"new"))
    store.import_("os", rootfs(tmp_path, b"old"))
    assert sorted(view.name for view in store.list()) == ["", "os:latest"]
    assert len({view.digest for view in store.list()}) == 2


def test_removing_a_name_keeps_the_others(tmp_path: Path, store: ImageStore) -> None:
    view = store.import_("one", rootfs(tmp_path, b"1"))
    store.tag("one", "two")
    store.remove("one")
    assert [(one.name, one.digest) for one in store.list()] == [("two:latest", view.digest)]
    assert store.verify() == ()
    store.remove(view.digest[7:20])
    assert_untouched(tmp_path)


def test_layers_are_shared_and_outlive_one_owner(tmp_path: Path, store: ImageStore) -> None:
    layer = tar_of(*SMALL)
    store.import_("a", iter([docker_archive([layer, tar_of(entry("a"))])]))
    store.import_("b", iter([docker_archive([layer, tar_of(entry("b"))])]))
    assert len(blobs(tmp_path)) == 3 + 2 * 2  # layers, and for each a config and a manifest
    store.remove("a")
    assert store.verify() == ()
    assert store.inspect("b").layers[0] in {f"sha256:{name}" for name in blobs(tmp_path)}


def test_names_come_with_the_image_or_must_be_said(tmp_path: Path, store: ImageStore) -> None:
    assert store.import_(None, iter([docker_archive([tar_of(*SMALL)])])).name == "made:1"
    assert store.import_(None, OciFolder(tmp_path / "layout", tar_of(*SMALL)).write()).name == "layout:7"
    with pytest.raises(UsageError, match="no name of its own"):
        store.import_(None, rootfs(tmp_path, b"1"))


def test_compressed_layers_stay_as_they_are(tmp_path: Path, store: ImageStore) -> None:
    layout = OciFolder(tmp_path / "layout", tar_of(*SMALL), "application/vnd.oci.image.layer.v1.tar+gzip")
    view = store.import_("z", layout.write())
    assert view.layers == (layout.manifest["layers"][0]["digest"],)
    again = store.import_("again", store.docker_archive("z"))
    assert (again.layers, again.config_digest) == (view.layers, view.config_digest)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_archives_of_layouts_are_read(tmp_path: Path, store: ImageStore, pack) -> None:  # type: ignore[no-untyped-def]
    folder = OciFolder(tmp_path / "layout", tar_of(*SMALL)).write()
    files = [path for path in folder.rglob("*") if path.is_file()]
    members = [entry(str(path.relative_to(folder)), data=path.read_bytes()) for path in files]
    (tmp_path / "layout.tar").write_bytes(pack(tar_of(*members)))
    assert store.import_("a", tmp_path / "layout.tar").digest == store.import_("b", folder).digest


def test_zstd_layers_are_repacked_under_the_same_config(tmp_path: Path, store: ImageStore) -> None:
    layout = OciFolder(tmp_path / "layout", tar_of(*SMALL), "application/vnd.oci.image.layer.v1.tar+zstd")
    layout.blob = subprocess.run(["zstd", "-c"], input=layout.blob, capture_output=True, check=True).stdout
    layout.manifest["layers"] = [layout.describe(layout.blob, "application/vnd.oci.image.layer.v1.tar+zstd")]
    view = store.import_("z", layout.write())
    assert view.layers == (sha256(tar_of(*SMALL)),)
    assert view.config_digest == sha256(layout.config)
    assert len(blobs(tmp_path)) == 3
    (tmp_path / "rootfs.tar.zst").write_bytes(layout.blob)
    assert store.import_("rootfs", tmp_path / "rootfs.tar.zst").layers


def test_a_damaged_blob_is_found_and_the_rest_still_listed(tmp_path: Path, store: ImageStore) -> None:
    bad = store.import_("bad", rootfs(tmp_path, b"1"))
    store.import_("good", rootfs(tmp_path, b"2"))
    path = tmp_path / "images" / "blobs" / "sha256" / bad.config_digest[7:]
    path.chmod(0o600)
    path.write_bytes(path.read_bytes() + b" ")
    assert len(store.verify()) == 2  # the blob, and the image that needs it
    with pytest.raises(VmctlError, match="is damaged"):
        store.inspect("bad")
    assert [view.name for view in store.list()] == ["bad:latest", "good:latest"]
    store.import_("bad", rootfs(tmp_path, b"1"))
    assert store.verify() == ()


def test_a_damaged_image_can_be_removed(tmp_path: Path, store: ImageStore) -> None:
    view = store.import_("bad", rootfs(tmp_path, b"1"))
    (tmp_path / "images" / "blobs" / "sha256" / view.digest[7:]).unlink()
    store.remove("bad")
    assert_untouched(tmp_path)


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path).prune()  # the store's own files are there

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VmctlError, match="no space left"):
        make_store(tmp_path).build("busybox", BUSYBOX)
    assert_untouched(tmp_path)


def test_a_source_that_breaks_off_leaves_nothing(tmp_path: Path, store: ImageStore) -> None:
    def broken() -> Iterator[bytes]:
        yield docker_archive([tar_of(*SMALL)])[:700]
        raise BackendUnavailable("the engine went away")

    with pytest.raises(BackendUnavailable):
        store.import_("x", broken())
    assert_untouched(tmp_path)


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path, store: ImageStore) -> None:
    store.prune()
    left = tmp_path / "images" / "tmp" / "killed"
    left.mkdir()
    (left / "blob").write_bytes(b"half")
    store.import_("x", rootfs(tmp_path, b"1"))
    assert not left.exists()


def test_nothing_is_collected_under_a_writer(
    tmp_path: Path, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import that has staged its blobs keeps prune out, and ends whole."""
    monkeypatch.setattr(store_module, "_PATIENCE", 0.2)

    def source() -> Iterator[bytes]:
        yield docker_archive([tar_of(*SMALL)])
        with pytest.raises(Conflict):
            make_store(tmp_path).prune()

    store.import_("x", source())
    assert store.verify() == ()


def _build(folder: Path, name: str) -> None:
    make_store(folder).build(name, BUSYBOX)
    make_store(folder).prepare(name, ImageForm.TREE)


def test_many_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    names = [f"bb:{number}" for number in range(6)]
    workers = [context.Process(target=_build, args=(tmp_path, name)) for name in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 6
    store = make_store(tmp_path)
    assert [view.name for view in store.list()] == names
    assert len({view.digest for view in store.list()}) == 1
    assert len(blobs(tmp_path)) == 3
    assert len(list((tmp_path / "images" / "trees").iterdir())) == 1


def test_a_missing_tool_is_named_with_its_package(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.build("busybox", BUSYBOX)
    monkeypatch.setattr(tools.shutil, "which", lambda *arguments, **options: None)
    for form in (ImageForm.TREE, ImageForm.DISK):
        with pytest.raises(BackendUnavailable) as caught:
            store.prepare("busybox", form)
        assert caught.value.hint == "apt-get install umoci"
    with pytest.raises(BackendUnavailable) as caught:
        store.build("debian", BuildRecipe(base=Base.DEBIAN, suite="bookworm"))
    assert caught.value.hint.startswith("apt-get install ")


@pytest.mark.parametrize("recipe", [{"suite": "../x"}, {"suite": "--hook"}, {"include": ("a;b",)}, {"include": ("",)}])
def test_names_that_are_no_packages_or_suites_are_refused(store: ImageStore, recipe: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError):
        store.build("x", BuildRecipe(base=Base.DEBIAN, **recipe))
