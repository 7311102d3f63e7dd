"""Images made to do harm, or damaged: refused in one line, with nothing left in the store."""

from __future__ import annotations

import gzip
import json
import lzma
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.images import (
    SMALL,
    OciFolder,
    assert_untouched,
    config_of,
    docker_archive,
    entry,
    make_store,
    sha256,
    tar_of,
)
from vmctl.errors import NotFound, UsageError
from vmctl.images.archive import TAR_OVERHEAD

MEMBERS = {
    "parent": entry("../../etc/passwd", data=b"x"),
    "parent inside": entry("a/../../b", data=b"x"),
    "absolute": entry("/etc/passwd", data=b"x"),
    "hard link to parent": entry("a", tarfile.LNKTYPE, linkname="../../etc/shadow"),
    "hard link, absolute": entry("a", tarfile.LNKTYPE, linkname="/etc/shadow"),
    "whiteout of parent": entry(".wh..."),
    "whiteout of itself": entry("a/.wh.."),
    "unknown type": entry("a", b"Z"),
    "name too long": entry("a/" * 3000 + "b"),
}


def refuse(folder: Path, source: Path | bytes, words: str) -> None:
    """Importing ``source`` fails with one line that says ``words``, and leaves nothing."""
    taken = source if isinstance(source, Path) else iter([source])
    with pytest.raises(UsageError, match=words) as caught:
        make_store(folder).import_("bad", taken)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert_untouched(folder)


def write(folder: Path, data: bytes) -> Path:
    path = folder / "source.tar"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
def test_entries_that_lead_out_are_refused(tmp_path: Path, member: tuple[tarfile.TarInfo, bytes]) -> None:
    archive = tar_of(*SMALL, member)
    refuse(tmp_path, write(tmp_path, archive), "entry|cannot be read")
    refuse(tmp_path, docker_archive([archive]), "entry|cannot be read")


def test_hard_links_to_nothing_are_refused(tmp_path: Path) -> None:
    refuse(tmp_path, write(tmp_path, tar_of(*SMALL, entry("a", tarfile.LNKTYPE, linkname="b"))), "hard link to nothing")


def test_device_nodes_are_dropped(tmp_path: Path) -> None:
    node = entry("dev/sda", tarfile.BLKTYPE, devmajor=8, devminor=0)
    store = make_store(tmp_path)
    with_node = store.import_("a", write(tmp_path, tar_of(*SMALL, node)))
    without = store.import_("b", write(tmp_path, tar_of(*SMALL)))
    assert with_node.layers == without.layers


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress], ids=["plain", "gzip", "xz"])
def test_truncated_archives_are_refused_wherever_they_are_cut(tmp_path: Path, pack) -> None:  # type: ignore[no-untyped-def]
    whole = pack(tar_of(*SMALL, entry("data", data=bytes(range(256)) * 40)))
    for cut in {1, 5, 100, 511, 700, len(whole) // 2, len(whole) - 1100} & set(range(len(whole))):
        refuse(tmp_path, write(tmp_path, whole[:cut]), "cannot be read|is empty|ends too early")


def test_a_broken_header_in_the_middle_is_not_the_end(tmp_path: Path) -> None:
    whole = bytearray(tar_of(*SMALL))
    whole[600] ^= 0xFF
    refuse(tmp_path, write(tmp_path, bytes(whole)), "cannot be read")


@pytest.mark.parametrize("text", [b"", b"no tar at all", bytes(4096), b"\x1f\x8bgarbage", b"\x28\xb5\x2f\xfdgarbage"])
def test_what_is_no_archive_is_refused(tmp_path: Path, text: bytes) -> None:
    refuse(tmp_path, write(tmp_path, text), "cannot be read|is empty")


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    bomb = write(tmp_path, gzip.compress(tar_of(*SMALL, entry("zeros", data=bytes(64 << 20)))))
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(UsageError, match="unpacks to more than 1M"):
        make_store(tmp_path).import_("bomb", bomb, max_bytes=1 << 20)
    assert_untouched(tmp_path)


def test_a_bomb_behind_the_end_of_the_archive_is_refused(tmp_path: Path) -> None:
    bomb = write(tmp_path, gzip.compress(tar_of(*SMALL) + bytes(TAR_OVERHEAD + (2 << 20)), 1))
    with pytest.raises(UsageError, match="unpacks to more than"):
        make_store(tmp_path).import_("bomb", bomb, max_bytes=1 << 20)
    assert_untouched(tmp_path)


def test_a_bomb_in_a_layer_is_refused(tmp_path: Path) -> None:
    layer = tar_of(*SMALL, entry("zeros", data=bytes(4 << 20)))
    layout = OciFolder(tmp_path / "layout", layer, "application/vnd.oci.image.layer.v1.tar+gzip")
    with pytest.raises(UsageError, match="unpacks to more than 1M"):
        make_store(tmp_path).import_("bomb", layout.write(), max_bytes=1 << 20)
    assert_untouched(tmp_path)


def test_a_sparse_file_counts_with_its_full_size(tmp_path: Path) -> None:
    (tmp_path / "hole").touch()
    subprocess.run(["truncate", "-s", "1T", tmp_path / "hole"], check=True)
    command = ["tar", "-C", tmp_path, "--sparse", "-cf", tmp_path / "sparse.tar", "hole"]
    subprocess.run(command, check=True)
    with pytest.raises(UsageError, match="unpacks to more than"):
        make_store(tmp_path).import_("sparse", tmp_path / "sparse.tar")
    assert_untouched(tmp_path)


def test_a_layer_that_is_not_what_the_config_says_is_refused(tmp_path: Path) -> None:
    forged = docker_archive([tar_of(*SMALL)], config_of([tar_of()]))
    refuse(tmp_path, forged, "the config says")


def test_a_config_that_is_not_what_it_is_called_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path, docker_archive([tar_of(*SMALL)], Config="0" * 64 + ".json"), "the config called")


