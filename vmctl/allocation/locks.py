"""Owner locks: whoever is in charge of a claim holds a flock that dies with the process (rule P5).

The files are removed when a claim needs no owner any more, so a lock counts only while its file is still the one at
that path: otherwise two processes could hold "the" lock, one of them on a file that was removed.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from vmctl.ledger.database import make_private


class OwnerLocks:
    """The owner locks that this process holds, by claim id."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int] = {}

    def take(self, claim_id: str) -> bool:
        """Take the lock without waiting; true also when this process has it already."""
        if claim_id in self._held:
            return True
        make_private(self._folder.parent)
        make_private(self._folder)
        path = self._folder / claim_id
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
            if _is_at(fd, path):
                self._held[claim_id] = fd
                return True
            os.close(fd)

    def holds(self, claim_id: str) -> bool:
        """Whether this process has it."""
        return claim_id in self._held

    def drop(self, claim_id: str) -> None:
        """Let go, and remove the file: nobody needs to own this claim now. Silent when not held."""
        fd = self._held.pop(claim_id, None)
        if fd is not None:
            (self._folder / claim_id).unlink(missing_ok=True)
            os.close(fd)

    def leave(self, claim_id: str) -> None:
        """Let go and keep the file: the claim still needs somebody. Silent when not held."""
        fd = self._held.pop(claim_id, None)
        if fd is not None:
            os.close(fd)

    def files(self) -> list[str]:
        """The claim ids for which there is a file, held or not."""
        try:
            return sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []

    def close(self) -> None:
        """Let go of everything, as the end of the process would."""
        for claim_id in list(self._held):
            self.leave(claim_id)


def _is_at(fd: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)
