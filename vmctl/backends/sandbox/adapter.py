"""The sandbox backend: applications confined by bubblewrap, each under a supervisor of its own."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from vmctl.backends.base import Attachment, Backend, Body, NativePlan, Ref
from vmctl.backends.sandbox import cgroup, client, states
from vmctl.backends.sandbox.errors import os_error
from vmctl.backends.sandbox.events import watch
from vmctl.backends.sandbox.logs import read_log
from vmctl.backends.sandbox.order import LOG, ORDER, UPPER, WORK, Order
from vmctl.backends.sandbox.plan import (
    NO_NETWORKS,
    NO_PORTS,
    Host,
    check,
    has_writable_bind,
    native_plan,
    order_of,
    signal_number,
)
from vmctl.backends.sandbox.probe import find_bwrap, probe_host
from vmctl.backends.wire import tarcopy
from vmctl.backends.wire.pump import WireAttachment
from vmctl.errors import AttachFailed, BackendUnavailable, NotFound, TimedOut, Unsupported, VmctlError, WrongState
from vmctl.model.capability import Capabilities, Feature
from vmctl.model.event import Event, LogRecord
from vmctl.model.ids import native_name
from vmctl.model.image import ImageForm
from vmctl.model.observed import Foreign, Observed, Overhead, Probe, Usage
from vmctl.model.process import Process
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Exit, Kind, State

_KILL_TIMEOUT = 10.0
_POLL = 0.1
_RESOLV_CONF = Path("/etc/resolv.conf")

_SUPERVISOR_MEMORY = 8 << 20
"""Measured: 5.9 MiB of its own and a share of Python's; bwrap's two processes (0.3 MiB) count in the group."""
_OVERHEAD_PIDS = 1 + cgroup.OWN_PIDS

_NO_GROUP = "no control group is writable for this user"
_GROUP_HINT = "run as root, or where a group is delegated: systemd-run --user --scope -p Delegate=yes vmctl ..."


class SandboxBackend:
    """See ``backends.base.Backend``. Stateless: everything is in the instances' folders."""

    name = "sandbox"
    kinds = frozenset({Kind.APP})
    image_form = ImageForm.TREE

    def __init__(self, state: Path) -> None:
        self._cache = state / "cache"
        self._instances = state / "instances"

    # -- what it is -----------------------------------------------------------------------------------------------

    def probe(self) -> Probe:
        return probe_host()

    def capabilities(self) -> Capabilities:
        reasons = dict.fromkeys(Feature, "")
        reasons[Feature.CONSOLE] = "an application has no console; attach to it, or exec a shell"
        reasons[Feature.DISK_BOOT] = "an application does not boot"
        reasons[Feature.PORTS] = NO_PORTS
        reasons[Feature.NETWORKS] = NO_NETWORKS
        if not cgroup.plan_group("probe"):
            reasons[Feature.LIMIT_MEMORY] = f"{_NO_GROUP}: memory is limited for each process, not for their sum"
            reasons[Feature.LIMIT_CPU] = f"{_NO_GROUP}: CPU time is not limited"
            reasons[Feature.PAUSE] = f"{_NO_GROUP}, so nothing can be frozen"
            reasons[Feature.STATS] = f"{_NO_GROUP}, so nothing is counted"
        return reasons

    def overhead(self, spec: InstanceSpec) -> Overhead:
        return Overhead(memory=_SUPERVISOR_MEMORY, pids=_OVERHEAD_PIDS)

    def advice(self) -> str:
        """One line for callers whose limits are weaker than they asked for."""
        if cgroup.plan_group("advice"):
            return ""
        weaker = "memory is limited for each process, not for their sum, and CPU time not at all"
        return f"limits of applications are weak: {_NO_GROUP}, so {weaker}; for all of them, {_GROUP_HINT}"

    def validate(self, spec: InstanceSpec) -> None:
        check(spec)

    def plan(self, body: Body) -> NativePlan:
        return native_plan(body)

    # -- making and removing --------------------------------------------------------------------------------------

    def create(self, body: Body) -> None:
        check(body.spec)
        if (body.directory / ORDER).exists():
            return
        for mount in body.spec.mounts:
            if not os.path.exists(mount.source):
                raise NotFound(f"nothing to share at {mount.source}", hint="make the folder first")
        host = self._host(body)
        order = order_of(body, host)
        try:
            self._make_folder(body.directory, order)
        except OSError as error:
            shutil.rmtree(body.directory, ignore_errors=True)
            raise os_error(error, "cannot make the sandbox's folder") from None

    def _host(self, body: Body) -> Host:
        program = find_bwrap()
        if program is None:
            raise BackendUnavailable("bubblewrap is not installed", hint="apt-get install bubblewrap")
        return Host(
            root=os.geteuid() == 0,
            group=cgroup.plan_group(native_name(body.id)),
            bwrap=program,
            filters=tuple(str(path) for path in self._filters(body.spec)),
            resolv_conf=_RESOLV_CONF.read_text() if _RESOLV_CONF.exists() else "",
        )

    def _filters(self, spec: InstanceSpec) -> tuple[Path, Path]:
        return self._compiled(setuid_files=not has_writable_bind(spec))

    def _compiled(self, *, setuid_files: bool) -> tuple[Path, Path]:
        from vmctl.backends.sandbox.seccomp import filters  # loads ctypes: not for those who only look

        return filters(self._cache, setuid_files=setuid_files)

    @staticmethod
    def _make_folder(directory: Path, order: Order) -> None:
        """Closed to others: what the program writes must not be reachable on the host's paths."""
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        for name in (UPPER, WORK):
            (directory / name).mkdir(exist_ok=True)
        os.chown(directory / UPPER, order["id_base"] or -1, order["id_base"] or -1)
        (directory / UPPER).chmod(0o755)
        temporary = directory / f"{ORDER}.new"
        temporary.write_bytes(msgspec.json.encode(order))
        temporary.replace(directory / ORDER)

    def delete(self, ref: Ref) -> None:
        try:
            order = client.read_order(ref.directory)
        except NotFound:
            group: cgroup.Group = {}  # gone, or never finished: then only the folder is left
        else:
            group = order["group"]
        if client.supervisor_pid(ref.directory) is not None:
            try:
                self._power_off(ref, 0, 9)
            except VmctlError:
                client.kill_supervisor(ref.directory)
        if not cgroup.destroy(group):
            raise VmctlError("processes of the sandbox cannot be ended", hint="they may hang in the kernel; try again")
        try:
            _remove_tree(ref.directory)
        except OSError as error:
            raise os_error(error, "cannot remove the sandbox's folder") from None

    # -- running --------------------------------------------------------------------------------------------------

    def start(self, ref: Ref, *, attach: bool = False) -> Attachment | None:
        order = client.read_order(ref.directory)
        state = self.inspect(ref).state
        if state in (State.STOPPED, State.FAILED):
            client.kill_supervisor(ref.directory, patience=_KILL_TIMEOUT)  # it may still serve a client of the last run
        elif state is State.PAUSED:
            raise WrongState("the instance is paused", hint="resume it with 'vmctl resume'")
        elif state is not State.CREATED:
            return self.attach(ref) if attach else None
        cgroup.destroy(order["group"])  # left over when a supervisor was killed
        self._restore_filters(order)
        session = client.spawn(ref.directory, attach=attach)
        return None if session is None else WireAttachment(session)

    def _restore_filters(self, order: Order) -> None:
        """The cache may have been emptied since create."""
        if not all(os.path.exists(path) for path in order["filters"]):
            writable = any(not bind["read_only"] for bind in order["binds"])
            order["filters"] = [str(path) for path in self._compiled(setuid_files=not writable)]

    def stop(self, ref: Ref, *, timeout: float, signal: str | None = None) -> None:
        order = client.read_order(ref.directory)
        number = order["stop_signal"] if signal is None else signal_number(signal)
        try:
            self._power_off(ref, timeout, number)
        except WrongState:
            return

    def kill(self, ref: Ref, *, signal: str = "SIGKILL") -> None:
        number = signal_number(signal)
        if number == 9:
            self._power_off(ref, 0, 9)
            return
        session = client.connect_to(ref)
        try:
            session.signal(number)
        finally:
            session.close()

    def _power_off(self, ref: Ref, timeout: float, number: int) -> None:
        """Ask the supervisor to end the program and itself. Raises WrongState when there is none."""
        try:
            session = client.connect_to(ref)
            try:
                session.poweroff(timeout, number)
            finally:
                session.close()
        except AttachFailed:  # cut while asking: somebody else's stop came first, or the program ended by itself
            if not client.wait_for_end(ref.directory, _KILL_TIMEOUT):
                raise
        client.wait_for_end(ref.directory, _KILL_TIMEOUT)

    def wait(self, ref: Ref, timeout: float | None = None) -> Exit:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            observed = self.inspect(ref)
            if observed.exit is not None and observed.state in (State.STOPPED, State.FAILED):
                return observed.exit
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise TimedOut("the instance has not ended in time")
            if not client.wait_for_end(ref.directory, _POLL if remaining is None else min(_POLL, remaining)):
                continue
            if observed.state is State.CREATED or (observed.state is State.STOPPED and observed.exit is None):
                time.sleep(_POLL)  # never started: it may be, before the time is over

    # -- looking --------------------------------------------------------------------------------------------------

    def inspect(self, ref: Ref) -> Observed:
        return _observe(ref.directory)

    def instances(self) -> list[Observed]:
        found = []
        for order in sorted(self._instances.glob(f"*/{ORDER}")):
            try:
                found.append(_observe(order.parent))
            except NotFound:
                continue  # removed meanwhile
        return found

    def foreign(self) -> list[Foreign]:
        """None: a program that runs on the host by itself is the host's own load, not somebody's instance."""
        return []

    def logs(self, ref: Ref, *, follow: bool = False, tail: int | None = None) -> Iterator[LogRecord]:
        client.read_order(ref.directory)
        return read_log(ref.directory / LOG, lambda: client.supervisor_pid(ref.directory) is not None, follow, tail)

    def events(self, callback: Callable[[Event], None], stop: Callable[[], bool]) -> None:
        watch(self.instances, callback, stop)

    def stats(self, refs: list[Ref]) -> list[Usage]:
        usages = []
        for ref in refs:
            try:
                group = client.read_order(ref.directory)["group"]
            except NotFound:
                continue
            counted = cgroup.counters(group)
            if counted is not None:
                usages.append(
                    Usage(
                        id=ref.id,
                        at=time.time_ns(),
                        cpu_ns=counted.cpu_ns,
                        memory=counted.memory,
                        memory_limit=cgroup.read_limits(group).memory,
                        pids=counted.pids,
                    )
                )
        return usages

    # -- reaching in ----------------------------------------------------------------------------------------------

    def attach(self, ref: Ref) -> Attachment:
        session = client.connect_to(ref)
        try:
            session.attach(stdin=True)
        except BaseException:
            session.close()
            raise
        return WireAttachment(session)

    def exec(self, ref: Ref, process: Process) -> Attachment:
        session = client.connect_to(ref)
        try:
            session.exec(process)
        except BaseException:
            session.close()
            raise
        return WireAttachment(session)

    def copy_in(self, ref: Ref, path: str, archive: BinaryIO) -> None:
        tarcopy.copy_in(lambda process: self.exec(ref, process), path, archive)

    def copy_out(self, ref: Ref, path: str, archive: BinaryIO) -> None:
        tarcopy.copy_out(lambda process: self.exec(ref, process), path, archive)

    # -- freezing -------------------------------------------------------------------------------------------------

    def pause(self, ref: Ref) -> None:
        self._freeze(ref, State.RUNNING, frozen=True)

    def resume(self, ref: Ref) -> None:
        self._freeze(ref, State.PAUSED, frozen=False)

    def _freeze(self, ref: Ref, wanted: State, *, frozen: bool) -> None:
        group = client.read_order(ref.directory)["group"]
        state = self.inspect(ref).state
        if state not in (State.RUNNING, State.PAUSED):
            raise WrongState(f"the instance is {state}, not running")
        if state is not wanted:
            return
        if not cgroup.can_freeze(group):
            raise Unsupported(f"cannot pause: {_NO_GROUP}", hint=_GROUP_HINT)
        try:
            done = cgroup.freeze(group, frozen=frozen)
        except OSError as error:
            raise WrongState(f"the instance ended meanwhile ({error.strerror})") from None
        if not done:
            raise TimedOut("the kernel did not freeze every process in time")

    def close(self) -> None:
        """Nothing is kept open."""


def _observe(directory: Path) -> Observed:
    order = client.read_order(directory)
    alive = client.supervisor_pid(directory) is not None
    return states.observe(order, client.read_status(directory), alive=alive)


def _remove_tree(directory: Path) -> None:
    """Also what a program made unreadable for its owner. The order goes first: without it there is no instance."""
    if not directory.exists():
        return
    (directory / ORDER).unlink(missing_ok=True)
    if os.geteuid() != 0:
        for folder, names, _ in os.walk(directory):
            for name in names:
                path = os.path.join(folder, name)
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
    shutil.rmtree(directory)


def open_backend(state: Path) -> Backend:
    """The ``BackendFactory`` of this backend."""
    return SandboxBackend(state)
