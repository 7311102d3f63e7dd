"""The forms of an image beside its blobs: an unpacked tree, and a read-only disk made from one.

Each is made once per image digest in a private folder, then renamed into place; instances share it read-only.
Device nodes never appear in either. A tree also loses what would give rights on the host, where other users can
reach it: setuid and setgid bits, and file capabilities (inside a sandbox, no_new_privs makes them void anyway).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from vmctl.images import oci
from vmctl.images.files import locked, make_folder, sync_folder
from vmctl.images.layout import Layout, digest_of
from vmctl.images.names import hex_of
from vmctl.images.progress import Progress
from vmctl.images.tools import run_tool
from vmctl.model.image import ImageForm

ROOT_FS = "erofs"
_DISK_UUID = "6b1ff1a5-5a52-4ee1-9d5c-0f6c3a8e9b10"  # fixed: the same image gives the same disk
_DISK_TIME = "4102444800"  # the disk's own time, and the latest of its files': the year 2100 leaves them all alone
_CAPABILITY = "security.capability"


class Forms:
    """The folder of prepared forms of one layout. Others may pass through it, knowing a digest, and not list it."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._trees = layout.root / "trees"
        self._disks = layout.root / "disks"

    def tree(self, digest: str) -> Path:
        """Where the unpacked root file system of the manifest ``digest`` is, or would be."""
        return self._trees / hex_of(digest) / "rootfs"

    def disk(self, digest: str) -> Path:
        """Where the disk of the manifest ``digest`` is, or would be."""
        return self._disks / f"{hex_of(digest)}.{ROOT_FS}"

    def present(self, digest: str) -> tuple[str, ...]:
        """The forms that are there already."""
        found = {ImageForm.TREE: self.tree(digest), ImageForm.DISK: self.disk(digest)}
        return tuple(form.value for form, path in found.items() if path.exists())

    def trees(self) -> list[tuple[str, Path]]:
        """Every unpacked tree as (digest of its manifest, its folder)."""
        return _by_digest(self._trees)

    def disks(self) -> list[tuple[str, Path]]:
        """Every disk as (digest of its manifest, its file)."""
        return _by_digest(self._disks)

    def all(self) -> list[tuple[str, Path]]:
        """Trees and disks."""
        return self.trees() + self.disks()

    def make_tree(self, digest: str, manifest: oci.Manifest, progress: Progress) -> Path:
        """The tree, unpacked now if it is not there. Raises BackendUnavailable without umoci."""
        result = self.tree(digest)
        return self._once(result, self._trees, lambda folder: self._new_tree(folder, result, manifest, progress))

    def make_disk(self, digest: str, manifest: oci.Manifest, progress: Progress) -> Path:
        """The disk, made now if it is not there. Raises BackendUnavailable without umoci or mkfs.erofs."""
        result = self.disk(digest)
        return self._once(result, self._disks, lambda folder: self._new_disk(folder, result, manifest, progress))

    def _once(self, result: Path, parent: Path, make: Callable[[Path], None]) -> Path:
        """``result``, made by the first of all processes that want it; the others wait for that one."""
        if result.exists():
            return result
        with self._layout.writing() as folder:
            make_folder(parent, 0o711)
            with locked(self._layout.root / ".prepare.lock"):
                if not result.exists():
                    make(folder)
                    sync_folder(parent)
        return result

    def _new_tree(self, folder: Path, result: Path, manifest: oci.Manifest, progress: Progress) -> None:
        progress("unpacking", 0, None)
        rootfs = self._unpack(folder, manifest)
        disarm(rootfs)
        run_tool("sync", ["--file-system", rootfs], folder=folder)
        home = folder / "home"
        home.mkdir()
        rootfs.rename(home / "rootfs")
        home.chmod(0o711)
        home.rename(result.parent)

    def _new_disk(self, folder: Path, result: Path, manifest: oci.Manifest, progress: Progress) -> None:
        progress("unpacking", 0, None)
        rootfs = self._unpack(folder, manifest)
        progress("making the disk", 0, None)
        image = folder / "disk"
        owners = [] if os.geteuid() == 0 else ["--all-root"]
        arguments: list[str | Path] = ["--quiet", "-U", _DISK_UUID, *owners, image, rootfs]
        run_tool("mkfs.erofs", arguments, folder=folder, env={"SOURCE_DATE_EPOCH": _DISK_TIME})
        with image.open("rb") as stream:
            os.fsync(stream.fileno())
        image.chmod(0o444)
        image.rename(result)

    def _unpack(self, folder: Path, manifest: oci.Manifest) -> Path:
        """A root file system, by umoci, from a layout that holds this one image in OCI's own media types."""
        layout = folder / "layout"
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        plain = oci.Manifest(
            schema_version=2,
            media_type=oci.MANIFEST,
            config=_as(manifest.config, oci.CONFIG),
            layers=[_as(layer, oci.LAYERS[layer.media_type]) for layer in manifest.layers],
        )
        for descriptor in (plain.config, *plain.layers):
            (blobs / hex_of(descriptor.digest)).symlink_to(self._layout.blob_path(descriptor.digest).absolute())
        document = oci.encode(plain)
        (blobs / hex_of(digest_of(document))).write_bytes(document)
        named = oci.Descriptor(
            media_type=oci.MANIFEST, digest=digest_of(document), size=len(document), annotations={oci.REF_NAME: "image"}
        )
        (layout / "index.json").write_bytes(oci.encode(oci.Index(schema_version=2, manifests=[named])))
        (layout / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')
        rootfs = folder / "rootfs"
        rootless = [] if os.geteuid() == 0 else ["--rootless"]
        run_tool("umoci", ["raw", "unpack", *rootless, "--image", f"{layout}:image", rootfs], folder=folder)
        drop_devices(rootfs)
        return rootfs


def _as(descriptor: oci.Descriptor, media_type: str) -> oci.Descriptor:
    return msgspec.structs.replace(descriptor, media_type=media_type, annotations=None)


def _by_digest(folder: Path) -> list[tuple[str, Path]]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return [(f"sha256:{path.name.partition('.')[0]}", path) for path in paths]


def _entries(rootfs: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below ``rootfs``, links not followed."""
    pending = [str(rootfs)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                yield entry.path, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


def drop_devices(rootfs: Path) -> None:
    """Remove device nodes: instances get a /dev of their own."""
    for path, status in list(_entries(rootfs)):
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            os.unlink(path)


def disarm(rootfs: Path) -> None:
    """Take setuid, setgid and file capabilities from every file."""
    for path, status in _entries(rootfs):
        if not stat.S_ISREG(status.st_mode):
            continue
        if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
            os.chmod(path, stat.S_IMODE(status.st_mode) & ~(stat.S_ISUID | stat.S_ISGID))
        if _CAPABILITY in os.listxattr(path, follow_symlinks=False):
            os.removexattr(path, _CAPABILITY, follow_symlinks=False)
