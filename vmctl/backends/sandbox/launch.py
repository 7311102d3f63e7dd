"""Starts the program of an order: namespaces, mounts, identity and limits, then bwrap. Runs in the supervisor.

The child is process 1 of a pid namespace of its own. That makes it immune to what a terminal sends to its group
(bwrap would die of Ctrl-C and take the program along), and makes its death the death of everything below it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import stat
import termios
from typing import NamedTuple

from vmctl.backends.sandbox import cgroup, linux
from vmctl.backends.sandbox.bwrap import (
    MASKED,
    STAGE,
    STAGE_ROOT,
    SYSTEM_FILES,
    SYSTEM_FOLDERS,
    Facts,
    Identity,
    options,
    staged_bind,
    staged_file,
)
from vmctl.backends.sandbox.order import UPPER, WORK, Bind, Order
from vmctl.backends.sandbox.rootfs import LaunchError, ensure_target, find_identity, read_text

ID_COUNT = 65536
_OPEN_FILES = (1024, 65536)
_FAILED = 125


class Streams(NamedTuple):
    """The program's ends: descriptors for 0, 1 and 2 (all the same for a terminal)."""

    stdin: int
    stdout: int
    stderr: int


class Launched(NamedTuple):
    """``pid``: the outermost process, a child of the caller. ``status``: where bwrap reports as JSON."""

    pid: int
    status: int


def launch(order: Order, directory: str, streams: Streams) -> Launched:
    """Start it. What goes wrong later shows as the child's exit without a reported one, with a text on stderr.

    Raises OSError, LaunchError.
    """
    identity = find_identity(order["user"], *(_account_file(order, directory, name) for name in ("passwd", "group")))
    owners = _make_owners(order, order["id_base"] + identity.uid) if order["id_base"] else None
    status_read, status_write = os.pipe2(os.O_CLOEXEC)
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    pid = linux.clone(linux.CLONE_NEWNS | linux.CLONE_NEWPID | (linux.CLONE_NEWUSER if owners is None else 0))
    if pid == 0:
        _child(order, directory, streams, identity, owners, status_write, go_read)
    os.close(status_write)
    os.close(go_read)
    if owners is None:
        _map_caller(pid)
    else:
        for fd in (owners.inside, *owners.binds):
            os.close(fd)
    os.write(go_write, b"x")
    os.close(go_write)
    return Launched(pid, status_read)


class _Owners(NamedTuple):
    """User namespaces that translate owners (root callers only): the program's own, and one for each bind."""

    inside: int
    binds: list[int]


def _make_owners(order: Order, owner: int) -> _Owners:
    """Made here, not in the child: /proc does not know processes by the names they have in its pid namespace."""
    base = order["id_base"]
    binds = []
    for bind in order["binds"]:
        try:
            info = os.stat(bind["source"])
        except OSError as error:
            raise LaunchError(f"cannot share {bind['source']}: {error.strerror}") from None
        uids = _ids(info.st_uid, base, 1 if info.st_uid else ID_COUNT)
        gids = _ids(info.st_gid, base, 1 if info.st_gid else ID_COUNT)
        binds.append(_make_userns(owner, uids, gids))
    ids = _ids(0, base, ID_COUNT)
    return _Owners(_make_userns(owner, ids, ids), binds)


def _ids(inside: int, outside: int, count: int) -> str:
    return f"{inside} {outside} {count}"


def _make_userns(owner: int, uids: str, gids: str) -> int:
    """A descriptor of a new user namespace with these maps, owned by host uid ``owner``; root only."""
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(owner, owner, owner)
            os.setresuid(owner, owner, owner)
            linux.unshare(linux.CLONE_NEWUSER)
            os.write(ready_write, b"x")
            os.close(go_write)
            os.read(go_read, 1)
            with open("/proc/sys/user/max_user_namespaces", "w") as stream:
                stream.write("0")  # no further one below: what bwrap's --disable-userns does for its own
        finally:
            os._exit(0)
    os.close(ready_write)
    os.close(go_read)
    try:
        if not os.read(ready_read, 1):
            raise LaunchError("cannot make a user namespace (user.max_user_namespaces may be 0)")
        for file, text in (("uid_map", uids), ("gid_map", gids)):
            with open(f"/proc/{pid}/{file}", "w") as stream:
                stream.write(text)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    finally:
        os.close(ready_read)
        os.close(go_write)
        os.waitpid(pid, 0)


