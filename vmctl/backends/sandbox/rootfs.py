"""Inside a hostile root folder: finding and making paths without following its links, and reading its users."""

from __future__ import annotations

import os
import stat

from vmctl.backends.sandbox.bwrap import Identity

_ID_LIMIT = 65536
_TEXT_LIMIT = 4 << 20


class LaunchError(Exception):
    """The sandbox cannot be set up; the text is for the user. ``code`` is as in an ERROR frame, or "failed"."""

    def __init__(self, message: str, code: str = "failed") -> None:
        super().__init__(message)
        self.code = code


def ensure_target(root: str, path: str, *, folder: bool, owner: int) -> None:
    """Make sure that ``path`` below ``root`` is a folder (or a file) on which can be mounted.

    What is missing is made, owned by ``owner``. Links are never followed: one in the middle is refused, one in the
    place of a file is replaced. Raises LaunchError.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise LaunchError(f"the path {path} inside goes upwards")
    where = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        for part in parts if folder else parts[:-1]:
            inner = _enter(where, part, path, owner)
            os.close(where)
            where = inner
        if not folder and parts:
            _ensure_file(where, parts[-1], path, owner)
    finally:
        os.close(where)


def _enter(where: int, part: str, path: str, owner: int) -> int:
    try:
        os.mkdir(part, 0o755, dir_fd=where)
        os.chown(part, owner, owner, dir_fd=where, follow_symlinks=False)
    except FileExistsError:
        pass
    except OSError as error:
        raise LaunchError(f"cannot make {path} inside: {error.strerror}") from None
    try:
        return os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=where)
    except OSError:
        raise LaunchError(f"the path {path} inside leads through '{part}', which is a link or no folder") from None


def _ensure_file(where: int, name: str, path: str, owner: int) -> None:
    try:
        kind = os.stat(name, dir_fd=where, follow_symlinks=False).st_mode
        if stat.S_ISREG(kind):
            return
        if not stat.S_ISLNK(kind):
            raise LaunchError(f"{path} inside is not a file")
        os.unlink(name, dir_fd=where)
    except FileNotFoundError:
        pass
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=where)
    except OSError as error:
        raise LaunchError(f"cannot make {path} inside: {error.strerror}") from None
    os.fchown(fd, owner, owner)
    os.close(fd)


def find_identity(user: str, passwd: str, group: str) -> Identity:
    """Who ``user`` (name, uid, name:group or uid:gid; empty is root) is by these two files. Raises LaunchError."""
    name, _, group_name = user.partition(":")
    name = name or "0"
    entry = _find(passwd, name, 2)
    if entry is None and not name.isdecimal():
        raise LaunchError(f"no user called '{name}' inside", "cannot-invoke")
    uid = int(entry[2]) if entry else int(name)
    gid = int(entry[3]) if entry and len(entry) > 3 and entry[3].isdecimal() else 0
    groups: tuple[int, ...] = ()
    if group_name:
        found = _find(group, group_name, 2)
        if found is None and not group_name.isdecimal():
            raise LaunchError(f"no group called '{group_name}' inside", "cannot-invoke")
        gid = int(found[2]) if found else int(group_name)
    elif entry:
        groups = tuple(sorted(_memberships(group, entry[0]) - {gid}))
    if uid >= _ID_LIMIT or gid >= _ID_LIMIT:
        raise LaunchError(f"user '{user}' is outside of the {_ID_LIMIT} ids that an application has", "cannot-invoke")
    return Identity(uid, gid, groups, entry[5] if entry and len(entry) > 5 and entry[5] else "/")


def _find(text: str, key: str, number_field: int) -> list[str] | None:
    column = number_field if key.isdecimal() else 0
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) > number_field and fields[column] == key and fields[number_field].isdecimal():
            return fields
    return None


def _memberships(group: str, name: str) -> set[int]:
    found = set()
    for line in group.splitlines():
        fields = line.split(":")
        if len(fields) > 3 and fields[2].isdecimal() and int(fields[2]) < _ID_LIMIT and name in fields[3].split(","):
            found.add(int(fields[2]))
    return found


def read_text(root: str, path: str) -> str:
    """The text of a small file below ``root``; nothing where it is missing, a link, or lies behind one."""
    where = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        *folders, name = [part for part in path.split("/") if part]
        for part in folders:
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=where)
            os.close(where)
            where = inner
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=where)
        with os.fdopen(fd, "rb") as stream:
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
            return stream.read(_TEXT_LIMIT).decode("utf-8", "surrogateescape") if regular else ""
    except OSError:
        return ""
    finally:
        os.close(where)
