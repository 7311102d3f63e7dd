"""Reading tar files that strangers made: decompressed, measured, and checked entry by entry."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tarfile import TarFile
from typing import BinaryIO, cast

from vmctl.errors import UsageError, VmctlError
from vmctl.images.tools import find_tool
from vmctl.units import format_size

MAX_ENTRIES = 1_000_000
MAX_PATH = 4096
TAR_OVERHEAD = 64 << 20
"""Bytes that an archive may have beyond its entries' content: headers and padding."""
_HINT = "the archive is damaged or was made to do harm"
_DAMAGE = (
    tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, UnicodeError, ValueError, OverflowError,
    RecursionError,
)  # fmt: skip
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


def refusal(message: str, hint: str = _HINT) -> UsageError:
    """The error for an archive that is not taken."""
    return UsageError(message, hint=hint)


class Measured(io.RawIOBase):
    """Reads from another stream, hashes what passes, and refuses to pass more than ``limit`` bytes."""

    def __init__(self, source: BinaryIO, limit: int) -> None:
        self._source = source
        self._limit = limit
        self._hash = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size if size >= 0 else 1 << 20)
        self.size += len(data)
        if self.size > self._limit:
            raise refusal(
                f"the image unpacks to more than {format_size(self._limit)}",
                "make room for it, or check where it comes from",
            )
        self._hash.update(data)
        return data

    def drain(self) -> None:
        """Read on to the end: padding belongs to the digest."""
        while self.read(1 << 20):
            pass

    @property
    def digest(self) -> str:
        """The digest of everything read so far."""
        return f"sha256:{self._hash.hexdigest()}"


@contextmanager
def damage_is_refused(what: str) -> Iterator[None]:
    """Turn whatever the decoders raise on nonsense into one UsageError about ``what``."""
    try:
        yield
    except _DAMAGE as error:
        reason = str(error).strip() or type(error).__name__
        raise refusal(f"{what} cannot be read: {reason[:200]}") from error


@contextmanager
def decompressed(path: Path) -> Iterator[BinaryIO]:
    """The content of ``path``, whether plain, gzip, xz, bzip2 or zstd. Raises OSError if it cannot be opened."""
    with path.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith(b"\x28\xb5\x2f\xfd"):
            with _zstd(file) as stream:
                yield stream
        elif magic.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file) as stream:
                yield cast(BinaryIO, stream)
        elif magic.startswith(b"\xfd7zXZ\0"):
            with lzma.LZMAFile(file) as stream:
                yield cast(BinaryIO, stream)
        elif magic.startswith(b"BZh"):
            with bz2.BZ2File(file) as stream:
                yield cast(BinaryIO, stream)
        else:
            yield file


def is_compressed(path: Path) -> bool:
    """Whether ``path`` begins like one of the compressed formats that are read."""
    with path.open("rb") as file:
        magic = file.read(6)
    return magic.startswith((b"\x28\xb5\x2f\xfd", b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh"))


@contextmanager
def _zstd(file: BinaryIO) -> Iterator[BinaryIO]:
    """zstd is not in Python's library before 3.14: its own program decompresses."""
    os.lseek(file.fileno(), 0, os.SEEK_SET)  # the reader's buffer is ahead of it
    command = [find_tool("zstd"), "-dcq"]
    with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        if process.stdout is None or process.stderr is None:
            raise VmctlError("zstd could not be started")
        try:
            yield cast(BinaryIO, process.stdout)
            if process.stdout.read(1) == b"":
                words = process.stderr.read().decode(errors="replace").strip()
                if process.wait():
                    raise refusal(f"the zstd data cannot be read: {words[-200:]}")
        finally:
            process.kill()


class _StrictInfo(tarfile.TarInfo):
    """tarfile takes a broken header after the first for the end of the archive; here it is an error."""

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> _StrictInfo:
        try:
            return super().fromtarfile(tarfile)
        except (_Truncated, _Invalid, _Subsequent) as error:
            raise _read_error(error) from error


_Truncated = tarfile.TruncatedHeaderError  # type: ignore[attr-defined]
_Invalid = tarfile.InvalidHeaderError  # type: ignore[attr-defined]
_Subsequent = tarfile.SubsequentHeaderError  # type: ignore[attr-defined]


def _read_error(error: Exception) -> tarfile.ReadError:
    return tarfile.ReadError(f"broken header ({error})")


def open_tar(stream: BinaryIO) -> tarfile.TarFile:
    """A tar file read once from front to back; any name survives as bytes in surrogate escapes."""
    return tarfile.open(
        fileobj=stream, mode="r|", tarinfo=_StrictInfo, encoding="utf-8", errors="surrogateescape", bufsize=1 << 18
    )


def checked_entries(tar: tarfile.TarFile, limit: int) -> Iterator[tarfile.TarInfo]:
    """Every entry except the root's own, names normalised. Raises UsageError for what could leave the root.

    ``limit`` bounds the bytes that the entries unpack to, sparse ones at their full size.
    """
    total = 0
    for count, entry in enumerate(tar):
        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps them all; a stream never looks back
        entry.name = inside(entry.name)
        if entry.islnk():
            entry.linkname = inside(entry.linkname)
        _check_whiteout(entry.name)
        if entry.type not in tarfile.SUPPORTED_TYPES:
            raise refusal(f"entry '{printable(entry.name)}' is of unknown type {entry.type!r}")
        total += entry.size
        if entry.size < 0 or total > limit:
            raise refusal(
                f"the image unpacks to more than {format_size(limit)}", "make room for it, or check where it comes from"
            )
        if count > MAX_ENTRIES:
            raise refusal(f"the archive has more than {MAX_ENTRIES} entries")
        if entry.name:
            yield entry


def inside(name: str) -> str:
    """``name`` without ``./``, relative to the root; empty for the root itself. Raises UsageError if it leads out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name or len(name) > MAX_PATH:
        raise refusal(f"entry '{printable(name)}' leads out of the image")
    return "/".join(parts)


def _check_whiteout(name: str) -> None:
    base = name.rpartition("/")[2]
    if base.startswith(_WHITEOUT) and base != _OPAQUE and base.removeprefix(_WHITEOUT) in ("", ".", ".."):
        raise refusal(f"entry '{printable(name)}' is a whiteout of nothing")


def printable(name: str) -> str:
    """A name from an archive, fit for one line of a terminal."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in text[:120])


def check_layer(path: Path, limit: int) -> tuple[str, int]:
    """Read a whole layer; its diff_id and uncompressed size. Raises UsageError for what may not be unpacked."""
    with damage_is_refused("a layer"), decompressed(path) as stream:
        measured = Measured(stream, limit)
        with open_tar(cast(BinaryIO, measured)) as tar:
            for _ in checked_entries(tar, limit):
                pass
        measured.drain()
        return measured.digest, measured.size
