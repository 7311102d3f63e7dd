"""The files inside fake bodies: a few folders, what was copied in, and the host folders mounted by the spec."""

from __future__ import annotations

import io
import posixpath
import tarfile
from pathlib import Path
from typing import BinaryIO

from vmctl.backends.fake.program import ReadFile
from vmctl.backends.fake.store import FakeBody
from vmctl.errors import Conflict, NotFound, VmctlError

_FOLDERS = ("/", "/bin", "/etc", "/root", "/tmp")  # noqa: S108 - a folder inside
_PASSWD = b"root:x:0:0:root:/root:/bin/sh\n"


def root() -> dict[str, bytes | None]:
    """What every body begins with; None is a folder."""
    return {**dict.fromkeys(_FOLDERS), "/etc/passwd": _PASSWD}


def reader(body: FakeBody) -> ReadFile:
    """Reads a file by its path inside, relative to the working folder of the main process."""
    workdir = body.process.workdir if body.process else "/"

    def read(path: str) -> bytes | None:
        path = posixpath.normpath(posixpath.join(workdir, path))
        if (mounted := _mounted(body, path)) is not None:
            return mounted.read_bytes() if mounted.exists() else None
        if path in body.files and body.files[path] is None:
            raise IsADirectoryError(path)
        return body.files.get(path)

    return read


def unpack(body: FakeBody, folder: str, archive: BinaryIO) -> None:
    """Regular files and folders of a tar stream. Raises NotFound without the folder, Conflict where it is a file."""
    base = posixpath.normpath(folder)
    if base not in body.files:
        raise NotFound(f"no such folder inside: {folder}")
    if body.files[base] is not None:
        raise Conflict(f"not a folder inside: {folder}", hint="name a folder, or a new name in one")
    try:
        with tarfile.open(fileobj=archive, mode="r|*") as tar:
            for member in tar:
                path = posixpath.normpath(posixpath.join(base, "./" + member.name))
                if member.isdir():
                    body.files[path] = None
                elif source := tar.extractfile(member):
                    body.files[path] = source.read()
    except tarfile.TarError as error:
        raise VmctlError(f"the archive cannot be read: {error}") from error


def pack(body: FakeBody, path: str, archive: BinaryIO) -> None:
    """A tar stream of ``path`` with its base name as root. Raises NotFound."""
    path = posixpath.normpath(path)
    if path not in body.files:
        raise NotFound(f"no such file or folder inside: {path}")
    parent = posixpath.dirname(path)
    with tarfile.open(fileobj=archive, mode="w|") as tar:
        for name, data in sorted(body.files.items()):
            if name == path or name.startswith(path.rstrip("/") + "/"):
                member = tarfile.TarInfo(posixpath.relpath(name, parent))
                if data is None:
                    member.type, member.mode = tarfile.DIRTYPE, 0o755
                else:
                    member.size = len(data)
                tar.addfile(member, None if data is None else io.BytesIO(data))


def _mounted(body: FakeBody, path: str) -> Path | None:
    """The host's file that a mount of a host folder shows at ``path``."""
    for mount in body.spec.mounts:
        if mount.source.startswith("/") and (path + "/").startswith(mount.target.rstrip("/") + "/"):
            return Path(mount.source, posixpath.relpath(path, mount.target))
    return None
