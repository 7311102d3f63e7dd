"""Files that survive a crash whole, and what to say when the disk does not take them."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmctl.errors import PermissionDenied, VmctlError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def disk_full(folder: Path) -> VmctlError:
    """The one error for a full disk, whoever noticed it."""
    return VmctlError(f"no space left in {folder}", hint="free some, for instance with 'vmctl system prune'")


@contextmanager
def storing_in(folder: Path) -> Iterator[None]:
    """Turn what the file system says below ``folder`` into vmctl's errors: full, not allowed, or else why."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(folder) from error
        if error.errno in _DENIED:
            raise PermissionDenied(
                f"cannot write {error.filename or folder}: {error.strerror}",
                hint="run as root, or set VMCTL_STATE_DIR to a folder of your own",
            ) from error
        reason = error.strerror or str(error)
        raise VmctlError(f"cannot store in {folder}: {reason}", hint="check the disk, then 'vmctl doctor'") from error


def make_folder(folder: Path, mode: int) -> None:
    """Make ``folder`` and those above it; ``mode`` holds for all that were missing, whatever the umask."""
    if folder.is_dir():
        return
    make_folder(folder.parent, mode)
    folder.mkdir(exist_ok=True)
    folder.chmod(mode)


def remove_tree(path: Path) -> None:
    """Remove a file or folder, read-only folders inside included; what cannot be removed now is left to a later try."""
    if path.is_dir() and not path.is_symlink():
        import shutil

        if os.geteuid() != 0:
            for parent, _, _ in os.walk(path):
                os.chmod(parent, 0o700)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make names in ``folder`` (renames, removals) durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes, temporary: Path) -> None:
    """Write ``path`` whole or not at all; ``temporary`` lies on the same file system."""
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold flock on ``path``; yields whether it was taken (always, with ``wait``)."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, mode if wait else mode | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def size_on_disk(path: Path) -> int:
    """Bytes allocated to ``path`` and everything below it; hard links count once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    pending = [path]
    while pending:
        current = pending.pop()
        try:
            status = current.lstat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            total += status.st_blocks * 512
            if current.is_dir() and not current.is_symlink():
                pending.extend(current.iterdir())
        except FileNotFoundError:
            continue  # removed while we looked
    return total
