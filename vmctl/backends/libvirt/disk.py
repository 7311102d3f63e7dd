"""Disks of disk machines: a base is looked at before QEMU is, and a machine gets a linked clone of it.

A disk image is hostile input: a qcow2 may name any file of the host as its backing or data file, and a "raw" file that
begins with another format's header would be taken for it. So the header is read here, every qemu-img call names the
formats, and a base that points anywhere else is refused.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import msgspec

from vmctl.errors import BackendUnavailable, NotFound, PermissionDenied, UsageError, VmctlError

_QCOW2 = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQI")
"""magic, version, backing file offset, its size, cluster bits, virtual size, encryption method."""
_FEATURES = 72  # offset of the incompatible features (version 3)
_CORRUPT, _DATA_FILE = 1 << 1, 1 << 2
_OTHERS = {
    b"KDMV": "VMDK",
    b"# Disk DescriptorFile": "VMDK",
    b"vhdxfile": "VHDX",
    b"conectix": "VPC",
    b"<<< ": "VDI",
    b"QED\0": "QED",
    b"LUKS\xba\xbe": "LUKS",
}
_SECTOR = 512
_PROGRAM_TIMEOUT = 60


class BaseDisk(msgspec.Struct, frozen=True):
    """A disk that may be shared by machines: read, never written. ``size`` is virtual, in bytes."""

    path: Path
    format: str  # qcow2 | raw
    size: int


def examine(name: str) -> BaseDisk:
    """The base disk at ``name``, a regular file with nothing behind it.

    Raises NotFound, PermissionDenied, UsageError (not a disk that can be used safely).
    """
    path = Path(name).absolute()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"no disk at {path}", hint="name a qcow2 or raw file") from None
    except OSError as error:
        raise PermissionDenied(f"cannot read {path}: {error.strerror}", hint="check its owner and mode") from None
    with open(descriptor, "rb") as stream:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise UsageError(f"{path} is not a regular file", hint="name a qcow2 or raw file")
        head = stream.read(4096)
    resolved = path.resolve()
    if head.startswith(_QCOW2):
        return BaseDisk(resolved, "qcow2", _qcow2_size(path, head))
    for magic, other in _OTHERS.items():
        if head.startswith(magic):
            hint = f"convert it: qemu-img convert -O qcow2 {path.name} disk.qcow2"
            raise UsageError(f"{path} is a {other} disk: machines start from qcow2 and raw", hint=hint)
    if info.st_size < _SECTOR or info.st_size % _SECTOR:
        raise UsageError(f"{path} is no disk: its size is not whole sectors", hint="name a qcow2 or raw file")
    return BaseDisk(resolved, "raw", info.st_size)


def _qcow2_size(path: Path, head: bytes) -> int:
    """The virtual size. Raises UsageError for a truncated header and for whatever leads out of the file."""
    if len(head) < 104:
        raise UsageError(f"{path} is a truncated qcow2", hint="fetch it again")
    _, version, backing, _, cluster_bits, size, crypt = _HEADER.unpack_from(head)
    features = struct.unpack_from(">Q", head, _FEATURES)[0] if version >= 3 else 0
    problem = ""
    if version not in (2, 3) or not 9 <= cluster_bits <= 21:
        problem = "has a header that no qcow2 has"
    elif backing:
        problem = "needs another file behind it (a backing file)"
    elif features & _DATA_FILE:
        problem = "keeps its data in another file"
    elif crypt:
        problem = "is encrypted"
    elif features & _CORRUPT:
        problem = "is marked as corrupt"
    if problem:
        raise UsageError(f"{path} {problem}", hint="make it whole first: qemu-img convert -O qcow2 OLD NEW")
    return int(size)


def make_overlay(base: BaseDisk, overlay: Path, size: int) -> None:
    """A linked clone of ``base`` at ``overlay``, at least ``size`` bytes large. Raises VmctlError."""
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base.path), "-F", base.format]
    _run([*command, str(overlay), str(max(size, base.size))], hint="apt install qemu-utils")


def make_upper(path: Path, size: int) -> None:
    """An empty ext4 file system of ``size`` bytes in a sparse file (with a journal: machines get switched off)."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as stream:
            stream.truncate(size)
    except OSError as error:
        raise VmctlError(f"cannot make {path}: {error.strerror}", hint="is the disk full?") from error
    options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    _run(["mkfs.ext4", "-q", "-F", "-m", "0", "-E", options, str(path)], hint="apt install e2fsprogs")


def _run(command: list[str], *, hint: str) -> None:
    program = shutil.which(command[0]) or shutil.which(command[0], path="/usr/sbin:/sbin")
    if program is None:
        raise BackendUnavailable(f"{command[0]} is not installed", hint=hint)
    try:
        result = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=_PROGRAM_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise VmctlError(f"{command[0]} did not end in time", hint="is the file system hanging?") from None
    if result.returncode:
        reason = " ".join(result.stderr.split())[:300]
        raise VmctlError(f"cannot make the machine's disk: {reason}", hint="is the disk full?")


def check_searchable(path: Path) -> None:
    """That a user without rights of its own (QEMU's) can reach ``path``. Raises PermissionDenied naming the folder."""
    for parent in reversed(path.parents):
        if not parent.stat().st_mode & stat.S_IXOTH:
            raise PermissionDenied(
                f"QEMU's user cannot reach {path}: the folder {parent} is closed to it",
                hint=f"chmod o+x {parent}, or keep it elsewhere (below /var/lib, say)",
            )


def check_reachable(path: Path) -> None:
    """That QEMU's user can read the file ``path``. Raises PermissionDenied naming what bars it."""
    check_searchable(path)
    if not path.stat().st_mode & stat.S_IROTH:
        raise PermissionDenied(f"QEMU's user cannot read {path}", hint=f"chmod o+r {path}")
