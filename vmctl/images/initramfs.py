"""The initramfs of an image machine: modules, our init and a static busybox, as a deterministic newc cpio."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from vmctl.errors import VmctlError

WANTED_MODULES = (
    "virtio_pci",
    "virtio_console",  # first: the init's channel
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "erofs",
    "overlay",
    "ext4",
)
"""Loaded in this order, each after what it depends on. Those that are built in, or absent, are left out."""
_REQUIRED = frozenset({"virtio_pci", "virtio_console", "virtio_blk", "erofs", "overlay"})

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
_DECOMPRESS = {".xz": lzma.decompress, ".gz": gzip.decompress, ".bz2": bz2.decompress}


def module_closure(folder: Path, wanted: Iterable[str] = WANTED_MODULES) -> dict[str, bytes]:
    """Name -> content of the wanted modules and all they need, in load order.

    ``folder`` is ``lib/modules/<version>``; depmod need not have run there: dependencies are read from the modules.
    Raises VmctlError when a module that image machines cannot do without is neither there nor built in.
    """
    files = {_plain(file.name): file for file in folder.rglob("*.ko*")}
    builtin = {_plain(Path(line).name) for line in (folder / "modules.builtin").read_text().splitlines()}
    closure: dict[str, bytes] = {}

    def add(name: str, *, required: bool) -> None:
        if name in closure or name in builtin:
            return
        file = files.get(name)
        if file is None:
            if required:
                raise VmctlError(f"kernel {folder.name} has no module {name}", hint="use Debian's cloud kernel")
            return
        content = _read_module(file)
        found = _DEPENDS.search(content)
        for dependency in found[1].decode().split(",") if found else ():
            if dependency:
                add(dependency.replace("-", "_"), required=True)
        closure[name] = content

    for name in wanted:
        add(name, required=name in _REQUIRED)
    return closure


def _plain(file_name: str) -> str:
    """A module's name as the kernel spells it, from its file's name."""
    return file_name.split(".ko", 1)[0].replace("-", "_")


def _read_module(file: Path) -> bytes:
    decompress = _DECOMPRESS.get(file.suffix)
    if decompress is None and file.suffix != ".ko":
        raise VmctlError(f"cannot unpack the kernel module {file.name}", hint="only xz, gzip and bzip2 are known")
    content = file.read_bytes()
    return decompress(content) if decompress else content


def build_initramfs(init: bytes, busybox: bytes, modules: Mapping[str, bytes]) -> bytes:
    """The archive: /init, /busybox, /modules/NN-name.ko (in load order) and mount points. Same input, same bytes."""
    files: list[tuple[str, int, bytes]] = [
        (name, stat.S_IFDIR | 0o755, b"") for name in ("dev", "proc", "sys", "run", "modules", "root")
    ]
    files.append(("init", stat.S_IFREG | 0o755, init))
    files.append(("busybox", stat.S_IFREG | 0o755, busybox))
    for number, (name, content) in enumerate(modules.items()):
        files.append((f"modules/{number:02}-{name}.ko", stat.S_IFREG | 0o644, content))
    parts = [_entry(inode, *file) for inode, file in enumerate(files, start=1)]
    parts.append(_entry(0, "TRAILER!!!", 0, b""))
    return b"".join(parts)


def _entry(inode: int, name: str, mode: int, content: bytes) -> bytes:
    """One newc member, owned by root, dated 1970."""
    path = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + "".join(f"{field:08X}" for field in fields).encode() + path
    return _padded(header) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