def test_layers_that_are_not_there_or_too_few_are_refused(tmp_path: Path) -> None:
    refuse(tmp_path, docker_archive([tar_of(*SMALL)], Layers=["nowhere"]), "is missing in the archive")
    refuse(tmp_path, docker_archive([tar_of(*SMALL)], Layers=[]), "image config lists 1 layers, the manifest 0")
    refuse(tmp_path, docker_archive([tar_of(*SMALL)], Layers=["../../etc/passwd"]), "leads out of the image")


def test_a_layer_that_is_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    item = {"Config": "c", "Layers": ["l"]}
    loop = tar_of(
        entry("c", data=config_of([tar_of()])),
        entry("l", tarfile.SYMTYPE, linkname="l"),
        entry("manifest.json", data=json.dumps([item]).encode()),
    )
    refuse(tmp_path, loop, "cannot be read|is not a file")


@pytest.mark.parametrize("text", [b"{}", b"[]", b"[{}]", b'[{"Config": 1, "Layers": []}]', b"[" * 100_000, b"\xff"])
def test_nonsense_instead_of_a_manifest_is_refused(tmp_path: Path, text: bytes) -> None:
    refuse(tmp_path, tar_of(entry("manifest.json", data=text)), "manifest.json|0 images")


class TestOciLayout:
    """Every lie an OCI layout can tell."""

    @pytest.fixture
    def layout(self, tmp_path: Path) -> OciFolder:
        return OciFolder(tmp_path / "layout", tar_of(*SMALL))

    def test_damaged_blobs(self, tmp_path: Path, layout: OciFolder) -> None:
        for data in (layout.blob, layout.config):
            path = layout.put(data)
            layout.write()
            path.write_bytes(data[:-1] + b"!")
            refuse(tmp_path, layout.folder, "a blob called|blob sha256")

    def test_missing_blob(self, tmp_path: Path, layout: OciFolder) -> None:
        layout.write()
        layout.put(layout.blob).unlink()
        refuse(tmp_path, layout.folder, "cannot be read")

    def test_a_link_instead_of_a_blob(self, tmp_path: Path, layout: OciFolder) -> None:
        layout.write()
        path = layout.put(layout.blob)
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        refuse(tmp_path, layout.folder, "cannot be read")

    def test_wrong_size(self, tmp_path: Path, layout: OciFolder) -> None:
        layout.manifest["layers"][0]["size"] += 1
        refuse(tmp_path, layout.write(), "bytes, not")

    @pytest.mark.parametrize("digest", ["sha256:../../../etc/passwd", "sha512:" + "0" * 128, "", "sha256:" + "A" * 64])
    def test_digests_that_are_none(self, tmp_path: Path, layout: OciFolder, digest: str) -> None:
        layout.manifest["layers"][0]["digest"] = digest
        refuse(tmp_path, layout.write(), "does not name a blob")

    def test_foreign_layers(self, tmp_path: Path, layout: OciFolder) -> None:
        layout.manifest["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        refuse(tmp_path, layout.write(), "cannot be used")

    def test_other_layers_than_the_config(self, tmp_path: Path, layout: OciFolder) -> None:
        other = tar_of()
        layout.manifest["layers"] = [layout.describe(other, "application/vnd.oci.image.layer.v1.tar")]
        layout.put(other)
        refuse(tmp_path, layout.write(), "the config says")

    def test_an_index_that_contains_itself(self, tmp_path: Path, layout: OciFolder) -> None:
        layout.write()
        nested = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": sha256(b"x"), "size": 1}
        (layout.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [nested]}))
        layout.put(b"x").write_bytes((layout.folder / "index.json").read_bytes())
        refuse(tmp_path, layout.folder, "blob sha256")

    def test_no_layout(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        refuse(tmp_path, tmp_path / "empty", "not an OCI image layout")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        make_store(tmp_path).import_("x", tmp_path / "nowhere.tar")
