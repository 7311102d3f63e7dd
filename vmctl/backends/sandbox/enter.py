"""Runs one more process inside a running sandbox: same namespaces, group, identity and filters as its program.

Runs in the supervisor. A first child enters the namespaces and forks the process proper, which the kernel then hands
to the supervisor (a subreaper), so that its real exit status is seen.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from vmctl.backends.sandbox import cgroup, linux
from vmctl.backends.sandbox.launch import Streams, identity_in, limit_without_group, take_terminal_or_session
from vmctl.backends.sandbox.order import Order
from vmctl.backends.sandbox.rootfs import LaunchError

_NAMESPACES = {
    "mnt": linux.CLONE_NEWNS,
    "pid": linux.CLONE_NEWPID,
    "net": linux.CLONE_NEWNET,
    "ipc": linux.CLONE_NEWIPC,
    "uts": linux.CLONE_NEWUTS,
    "cgroup": linux.CLONE_NEWCGROUP,
}
_FAILED = 125


class Command(NamedTuple):
    """What to run; see ``model.process.Process``."""

    argv: list[str]
    env: dict[str, str]
    workdir: str
    user: str
    tty: bool


def enter(order: Order, inside: int, command: Command, streams: Streams) -> int:
    """Start ``command`` beside host pid ``inside``.

    Returns a descriptor that gives lines: ``pid N`` (the process), then nothing more when it runs, or
    ``error CODE MESSAGE``.
    """
    report_read, report_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _helper(order, inside, command, streams, report_write)
    os.close(report_write)
    return report_read


def _helper(order: Order, inside: int, command: Command, streams: Streams, report: int) -> None:
    """Never returns. Everything that will be needed inside is read and imported before the host's files vanish."""
    try:
        filters = [_read(path) for path in order["filters"]]
        identity = identity_in(order, command.user, f"/proc/{inside}/root")
        doors = cgroup.open_doors(order["group"])
        _join_namespaces(inside)
        pid = os.fork()
        if pid:
            os.write(report, f"pid {pid}\n".encode())
            os._exit(0)
        cgroup.join(doors)  # only now: the helper itself must not count
        take_terminal_or_session(streams, tty=command.tty)
        limit_without_group(order)
        if order["id_base"]:
            os.setgroups(list(identity.groups))
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
        linux.drop_all_capabilities()
        _change_folder(command.workdir)
        linux.no_new_privileges()
        for program in filters:
            linux.load_filter(program)
        _execute(command.argv, {"HOME": identity.home, **command.env})
    except LaunchError as error:
        os.write(report, f"error {error.code} {error}\n".encode())
    except OSError as error:
        os.write(report, f"error failed {error.filename or 'exec'}: {error.strerror}\n".encode())
    finally:
        os._exit(_FAILED)


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _join_namespaces(inside: int) -> None:
    """Root first enters what its own user namespace rules over; a user first becomes owner of the sandbox's."""
    pidfd = os.pidfd_open(inside)
    flags = sum(flag for name, flag in _NAMESPACES.items() if _differs(name, inside))
    own = os.open(f"/proc/{inside}/ns/user", os.O_RDONLY)
    if os.geteuid() == 0:
        linux.setns(pidfd, flags)
        linux.setns(own, linux.CLONE_NEWUSER)
        return
    mounts = os.open(f"/proc/{inside}/ns/mnt", os.O_RDONLY)
    owner = linux.owning_userns(mounts)
    linux.setns(owner, linux.CLONE_NEWUSER)
    linux.setns(pidfd, flags)
    if os.fstat(owner).st_ino != os.fstat(own).st_ino:
        linux.setns(own, linux.CLONE_NEWUSER)


def _differs(name: str, inside: int) -> bool:
    return os.readlink(f"/proc/{inside}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")


def _change_folder(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise LaunchError(f"cannot enter the folder {path}: {error.strerror}", "cannot-invoke") from None


def _execute(argv: list[str], env: dict[str, str]) -> None:
    """execve along PATH. Raises LaunchError: not-found, or cannot-invoke for what exists and does not run."""
    program = argv[0]
    folders = [""] if "/" in program else env.get("PATH", "").split(":")
    refusal: OSError | None = None
    for folder in folders:
        try:
            os.execve(f"{folder}/{program}" if folder else program, argv, env)  # noqa: S606 - that is the task
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                refusal = error
    if refusal is not None:
        raise LaunchError(f"cannot execute {program}: {refusal.strerror}", "cannot-invoke")
    raise LaunchError(f"{program}: no such program inside", "not-found")
