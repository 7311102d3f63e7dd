"""Making the forms: umoci unpacks, mkfs.erofs packs.

Device nodes never appear in either. A tree also loses what would give rights on the host, where other users can
reach it: setuid and setgid bits, and file capabilities (inside a sandbox, no_new_privs makes them void anyway).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from vmctl.images import oci
from vmctl.images.layout import Layout, digest_of
from vmctl.images.names import hex_of
from vmctl.images.progress import Progress
from vmctl.images.tools import run_tool

_DISK_UUID = "6b1ff1a5-5a52-4ee1-9d5c-0f6c3a8e9b10"  # fixed: the same image gives the same disk
_DISK_TIME = "4102444800"  # the disk's own time, and the latest of its files': the year 2100 leaves them all alone
_CAPABILITY = "security.capability"


def make_tree(layout: Layout, manifest: oci.Manifest, folder: Path, progress: Progress) -> Path:
    """A folder made below ``folder`` with the unpacked tree as its only content, ``rootfs``."""
    progress("unpacking", 0, None)
    rootfs = _unpack(layout, manifest, folder)
    disarm(rootfs)
    run_tool("sync", ["--file-system", rootfs], folder=folder)
    home = folder / "home"
    home.mkdir()
    rootfs.rename(home / "rootfs")
    home.chmod(0o711)
    return home


def make_disk(layout: Layout, manifest: oci.Manifest, folder: Path, progress: Progress) -> Path:
    """A disk made below ``folder``; the same image always gives the same bytes."""
    progress("unpacking", 0, None)
    rootfs = _unpack(layout, manifest, folder)
    progress("making the disk", 0, None)
    image = folder / "disk"
    owners = [] if os.geteuid() == 0 else ["--all-root"]
    arguments: list[str | Path] = ["--quiet", "-U", _DISK_UUID, *owners, image, rootfs]
    run_tool("mkfs.erofs", arguments, folder=folder, env={"SOURCE_DATE_EPOCH": _DISK_TIME})
    with image.open("rb") as stream:
        os.fsync(stream.fileno())
    image.chmod(0o444)
    return image


def _unpack(store: Layout, manifest: oci.Manifest, folder: Path) -> Path:
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
        (blobs / hex_of(descriptor.digest)).symlink_to(store.blob_path(descriptor.digest).absolute())
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
