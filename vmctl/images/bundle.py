"""Where an image to be imported lies: a folder, or a tar file; both give their files by name."""

from __future__ import annotations

import os
import stat
import tarfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from vmctl.images.archive import damage_is_refused, inside, printable, refusal


class Bundle(Protocol):
    """A set of files."""

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        ...

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A file's content. Raises UsageError if it is missing or no plain file."""
        ...


class FolderBundle:
    """A folder; links are not followed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, name: str) -> bool:
        return (self._folder / inside(name)).exists()

    def open(self, name: str) -> BinaryIO:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(self._folder / inside(name), flags)
        except OSError as error:
            raise refusal(f"'{printable(name)}' of the image cannot be read: {error.strerror}") from error
        stream = open(descriptor, "rb")  # noqa: SIM115 - the caller closes it
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            stream.close()
            raise refusal(f"'{printable(name)}' of the image is not a file")
        return stream


class TarBundle:
    """An uncompressed tar file, read in any order."""

    def __init__(self, path: Path) -> None:
        with damage_is_refused("the archive"):
            self._tar = tarfile.open(path, mode="r:", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
            self._entries = {entry.name.removeprefix("./"): entry for entry in self._tar}

    def has(self, name: str) -> bool:
        return name in self._entries

    def open(self, name: str) -> BinaryIO:
        entry = self._entries.get(inside(name))
        if entry is None:
            raise refusal(f"'{printable(name)}' is missing in the archive")
        with damage_is_refused("the archive"):
            try:
                stream = self._tar.extractfile(entry)  # Docker links layers that are the same
            except KeyError:
                stream = None
        if stream is None:
            raise refusal(f"'{printable(name)}' in the archive is not a file")
        return cast(BinaryIO, stream)

    def close(self) -> None:
        """Let the file go."""
        self._tar.close()


def read_document(bundle: Bundle, name: str, limit: int) -> bytes:
    """A small file. Raises UsageError beyond ``limit`` bytes."""
    with bundle.open(name) as stream, damage_is_refused("the archive"):
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise refusal(f"'{printable(name)}' is larger than {limit} bytes")
    return content
