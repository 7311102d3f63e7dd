"""Prepared forms by the real tools: umoci's trees and mkfs.erofs's disks."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.images import KERNEL, SMALL, docker_archive, entry, make_store, tar_of
from vmctl.images.names import hex_of
from vmctl.images.recipe import Base, BuildRecipe
from vmctl.images.store import ImageStore
from vmctl.model.image import ImageForm

SETUID = entry("bin-su", data=b"#!", mode=0o4755, mtime=1_700_000_000)
NODE = entry("disk", tarfile.BLKTYPE, devmajor=8, devminor=0)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return make_store(tmp_path)


def test_busybox_runs_from_its_tree(store: ImageStore) -> None:
    store.build("busybox", BuildRecipe(base=Base.BUSYBOX))
    prepared = store.prepare("busybox", ImageForm.TREE)
    assert prepared.tree is not None
    said = subprocess.run([prepared.tree / "bin/busybox", "echo", "hello"], capture_output=True, text=True, check=True)
    assert said.stdout == "hello\n"
    assert stat.S_IMODE((prepared.tree / "tmp").stat().st_mode) == 0o1777
    assert os.readlink(prepared.tree / "bin/sh") == "/bin/busybox"
    assert prepared.config.cmd == ("sh",)
    assert store.inspect("busybox").forms == ("tree",)


def test_a_tree_is_made_once_and_goes_with_its_image(tmp_path: Path, store: ImageStore) -> None:
    store.build("busybox", BuildRecipe(base=Base.BUSYBOX))
    tree = store.prepare("busybox", ImageForm.TREE).tree
    disk = store.prepare("busybox", ImageForm.DISK).root_disk
    assert tree is not None
    assert disk is not None
    before = tree.stat().st_ino
    assert store.prepare("busybox", ImageForm.TREE).tree == tree
    assert tree.stat().st_ino == before
    store.remove("busybox")
    assert not tree.parent.exists()
    assert not disk.exists()


def test_others_may_pass_through_to_a_form_but_not_look_around(tmp_path: Path, store: ImageStore) -> None:
    store.build("busybox", BuildRecipe(base=Base.BUSYBOX))
    tree = store.prepare("busybox", ImageForm.TREE).tree
    disk = store.prepare("busybox", ImageForm.DISK).root_disk
    assert tree is not None
    assert disk is not None
    for folder in (tree.parent, tree.parent.parent, disk.parent, tmp_path / "images"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o711
    assert stat.S_IMODE(tree.stat().st_mode) == 0o755
    assert stat.S_IMODE(disk.stat().st_mode) == 0o444
    assert stat.S_IMODE((tmp_path / "images/blobs/sha256").stat().st_mode) == 0o700


def test_neither_form_has_device_nodes_and_the_tree_no_setuid(tmp_path: Path, store: ImageStore) -> None:
    store.import_("odd", iter([docker_archive([tar_of(*SMALL, SETUID, NODE)])]))  # layers keep what they have
    prepared = store.prepare("odd", ImageForm.TREE)
    assert prepared.tree is not None
    assert sorted(path.name for path in prepared.tree.iterdir()) == ["bin", "bin-su", "etc"]
    assert stat.S_IMODE((prepared.tree / "bin-su").stat().st_mode) == 0o755
    disk = store.prepare("odd", ImageForm.DISK)
    assert (disk.root_fs, disk.kernel) == ("erofs", KERNEL)
    assert disk.root_disk is not None
    shown = _dump(disk.root_disk, "/bin-su")
    assert "2023-11-14" in shown  # files keep their times: compiled Python stays valid
    assert "not found" in _dump(disk.root_disk, "/disk") or "failed" in _dump(disk.root_disk, "/disk")


def test_the_same_image_gives_the_same_disk(tmp_path: Path, store: ImageStore) -> None:
    store.build("busybox", BuildRecipe(base=Base.BUSYBOX))
    other = make_store(tmp_path / "other")
    other.import_("copy", store.docker_archive("busybox"))
    disks = [one.prepare(name, ImageForm.DISK).root_disk for one, name in ((store, "busybox"), (other, "copy"))]
    assert disks[0] is not None
    assert disks[1] is not None
    assert disks[0].read_bytes() == disks[1].read_bytes()


def test_layers_that_try_to_leave_through_links_stay_inside(tmp_path: Path, store: ImageStore) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    doors = (entry("door", tarfile.SYMTYPE, linkname=str(outside)), entry("up", tarfile.SYMTYPE, linkname="../" * 9))
    through = (entry("door/evil", data=b"x"), entry("up/evil", data=b"x"))
    for name, layers in (("apart", [tar_of(*doors), tar_of(*through)]), ("together", [tar_of(*doors, *through)])):
        store.import_(name, iter([docker_archive(layers)]))
        assert store.prepare(name, ImageForm.TREE).tree is not None
    assert list(outside.iterdir()) == []
    assert not Path("/evil").exists()


def test_whiteouts_remove_what_lower_layers_have(store: ImageStore) -> None:
    layers = [tar_of(*SMALL), tar_of(entry("etc", tarfile.DIRTYPE), entry("etc/.wh.motd"), entry("new", data=b"n"))]
    store.import_("layered", iter([docker_archive(layers)]))
    tree = store.prepare("layered", ImageForm.TREE).tree
    assert tree is not None
    assert not (tree / "etc/motd").exists()
    assert (tree / "new").read_bytes() == b"n"


def test_a_disk_made_for_one_name_serves_all_names_of_the_image(tmp_path: Path, store: ImageStore) -> None:
    store.build("busybox", BuildRecipe(base=Base.BUSYBOX))
    store.tag("busybox", "bb:1")
    first, second = (store.prepare(name, ImageForm.DISK) for name in ("busybox", "bb:1"))
    assert first.root_disk == second.root_disk == tmp_path / "images/disks" / f"{hex_of(first.digest)}.erofs"


def _dump(disk: Path, path: str) -> str:
    done = subprocess.run(["dump.erofs", f"--path={path}", disk], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr
