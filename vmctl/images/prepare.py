"""The forms of an image beside its blobs: an unpacked tree, and a read-only disk.

Each is made once per image digest in a private folder, then renamed into place; instances share it read-only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vmctl.images import oci
from vmctl.images.files import locked, make_folder, sync_folder
from vmctl.images.layout import Layout
from vmctl.images.names import hex_of
from vmctl.images.progress import Progress
from vmctl.model.image import ImageForm

ROOT_FS = "erofs"


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

        def make(folder: Path) -> None:
            from vmctl.images.unpack import make_tree

            make_tree(self._layout, manifest, folder, progress).rename(result.parent)

        return self._once(result, self._trees, make)

    def make_disk(self, digest: str, manifest: oci.Manifest, progress: Progress) -> Path:
        """The disk, made now if it is not there. Raises BackendUnavailable without umoci or mkfs.erofs."""
        result = self.disk(digest)

        def make(folder: Path) -> None:
            from vmctl.images.unpack import make_disk

            make_disk(self._layout, manifest, folder, progress).rename(result)

        return self._once(result, self._disks, make)

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


def _by_digest(folder: Path) -> list[tuple[str, Path]]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return [(f"sha256:{path.name.partition('.')[0]}", path) for path in paths]
