"""Writing layers: tar files whose bytes depend on their content alone."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from typing import IO, BinaryIO, cast

from vmctl.images.archive import (
    TAR_OVERHEAD,
    Measured,
    checked_entries,
    damage_is_refused,
    open_tar,
    printable,
    refusal,
)
from vmctl.images.layout import CHUNK, BlobWriter

_XATTR = "SCHILY.xattr."
_KEPT_XATTRS = (_XATTR + "security.capability", _XATTR + "user.")


class LayerWriter:
    """Entries go in in the order given; owners are numbers, times whole seconds, and nothing else is recorded."""

    def __init__(self, sink: BlobWriter, mtime: int = 0) -> None:
        self._sink = sink
        self._mtime = mtime

    def folder(self, name: str, mode: int = 0o755) -> None:
        self._add(self._entry(name, tarfile.DIRTYPE, mode))

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        entry = self._entry(name, tarfile.REGTYPE, mode)
        entry.size = len(content)
        self._add(entry, io.BytesIO(content))

    def symlink(self, name: str, target: str) -> None:
        entry = self._entry(name, tarfile.SYMTYPE, 0o777)
        entry.linkname = target
        self._add(entry)

    def copy(self, entry: tarfile.TarInfo, content: IO[bytes] | None) -> None:
        """An entry of another archive, reduced to what matters."""
        kind = tarfile.REGTYPE if entry.isreg() else entry.type
        kept = self._entry(entry.name, kind, entry.mode & 0o7777)
        kept.uid, kept.gid, kept.mtime = entry.uid, entry.gid, max(0, int(entry.mtime))
        kept.linkname = entry.linkname if entry.issym() or entry.islnk() else ""
        kept.size = entry.size if entry.isreg() else 0
        kept.pax_headers = _xattrs(entry.pax_headers)
        self._add(kept, content)

    def close(self) -> None:
        """Write the end mark."""
        self._sink.write(bytes(2 * tarfile.BLOCKSIZE))

    def _add(self, entry: tarfile.TarInfo, content: IO[bytes] | None = None) -> None:
        self._sink.write(entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        left = entry.size
        while content is not None and left:
            data = content.read(min(left, CHUNK))
            if not data:
                raise refusal(f"entry '{printable(entry.name)}' ends too early")
            self._sink.write(data)
            left -= len(data)
        self._sink.write(bytes(-entry.size % tarfile.BLOCKSIZE))

    def _entry(self, name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.mtime = kind, mode, self._mtime
        return entry


def _xattrs(headers: Mapping[str, str]) -> dict[str, str]:
    return {key: headers[key] for key in sorted(headers) if key.startswith(_KEPT_XATTRS)}


def copy_rootfs(source: BinaryIO, sink: BlobWriter, limit: int) -> None:
    """Make a layer of a root file system's tar. Device nodes are dropped: each level of isolation makes its own /dev.

    Raises UsageError for entries that lead out of the root, for damage, and beyond ``limit`` bytes.
    """
    writer = LayerWriter(sink)
    with damage_is_refused("the archive"), open_tar(cast(BinaryIO, Measured(source, limit + TAR_OVERHEAD))) as tar:
        linkable: set[str] = set()
        empty = True
        for entry in checked_entries(tar, limit):
            empty = False
            if entry.ischr() or entry.isblk():
                continue
            if entry.islnk() and entry.linkname not in linkable:
                raise refusal(f"entry '{printable(entry.name)}' is a hard link to nothing in the archive")
            if not entry.isdir():
                linkable.add(entry.name)
            writer.copy(entry, tar.extractfile(entry) if entry.isreg() else None)
        if empty:
            raise refusal("the archive is empty", "give the tar file of a root file system")
    writer.close()


