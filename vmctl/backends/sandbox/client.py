"""The instance's folder and its supervisor, as seen from vmctl: reading, starting, connecting, waiting."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from vmctl.backends.base import Ref
from vmctl.backends.sandbox.errors import start_error
from vmctl.backends.sandbox.order import COMPLAINTS, LOCK, ORDER, SOCKET, STATUS, Order, Status
from vmctl.backends.wire.client import Session, SessionCut, connect
from vmctl.errors import AttachFailed, BackendUnavailable, NotFound, TimedOut, VmctlError, WrongState

_FLOCK = "hhqqi"  # struct flock, in the machine's alignment
_PACKAGES = str(Path(__file__).resolve().parents[3])
_START_TIMEOUT = 60.0
_CONNECT_TIMEOUT = 10.0

_BOOTSTRAP = """\
import os, sys
if os.fork():
    os._exit(0)
sys.path.insert(0, sys.argv[1])
from vmctl.backends.sandbox.supervisor import main
main()
"""
"""Forks before anything is imported: whoever waits for the first process waits 10 ms."""


def read_order(directory: Path) -> Order:
    """The order in an instance's folder. Raises NotFound."""
    try:
        content = (directory / ORDER).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("the sandbox does not exist") from None
    return msgspec.json.decode(content, type=Order)


def read_status(directory: Path) -> Status | None:
    """The last word of its supervisor; None before the first start."""
    try:
        return msgspec.json.decode((directory / STATUS).read_bytes(), type=Status)
    except FileNotFoundError:
        return None


def supervisor_pid(directory: Path) -> int | None:
    """The pid of the living supervisor, from its lock; asking does not take the lock."""
    try:
        fd = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, question))
    finally:
        os.close(fd)
    return None if kind == fcntl.F_UNLCK else int(pid)


def spawn(directory: Path, *, attach: bool) -> Session | None:
    """Start a supervisor and through it the program; with ``attach`` connected before the program's start.

    Raises ProgramNotFound, CannotInvoke, WrongState, VmctlError.
    """
    report_read, report_write = os.pipe2(os.O_CLOEXEC)
    ours, theirs = socket.socketpair() if attach else (None, None)
    try:
        _run_supervisor(directory, report_write, theirs)
    finally:
        os.close(report_write)
        if theirs is not None:
            theirs.close()
    session = None
    try:
        if ours is not None:
            session = Session(ours)
            _attach_first(session, report_read, directory)
        _await_start(report_read, directory)
    except BaseException:
        if session is not None:
            session.close()
        raise
    finally:
        os.close(report_read)
    return session


def _attach_first(session: Session, report: int, directory: Path) -> None:
    """Join before there is anything to miss. A supervisor that gave up meanwhile says why in its report."""
    try:
        session.synchronise(time.monotonic() + _START_TIMEOUT, fresh=True)
        session.attach(stdin=True)
    except (SessionCut, VmctlError) as error:
        _await_start(report, directory)
        raise AttachFailed(f"the sandbox's supervisor broke the connection: {error}") from None


def _run_supervisor(directory: Path, report: int, client: socket.socket | None) -> None:
    descriptors = [report] if client is None else [report, client.fileno()]
    number = -1 if client is None else client.fileno()
    with (directory / COMPLAINTS).open("wb") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, _PACKAGES, str(directory), str(report), str(number)],
            stdin=subprocess.DEVNULL,
            stdout=complaints,
            stderr=complaints,
            pass_fds=descriptors,
            start_new_session=True,
            cwd="/",
            env={"LC_ALL": "C.UTF-8", "PATH": os.defpath},
        )
        process.wait()


def _await_start(report: int, directory: Path) -> None:
    poller = select.poll()
    poller.register(report, select.POLLIN)
    if not poller.poll(_START_TIMEOUT * 1000):
        raise TimedOut("the sandbox was not started in time")
    line = os.read(report, 4096).decode("utf-8", "replace")
    if line.strip() != "ok":
        raise start_error(line, directory / COMPLAINTS)


def connect_to(ref: Ref) -> Session:
    """A session with the running supervisor. Raises WrongState when there is none."""
    read_order(ref.directory)
    try:
        return connect(ref.directory / SOCKET, _CONNECT_TIMEOUT, fresh=True)
    except BackendUnavailable:
        raise WrongState("the instance does not run", hint="start it with 'vmctl start'") from None


def wait_for_end(directory: Path, timeout: float | None) -> bool:
    """Block until the supervisor has ended; False when ``timeout`` seconds were too few."""
    pid = supervisor_pid(directory)
    if pid is None:
        return True
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if supervisor_pid(directory) != pid:
            return True
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(None if timeout is None else max(0.0, timeout) * 1000))
    finally:
        os.close(pidfd)


def kill_supervisor(directory: Path, *, patience: float = 0.0) -> None:
    """End a supervisor that has not ended in ``patience`` seconds; the kernel ends everything below it."""
    pid = supervisor_pid(directory)
    if pid is None or wait_for_end(directory, patience):
        return
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return
    if not wait_for_end(directory, _CONNECT_TIMEOUT):
        raise VmctlError("the sandbox's supervisor cannot be ended")