def _map_caller(pid: int) -> None:
    """An ordinary user: only the own id, as root of the child's namespace."""
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", _ids(0, os.geteuid(), 1)),
        ("gid_map", _ids(0, os.getegid(), 1)),
    ):
        with open(f"/proc/{pid}/{file}", "w") as stream:
            stream.write(text)


def _child(
    order: Order, directory: str, streams: Streams, who: Identity, owners: _Owners | None, status: int, go: int
) -> None:
    """Process 1 of the new pid namespace; never returns."""
    try:
        os.read(go, 1)
        take_terminal_or_session(streams, tty=order["tty"])
        cgroup.join(cgroup.open_doors(order["group"]))
        _become_bwrap(order, directory, who, owners, status)
    except (LaunchError, OSError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        os.write(2, f"vmctl: {text}{where}\n".encode())
    finally:
        os._exit(_FAILED)


def take_terminal_or_session(streams: Streams, *, tty: bool) -> None:
    """A session of its own, the streams as 0, 1 and 2, signals and limits as a fresh process expects them."""
    os.setsid()
    for target, source in enumerate(streams):
        os.dup2(source, target)
    if tty:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft, wanted = _OPEN_FILES
    limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, limit), limit))


def limit_without_group(order: Order) -> None:
    """The weaker limits of callers without a group: memory for each process, and the number of processes."""
    if not order["group"]:
        # Not RLIMIT_AS: many runtimes reserve far more addresses than they ever use.
        resource.setrlimit(resource.RLIMIT_DATA, (order["memory"], order["memory"]))
        resource.setrlimit(resource.RLIMIT_NPROC, (order["pids"] + cgroup.OWN_PIDS,) * 2)


def _become_bwrap(order: Order, directory: str, who: Identity, owners: _Owners | None, status: int) -> None:
    userns = None if owners is None else owners.inside
    base = order["id_base"]
    programs = [os.open(path, os.O_RDONLY) for path in order["filters"]]  # before STAGE hides what is below it
    _stage(order, directory, owners)
    line = options(order, _facts(), who, userns)
    arguments = os.memfd_create("arguments")  # environments hold secrets, command lines are public
    inherited = [status, arguments, *programs, *([] if userns is None else [userns])]
    for program in programs:
        line += ["--add-seccomp-fd", str(program)]
    with os.fdopen(os.dup(arguments), "wb") as stream:
        stream.write(b"".join(os.fsencode(word) + b"\0" for word in (*line, "--json-status-fd", str(status))))
        stream.flush()
        stream.seek(0)
    for fd in inherited:
        os.set_inheritable(fd, True)
    # bwrap looks its own children up by the numbers of this pid namespace. A host that shows a masked /proc forbids
    # the mount to ordinary users; there those numbers name other processes, and bwrap says so if it minds.
    with contextlib.suppress(OSError):
        linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    limit_without_group(order)
    if userns is not None:
        os.setgroups([base + group for group in who.groups])
        os.setresgid(*[base + who.gid] * 3)
        os.setresuid(*[base + who.uid] * 3)
    linux.die_with_parent()
    os.execve(order["bwrap"], ["bwrap", "--args", str(arguments), "--", *order["argv"]], {})  # noqa: S606


def _account_file(order: Order, directory: str, name: str) -> str:
    """The passwd or group that counts: ours for a program of the host, else the instance's own or the image's."""
    if not order["tree"]:
        return order["files"][f"/etc/{name}"]
    return read_text(f"{directory}/{UPPER}", f"/etc/{name}") or read_text(order["tree"], f"/etc/{name}")


def identity_in(order: Order, user: str, root: str) -> Identity:
    """Who ``user`` is in a running instance, whose root the caller sees at ``root``."""
    if not order["tree"]:
        return find_identity(user, order["files"]["/etc/passwd"], order["files"]["/etc/group"])
    return find_identity(user, read_text(root, "/etc/passwd"), read_text(root, "/etc/group"))


