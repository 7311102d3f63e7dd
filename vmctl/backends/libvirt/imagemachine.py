"""Talking to the init of an image machine: boot it, join it, end it."""

from __future__ import annotations

from pathlib import Path

from vmctl.backends.libvirt import folder
from vmctl.backends.libvirt.logs import console_tail
from vmctl.backends.wire import machine
from vmctl.backends.wire.client import Session
from vmctl.errors import AttachFailed, BackendUnavailable, TimedOut, VmctlError, WrongState

BOOT_TIMEOUT = 120.0
"""Seconds until the init answers: 2 under TCG on an idle host, many times that on a crowded one."""
SESSION_TIMEOUT = 20.0


def boot(
    directory: Path, order: folder.Order, network: machine.GuestNetwork | None, *, fresh: bool
) -> Session:
    """Wait for the init, set the machine up and start the main process; the session is attached to it.

    Raises ProgramNotFound, CannotInvoke, VmctlError (the machine did not come up; with the console's last words).
    """
    if order.process is None:
        raise WrongState("this machine has no init of vmctl's")
    try:
        session = machine.open_session(directory, BOOT_TIMEOUT, fresh=fresh)
    except (AttachFailed, BackendUnavailable, TimedOut) as error:
        said = console_tail(directory)
        raise VmctlError(
            f"the machine did not boot: {error.message}" + (f"; its console ends: {said}" if said else ""),
            hint="more memory? else see its console log",
        ) from None
    try:
        session.boot(
            machine.boot_pairs(
                order.process,
                hostname=order.hostname,
                root_fs=order.root_fs,
                upper=machine.UPPER_DEVICE if order.upper else "",
                read_only=order.read_only,
                network=network,
                restart=order.restart,
                restart_max=order.restart_max,
            )
        )
    except BaseException:
        session.close()
        raise
    return session


def connect(directory: Path) -> Session:
    """A session with a machine that has booted. Raises Conflict (all ports in use), AttachFailed, TimedOut."""
    return machine.open_session(directory, SESSION_TIMEOUT)


def poweroff(directory: Path, timeout: float, signal: int) -> bool:
    """Have the init end the main process and then the machine; False where it cannot be asked."""
    try:
        session = machine.open_session(directory, min(SESSION_TIMEOUT, max(timeout, 1.0)))
    except VmctlError:
        return False
    try:
        session.poweroff(timeout, signal)
    except VmctlError:
        return False
    finally:
        session.close()
    return True
