"""CanCopy for every backend that can exec: a tar program inside, its archive on a pipe."""

from __future__ import annotations

import os
import posixpath
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from vmctl.backends.base import Attachment, Stdio
from vmctl.errors import AttachFailed, Conflict, NotFound, VmctlError
from vmctl.model.process import DEFAULT_PATH, Process
from vmctl.model.state import Exit

Exec = Callable[[Process], Attachment]
TAR = ("tar",)

_CHUNK = 64 << 10
_COMPLAINT_LIMIT = 4096
_NO_FOLDER = re.compile(r"^tar: (can't change directory to '.*'|.*: Cannot open): Not a directory$", re.MULTILINE)
"""What busybox's tar and GNU's say of -C."""
_READER_GRACE = 1.0  # seconds: a source that blocks must not hold up the failure that tar reported
_ENV = {"PATH": DEFAULT_PATH, "LC_ALL": "C"}


def copy_in(run: Exec, path: str, archive: BinaryIO, *, tar: tuple[str, ...] = TAR) -> None:
    """Unpack ``archive`` into the folder ``path`` inside. Raises NotFound, Conflict, ProgramNotFound (no tar)."""
    process = Process(argv=(*tar, "-x", "-f", "-", "-C", _operand(path)), env=_ENV, stdin=True)
    with _feed(archive) as stdin:
        end, complaint = _pump(run, process, stdin=stdin, stdout=None)
    if _NO_FOLDER.search(complaint):
        raise Conflict(f"not a folder inside: {path}", hint="name a folder, or a new name in one")
    _judge(end, complaint, path)


def copy_out(run: Exec, path: str, archive: BinaryIO, *, tar: tuple[str, ...] = TAR) -> None:
    """Write ``path`` inside as a tar stream whose root is its base name. Raises as :func:`copy_in`."""
    folder, name = posixpath.split(path.rstrip("/") or "/")
    process = Process(argv=(*tar, "-c", "-f", "-", "-C", folder or "/", _operand(name or ".")), env=_ENV)
    with _collect(archive.write) as stdout:
        end, complaint = _pump(run, process, stdin=None, stdout=stdout)
    _judge(end, complaint, path)


def _operand(path: str) -> str:
    """A path that tar cannot take for an option."""
    return f"./{path}" if path.startswith("-") else path


def _pump(run: Exec, process: Process, *, stdin: int | None, stdout: int | None) -> tuple[Exit | None, str]:
    """Run it; how it ended and the beginning of what it wrote to stderr (and stdout, unless that is wanted)."""
    complaint = bytearray()

    def keep(data: bytes) -> None:
        complaint.extend(data[: _COMPLAINT_LIMIT - len(complaint)])

    with _collect(keep) as errors:
        attachment = run(process)
        try:
            end = attachment.pump(Stdio(stdin, errors if stdout is None else stdout, errors))
        finally:
            attachment.close()
    return end, complaint.decode("utf-8", "replace")


def _judge(end: Exit | None, complaint: str, path: str) -> None:
    if end is None:
        raise AttachFailed("the instance ended during the copy")
    if end.code == 0:
        return
    if "No such file or directory" in complaint:
        raise NotFound(f"no such file or folder inside: {path}")
    lines = complaint.strip().splitlines()
    reason = "".join(c if c.isprintable() else "?" for c in lines[0][:200]) if lines else f"exit code {end.code}"
    raise VmctlError(f"tar inside failed: {reason}")


@contextmanager
def _feed(source: BinaryIO) -> Iterator[int]:
    """The read end of a pipe into which a thread writes ``source``, until its end or until nobody reads."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)

    def work() -> None:
        try:
            with suppress(BrokenPipeError):
                while chunk := source.read(_CHUNK):
                    view = memoryview(chunk)
                    while view:
                        view = view[os.write(write_end, view) :]
        finally:
            os.close(write_end)

    worker = _Worker(work)
    try:
        yield read_end
    finally:
        os.close(read_end)
        worker.join(_READER_GRACE)
    worker.check()


@contextmanager
def _collect(take: Callable[[bytes], object]) -> Iterator[int]:
    """The write end of a pipe from which a thread gives everything to ``take``, until that fails."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)

    def work() -> None:
        try:
            while chunk := os.read(read_end, _CHUNK):
                take(chunk)
        finally:
            os.close(read_end)

    worker = _Worker(work)
    try:
        yield write_end
    finally:
        os.close(write_end)
        worker.join()
    worker.check()


class _Worker(threading.Thread):
    """A started thread whose error is kept for ``check``."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread by check()
            self._error = error

    def check(self) -> None:
        """Raise what went wrong in the thread."""
        if self._error is not None:
            raise self._error