def _facts() -> Facts:
    """What this host has of what could be shown or masked."""
    present = [name for name in MASKED if os.path.exists(f"/proc/{name}")]
    folders = {}
    for name in SYSTEM_FOLDERS:
        if os.path.islink(f"/{name}"):
            folders[name] = os.readlink(f"/{name}")
        elif os.path.isdir(f"/{name}"):
            folders[name] = ""
    return Facts(
        masked=tuple(name for name in present if not os.path.isdir(f"/proc/{name}")),
        masked_folders=tuple(name for name in present if os.path.isdir(f"/proc/{name}")),
        folders=folders,
        files=tuple(name for name in SYSTEM_FILES if os.path.exists(f"/etc/{name}")),
    )


def _stage(order: Order, directory: str, owners: _Owners | None) -> None:
    """Gather root, binds and files below STAGE, invisible to the host."""
    linux.mount("", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    translators = [None for _ in order["binds"]] if owners is None else owners.binds
    binds = [_bind_source(bind, userns) for bind, userns in zip(order["binds"], translators, strict=True)]
    tree = _open_tree(order["tree"], owners.inside if owners else None) if order["tree"] else None
    own = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    linux.mount("tmpfs", STAGE, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=0755,size=1m")
    for path, text in order["files"].items():
        with open(staged_file(path), "w") as stream:
            stream.write(text)
        os.chown(staged_file(path), order["id_base"], order["id_base"])
    for index, source in enumerate(binds):
        target = staged_bind(index)
        if stat.S_ISDIR(os.fstat(source).st_mode):
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT))
        linux.move_mount(source, target)
        os.close(source)
    if tree is not None:
        _mount_layers(order, tree, own)
        os.close(tree)
    os.close(own)


def _open_tree(tree: str, userns: int | None) -> int:
    fd = linux.open_tree(tree)
    if userns is not None:
        try:
            linux.map_ids(fd, userns)
        except OSError as error:
            raise LaunchError(
                f"{tree} must lie on a file system with idmapped mounts, such as ext4, xfs or btrfs ({error.strerror})"
            ) from None
    return fd


def _bind_source(bind: Bind, userns: int | None) -> int:
    """The source as a detached mount; for root callers its owner (or, if that is root, every id) appears as inside.

    Where the file system cannot do that, the owners stay what they are, and the program has the rights of a stranger.
    """
    try:
        fd = linux.open_tree(bind["source"])
        if userns is not None:
            try:
                linux.map_ids(fd, userns)
            except OSError:
                os.close(fd)
                fd = linux.open_tree(bind["source"])
    except OSError as error:
        raise LaunchError(f"cannot share {bind['source']}: {error.strerror}") from None
    return fd


def _mount_layers(order: Order, tree: int, own: int) -> None:
    """The shared image below, the instance's own layer above."""
    lower = f"{STAGE}/lower"
    os.mkdir(lower)
    os.mkdir(STAGE_ROOT)
    linux.move_mount(tree, lower)
    here = f"/proc/self/fd/{own}"
    layers = f"lowerdir={lower},upperdir={here}/{UPPER},workdir={here}/{WORK}"
    base = order["id_base"]
    try:
        linux.mount("overlay", STAGE_ROOT, "overlay", 0, layers if base else f"{layers},userxattr")
    except OSError as error:
        raise LaunchError(f"cannot lay a writable layer over the image: {error.strerror}") from None
    for folder in ("/proc", "/dev", "/tmp"):  # noqa: S108 - inside
        ensure_target(STAGE_ROOT, folder, folder=True, owner=base)
    with contextlib.suppress(LaunchError):  # nothing is mounted on it: it may lie behind a link, if it exists
        ensure_target(STAGE_ROOT, order["workdir"], folder=True, owner=base)
    for path in order["files"]:
        if not path.startswith("/proc/"):
            ensure_target(STAGE_ROOT, path, folder=False, owner=base)
    for index, bind in enumerate(order["binds"]):
        shows_folder = os.path.isdir(staged_bind(index))
        ensure_target(STAGE_ROOT, bind["target"], folder=shows_folder, owner=base)
