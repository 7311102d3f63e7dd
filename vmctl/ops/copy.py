"""``vmctl cp``: files between the host and an instance, as a tar stream."""

from __future__ import annotations

import os
import posixpath
import shutil
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vmctl.app import App
from vmctl.backends.base import CanCopy, Ref
from vmctl.errors import Conflict, NotFound, PermissionDenied, Unsupported, UsageError, VmctlError
from vmctl.model.capability import Feature
from vmctl.model.views import ActionResult
from vmctl.ops.instances import find


class _Inside(NamedTuple):
    """A path inside an instance."""

    name: str
    backend: CanCopy
    ref: Ref
    path: str


def copy(app: App, source: str, destination: str) -> ActionResult:
    """Copy ``NAME:/path`` to a host path, or a host path to ``NAME:/path``; ``-`` is a tar stream on stdin or stdout.

    As with cp(1), an existing destination folder receives the source under its own name. Raises UsageError
    unless exactly one side is inside an instance, NotFound for a missing path.
    """
    if (inside_source := _parse(source)) and not _parse(destination):
        inside = _inside(app, *inside_source)
        _copy_out(inside, destination)
        return ActionResult(name=inside.name, action="copied", detail=f"{source} -> {destination}")
    if (inside_destination := _parse(destination)) and not inside_source:
        inside = _inside(app, *inside_destination)
        _copy_in(source, inside)
        return ActionResult(name=inside.name, action="copied", detail=f"{source} -> {destination}")
    raise UsageError(
        "exactly one of source and destination must be inside an instance",
        hint="vmctl cp ./file NAME:/path, or vmctl cp NAME:/path ./file",
    )


def _parse(text: str) -> tuple[str, str] | None:
    """(name, path) of ``NAME:/path``; None for a host path (which has a slash before any colon, or no colon)."""
    name, colon, path = text.partition(":")
    if not colon or "/" in name or name in ("", ".", ".."):
        return None
    if not path.startswith("/"):
        raise UsageError(f"the path in '{text}' is not absolute", hint=f"write {name}:/{path}")
    return name, path


def _inside(app: App, name: str, path: str) -> _Inside:
    record = find(app, name)
    backend = app.backend(record.backend)
    if not isinstance(backend, CanCopy):
        raise Unsupported(f"{backend.name} cannot copy: {backend.capabilities()[Feature.COPY]}")
    return _Inside(record.name, backend, app.ref(record.id), path)


def _copy_in(source: str, inside: _Inside) -> None:
    if source == "-":
        inside.backend.copy_in(inside.ref, inside.path, sys.stdin.buffer)
        return
    path = Path(source)
    if not path.exists():
        raise NotFound(f"no file or folder '{source}'")

    def send(folder: str, name: str) -> None:
        _through_pipe(
            write=lambda archive: _pack(path, name, archive),
            read=lambda archive: inside.backend.copy_in(inside.ref, folder, archive),
        )

    own_name = path.resolve().name if path.name in ("", "..") else path.name
    try:
        send(inside.path, own_name)
    except (NotFound, Conflict) as error:  # not a folder: then it is a new name in one, or a file to replace
        parent, name = posixpath.split(inside.path.rstrip("/"))
        if inside.path.endswith("/") or not name or (isinstance(error, Conflict) and path.is_dir()):
            raise
        send(parent or "/", name)


def _copy_out(inside: _Inside, destination: str) -> None:
    if destination == "-":
        inside.backend.copy_out(inside.ref, inside.path, sys.stdout.buffer)
        return
    target = Path(destination)
    folder, name = (target, None) if target.is_dir() else (target.parent, target.name)
    if not folder.is_dir():
        raise NotFound(f"no folder '{folder}'", hint="create it first")
    _through_pipe(
        write=lambda archive: inside.backend.copy_out(inside.ref, inside.path, archive),
        read=lambda archive: _unpack(archive, folder, name),
    )


def _pack(path: Path, name: str, archive: BinaryIO) -> None:
    """As cp -R: a link given by name is followed, links below it are copied as links."""
    with _host_errors(path), tarfile.open(fileobj=archive, mode="w|") as tar:
        tar.add(path.resolve(), arcname=name)


def _unpack(archive: BinaryIO, folder: Path, name: str | None) -> None:
    """Unpack below ``folder``, the root renamed to ``name``. The instance is not trusted: see :func:`_check_member`."""
    try:
        with _host_errors(folder), tarfile.open(fileobj=archive, mode="r|") as tar:
            for member in tar:
                if name is not None:
                    _, slash, rest = member.name.lstrip("./").partition("/")
                    member.name = f"{name}{slash}{rest}"
                _check_member(member, folder)
                tar.extract(member, folder, set_attrs=not member.issym())
    except tarfile.ReadError as error:
        raise NotFound("nothing was copied: the stream from the instance is empty or cut") from error


@contextmanager
def _host_errors(path: Path) -> Iterator[None]:
    """What the host's own files refuse, in our words."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise Conflict(
            f"'{error.filename}' is in the way: {error.strerror}", hint="remove it, or name another"
        ) from error
    except PermissionError as error:
        raise PermissionDenied(
            f"no permission for '{error.filename or path}'", hint="check its owner and mode"
        ) from error
    except OSError as error:
        raise VmctlError(f"cannot copy '{error.filename or path}': {error.strerror}", hint="check the disk") from error


def _check_member(member: tarfile.TarInfo, folder: Path) -> None:
    """Refuse what would be written outside ``folder``, also through links that came before; the caller owns the rest.

    The same rules as tarfile's data filter, which Python 3.11.2 does not have yet; symbolic links may point anywhere,
    because nothing is ever written through them.
    """
    root = os.path.realpath(folder)

    def inside(path: str) -> bool:
        return os.path.commonpath([root, os.path.realpath(os.path.join(root, path))]) == root

    own_place = os.path.dirname(member.name) if member.issym() else member.name
    if not inside(own_place) or (member.islnk() and not inside(member.linkname)):
        raise VmctlError(f"refused to unpack '{member.name}': it leads out of {folder}")
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        raise VmctlError(f"refused to unpack '{member.name}': it is a device or a pipe")
    member.mode &= 0o777  # no setuid, setgid or sticky bits
    member.uid, member.gid, member.uname, member.gname = os.geteuid(), os.getegid(), "", ""


def _through_pipe(write: Callable[[BinaryIO], None], read: Callable[[BinaryIO], None]) -> None:
    """Run ``write`` in a thread and ``read`` here, joined by a pipe. The writer's error explains the reader's."""
    read_end, write_end = os.pipe()
    failures: list[Exception] = []

    def produce() -> None:
        try:
            with os.fdopen(write_end, "wb") as archive:
                write(archive)
        except BrokenPipeError:
            return  # the reader failed and says why
        except Exception as error:  # noqa: BLE001 - raised in the caller's thread below
            failures.append(error)

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    with os.fdopen(read_end, "rb") as archive:
        try:
            read(archive)
            shutil.copyfileobj(archive, _Discard())  # padding after the end of the archive
        except VmctlError as error:
            archive.close()
            thread.join()
            raise _first(failures, error) from error
    thread.join()
    if failures:
        raise failures[0]


def _first(failures: list[Exception], error: Exception) -> Exception:
    return next((failure for failure in failures if isinstance(failure, VmctlError)), error)


class _Discard:
    def write(self, data: bytes) -> int:
        return len(data)
