"""The libvirt backend: machines. See ``vmctl.backends.base`` for what every method promises."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from vmctl.backends.base import Attachment, Body, NativePlan, Ref
from vmctl.backends.libvirt import accel, disk, folder, imagemachine, limits, logs, network, observe, plan
from vmctl.backends.libvirt.client import Client, Domain, default_uri
from vmctl.backends.libvirt.console import ConsoleAttachment
from vmctl.backends.libvirt.errors import INSTALL_HINT, START_HINT, translated
from vmctl.backends.libvirt.states import DomainState
from vmctl.backends.wire import machine, tarcopy
from vmctl.backends.wire.pump import WireAttachment
from vmctl.errors import NotFound, PermissionDenied, TimedOut, Unsupported, VmctlError, WrongState
from vmctl.model.capability import Capabilities
from vmctl.model.event import Event, LogRecord
from vmctl.model.ids import native_name
from vmctl.model.image import ImageForm
from vmctl.model.observed import Foreign, Health, Observed, Overhead, Probe, Usage
from vmctl.model.process import Process
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import ALIVE, Exit, Kind, State
from vmctl.undo import UndoStack

log = logging.getLogger(__name__)

_DAEMONS = ("libvirtd", "virtqemud")
_OFF_GRACE = 10.0
"""Seconds from the end of the init to the end of QEMU, as libvirt sees it (it waits until QEMU is reaped)."""
_POLL = (0.01, 0.2)


class LibvirtBackend:
    """Machines of qemu:///system or qemu:///session. ``state`` holds the cache of the accelerator's verdict."""

    name = "libvirt"
    kinds = frozenset({Kind.VM})
    image_form: ImageForm | None = ImageForm.DISK

    def __init__(self, state: Path, uri: str | None = None) -> None:
        self._cache = state / "cache"
        self._kernels = state / "kernels"
        self._client = Client(uri or default_uri())

    # -- what it is and can do ----------------------------------------------------------------------------------

    def probe(self) -> Probe:
        if not any(shutil.which(daemon, path=_daemon_path()) for daemon in _DAEMONS):
            return Probe(health=Health.UNDETECTED, reason="libvirt is not installed", hint=INSTALL_HINT)
        if shutil.which(accel.EMULATOR) is None:
            return Probe(health=Health.UNDETECTED, reason="QEMU is not installed", hint=INSTALL_HINT)
        try:
            with translated("libvirt does not answer"):
                connection = self._client.connection()
                versions = [_version(connection.getLibVersion()), _version(connection.getVersion())]
        except VmctlError as error:
            return Probe(health=Health.UNHEALTHY, reason=error.message, hint=error.hint or START_HINT)
        facts = {"uri": self._client.uri, "qemu": versions[1], "accelerator": self._verdict([]).fact}
        if trouble := accel.device_trouble():
            facts["kvm-device"] = trouble
        return Probe(health=Health.HEALTHY, version=versions[0], facts=facts)

    def capabilities(self) -> Capabilities:
        return limits.capabilities(system=self._client.system)

    def overhead(self, spec: InstanceSpec) -> Overhead:
        return limits.overhead(spec)

    def validate(self, spec: InstanceSpec) -> None:
        limits.validate(spec, system=self._client.system)

    def accel_notice(self) -> str:
        """One line for whoever makes a machine that KVM will not run: why, and how to get KVM. Else empty."""
        verdict = self._verdict([])
        if verdict.accel == accel.KVM:
            return ""
        return f"machines are emulated (TCG), which is slow: {verdict.reason}; to get KVM, {accel.HOW}"

    def _verdict(self, guests: list[accel.Guest], *, force: bool = False) -> accel.Verdict:
        """Guests to prove KVM with: the machine's own kernel, one prepared for image machines, the host's."""
        prepared = [
            accel.Guest(kernel, next(kernel.parent.glob("initramfs-*"), None))
            for kernel in sorted(self._kernels.glob("*/kernel"))
        ]
        hosts = [accel.Guest(kernel) for kernel in sorted(Path("/boot").glob("vmlinuz-*"))]
        return accel.verdict(self._cache, [*guests, *prepared, *hosts], force=force)

    def _accel(self, body: Body) -> str:
        wanted = body.spec.machine.accel
        if wanted == accel.TCG:
            return accel.TCG
        guests = []
        if body.image is not None and body.image.kernel is not None:
            guests.append(accel.Guest(body.image.kernel.path, body.image.kernel.initramfs))
        verdict = self._verdict(guests, force=wanted == accel.KVM)
        if wanted == accel.KVM and verdict.accel != accel.KVM:
            raise Unsupported(f"KVM does not run machines here: {verdict.reason}", hint=f"--accel auto, or {accel.HOW}")
        return verdict.accel

    # -- making and removing ------------------------------------------------------------------------------------

    def plan(self, body: Body) -> NativePlan:
        return NativePlan("application/xml", self._xml(body))

    def _xml(self, body: Body) -> str:
        name = body.spec.machine.disk
        base = disk.examine(name) if name is not None and body.image is None else None
        return plan.domain_xml(body, plan.Surroundings(self._accel(body), self._client.system, base))

    def create(self, body: Body) -> None:
        if self._client.find(body.id) is not None:
            return
        connection = self._client.connection()
        if body.spec.network != "none" and self._client.system:
            network.ensure_network(connection, body.spec.network)
        with UndoStack() as undo:
            undo.push("folder", lambda: _remove_folder(body.directory))
            folder.make(body.directory)
            self._make_disk(body)
            if self._client.system:
                self._check_reachable(body)
            folder.save_order(body.directory, folder.order_of(body))
            xml = self._xml(body)
            with translated("libvirt does not accept the machine"):
                connection.defineXMLFlags(xml, 0)
            undo.disarm()

    def _make_disk(self, body: Body) -> None:
        overlay = folder.overlay_disk(body.directory)
        if body.image is None and body.spec.machine.disk is not None and not overlay.exists():
            disk.make_overlay(disk.examine(body.spec.machine.disk), overlay, body.spec.disk)

    def _check_reachable(self, body: Body) -> None:
        """QEMU's user has to read these; libvirt's own message would not say which folder bars it."""
        disk.check_searchable(body.directory)
        if body.image is not None:
            kernel = body.image.kernel
            files = [body.image.root_disk, *((kernel.path, kernel.initramfs) if kernel else ())]
        else:
            files = [Path(name).resolve() for name in (body.spec.machine.disk,) if name is not None]
        for file in files:
            if file is not None:
                disk.check_reachable(file)

    def delete(self, ref: Ref) -> None:
        if (domain := self._client.find(ref.id)) is not None:
            self._switch_off(domain)
            self._undefine(domain)
        _remove_folder(ref.directory)
        _remove_daemons_log(ref.id, system=self._client.system)

    def _undefine(self, domain: Domain) -> None:
        import libvirt

        flags = libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        flags |= libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        try:
            with translated("cannot remove the machine"):
                domain.undefineFlags(flags)
        except NotFound:
            return

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self, ref: Ref, *, attach: bool = False) -> Attachment | None:
        domain = self._client.domain(ref.id)
        order = folder.load_order(ref.directory)
        match self._state(ref, domain)[0]:
            case State.PAUSED:
                raise WrongState("the machine is paused", hint="vmctl resume it")
            case State.STARTING if order.process is not None:  # whoever started it died before the init was told
                return self._boot(ref, domain, order, attach=attach, fresh=False)
            case state if state in ALIVE:
                return self.attach(ref) if attach else None
        if order.network and self._client.system:
            network.ensure_network(self._client.connection(), self._network_of(domain))
        before = folder.load_marks(ref.directory)
        with UndoStack() as undo:
            undo.push("marks", lambda: folder.save_marks(ref.directory, before))
            folder.save_marks(ref.directory, folder.Marks(started_at=time.time_ns(), booted=order.process is None))
            undo.push("machine", lambda: self._switch_off(domain))
            if order.process is not None:
                with translated("cannot start the machine"):
                    domain.create()
                attachment = self._boot(ref, domain, order, attach=attach, fresh=True)
            else:
                attachment = self._switch_on(ref, domain, attach=attach)
            undo.disarm()
        return attachment

    def _boot(
        self, ref: Ref, domain: Domain, order: folder.Order, *, attach: bool, fresh: bool
    ) -> Attachment | None:
        session = imagemachine.boot(ref.id, ref.directory, order, fresh=fresh)
        marks = folder.load_marks(ref.directory)
        folder.save_marks(ref.directory, folder.Marks(started_at=marks.started_at, booted=True))
        if attach:
            return WireAttachment(session)
        session.close()
        return None

    def _switch_on(self, ref: Ref, domain: Domain, *, attach: bool) -> Attachment | None:
        """A machine without our init; attached means its console, from the first byte."""
        import libvirt

        with translated("cannot start the machine"):
            domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED if attach else 0)
            attachment = self._console(ref, attached=True) if attach else None
            if attach:
                domain.resume()
        return attachment

    def _network_of(self, domain: Domain) -> str:
        with translated("cannot read the machine's definition"):
            return observe.describe(domain.XMLDesc()).network or network.DEFAULT

    def stop(self, ref: Ref, *, timeout: float, signal: str | None = None) -> None:
        domain = self._client.domain(ref.id)
        state, _ = self._state(ref, domain)
        if state not in ALIVE:
            return
        order = folder.load_order(ref.directory)
        number = limits.signal_number(signal or order.stop_signal)
        if state is State.PAUSED:
            self.resume(ref)
        if timeout > 0 and self._ask_to_end(ref, domain, order, timeout, number):
            return
        self._force(ref, domain)

    def _ask_to_end(self, ref: Ref, domain: Domain, order: folder.Order, timeout: float, number: int) -> bool:
        """Whether it has ended by itself within ``timeout``, and libvirt has seen it."""
        if order.process is not None:
            return imagemachine.poweroff(ref.directory, timeout, number) and self._wait_off(domain, _OFF_GRACE)
        with translated("cannot stop the machine"):
            if domain.isActive():
                domain.shutdownFlags(0)
        return self._wait_off(domain, timeout)

    def _force(self, ref: Ref, domain: Domain) -> None:
        marks = folder.load_marks(ref.directory)
        if self._switch_off(domain):
            forced = folder.Marks(started_at=marks.started_at, booted=marks.booted, forced=folder.forced_exit())
            folder.save_marks(ref.directory, forced)

    def _switch_off(self, domain: Domain) -> bool:
        """End QEMU now; False if it was off (or gone) already."""
        try:
            with translated("cannot end the machine"):
                if not domain.isActive():
                    return False
                domain.destroy()
        except (NotFound, WrongState):
            return False
        return True

    def kill(self, ref: Ref, *, signal: str = "SIGKILL") -> None:
        domain = self._client.domain(ref.id)
        number = limits.signal_number(signal)
        state, _ = self._state(ref, domain)
        if state not in ALIVE:
            raise WrongState("the machine is not running", hint="vmctl ps -a shows its state")
        if number == 9:
            self._force(ref, domain)
            return
        if folder.load_order(ref.directory).process is None:
            raise Unsupported("no signal but SIGKILL reaches a machine that boots by itself", hint="vmctl stop it")
        if state is not State.RUNNING:
            raise WrongState(f"the machine is {state}", hint="only a running machine takes signals")
        session = imagemachine.connect(ref.directory)
        try:
            session.signal(number)
        finally:
            session.close()

    def pause(self, ref: Ref) -> None:
        self._freeze(ref, State.RUNNING, State.PAUSED, lambda domain: domain.suspend())

    def resume(self, ref: Ref) -> None:
        self._freeze(ref, State.PAUSED, State.RUNNING, lambda domain: domain.resume())

    def _freeze(self, ref: Ref, before: State, after: State, act: Callable[[Domain], object]) -> None:
        domain = self._client.domain(ref.id)
        state, _ = self._state(ref, domain)
        if state is after:
            return
        if state is not before:
            raise WrongState(f"the machine is {state}", hint="vmctl ps -a shows its state")
        with translated("cannot pause or resume the machine"):
            act(domain)

    def wait(self, ref: Ref, timeout: float | None = None) -> Exit:
        domain = self._client.domain(ref.id)
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _POLL[0]
        while True:
            state, end = self._state(ref, domain)
            if state not in ALIVE and state is not State.CREATED:
                return end or Exit(code=125, error=f"the machine is {state}")
            if deadline is not None and time.monotonic() >= deadline:
                raise TimedOut(f"the machine is still {state}")
            time.sleep(pause)
            pause = min(pause * 1.5, _POLL[1])

    def _wait_off(self, domain: Domain, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        pause = _POLL[0]
        while True:
            try:
                with translated("cannot ask for the machine's state"):
                    if not domain.isActive():
                        return True
            except NotFound:
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, _POLL[1])

    # -- sessions -----------------------------------------------------------------------------------------------

    def attach(self, ref: Ref) -> Attachment:
        self._running(ref)
        order = folder.load_order(ref.directory)
        if order.process is None:
            return self._console(ref, attached=True)
        session = imagemachine.connect(ref.directory)
        try:
            session.attach(stdin=order.process.stdin)
        except BaseException:
            session.close()
            raise
        return WireAttachment(session)

    def exec(self, ref: Ref, process: Process) -> Attachment:
        self._running(ref)
        if folder.load_order(ref.directory).process is None:
            hint = "vmctl console, or SSH to the address that vmctl inspect shows"
            raise Unsupported("no programs can be run in a machine that boots by itself", hint=hint)
        session = imagemachine.connect(ref.directory)
        try:
            session.exec(process)
        except BaseException:
            session.close()
            raise
        return WireAttachment(session)

    def copy_in(self, ref: Ref, path: str, archive: BinaryIO) -> None:
        tarcopy.copy_in(lambda process: self.exec(ref, process), path, archive, tar=machine.TAR)

    def copy_out(self, ref: Ref, path: str, archive: BinaryIO) -> None:
        tarcopy.copy_out(lambda process: self.exec(ref, process), path, archive, tar=machine.TAR)

    def console(self, ref: Ref) -> Attachment:
        self._running(ref)
        return self._console(ref, attached=False)

    def _console(self, ref: Ref, *, attached: bool) -> Attachment:
        """``attached``: the session stands for the machine, a signal asks it to end."""

        def interrupt(_number: int) -> None:
            with translated("cannot stop the machine"):
                self._client.domain(ref.id).shutdownFlags(0)

        def ended() -> Exit | None:
            try:
                return self.wait(ref, _OFF_GRACE)
            except (TimedOut, NotFound):
                return None

        path = folder.console_socket(ref.directory)
        return ConsoleAttachment(path, ended=ended, interrupt=interrupt if attached else None)

    def _running(self, ref: Ref) -> None:
        state, _ = self._state(ref, self._client.domain(ref.id))
        if state is not State.RUNNING:
            raise WrongState(f"the machine is {state}", hint="only a running machine takes sessions")

    # -- looking ------------------------------------------------------------------------------------------------

    def _state(self, ref: Ref, domain: Domain) -> tuple[State, Exit | None]:
        with translated("cannot ask for the machine's state"):
            native, reason = domain.state()
        return observe.ending(ref.directory, native, reason)

    def inspect(self, ref: Ref) -> Observed:
        domain = self._client.domain(ref.id)
        with translated("cannot inspect the machine"):
            described = observe.describe(domain.XMLDesc())
            native, reason = domain.state()
            running = native not in (DomainState.SHUTOFF, DomainState.CRASHED)
            limit = observe.enforced_cpu(domain, described) if running and self._client.system else None
        if described.owner is None:
            raise NotFound("the machine carries no mark of vmctl", hint="was it edited by hand?")
        found = network.addresses(domain, agent=folder.load_order(ref.directory).process is None) if running else ()
        return observe.observed(
            described.owner, described, (native, reason), system=self._client.system, addresses=found, cpu_millis=limit
        )

    def instances(self) -> list[Observed]:
        import libvirt

        with translated("cannot list machines"):
            connection = self._client.connection()
            entries = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
            described = [(observe.describe_safely(entry[0]), observe.native_state(entry)) for entry in entries]
        ours = [(one, state) for one, state in described if one is not None and one.owner is not None]
        leases = network.leases(connection) if any(state[0] == DomainState.RUNNING for _, state in ours) else {}
        return [
            observe.observed(
                one.owner,
                one,
                state,
                system=self._client.system,
                addresses=tuple(leases[mac] for mac in one.macs if mac in leases),
            )
            for one, state in ours
            if one.owner is not None
        ]

    def foreign(self) -> list[Foreign]:
        import libvirt

        with translated("cannot list machines"):
            stats = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_BALLOON
            flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
            entries = self._client.connection().getAllDomainStats(stats, flags)
        described = [(observe.describe_safely(domain), domain.name(), values) for domain, values in entries]
        return [
            Foreign(
                backend=self.name,
                native_name=name,
                kind=Kind.VM,
                running=True,
                cpu_millis=one.cpu_millis,
                memory=one.memory + limits.qemu_memory(one.memory, one.vcpus),
                resident=values.get("balloon.rss", 0) * 1024,
            )
            for one, name, values in described
            if one is not None and one.owner is None
        ]

    def stats(self, refs: list[Ref]) -> list[Usage]:
        import libvirt

        groups = libvirt.VIR_DOMAIN_STATS_CPU_TOTAL | libvirt.VIR_DOMAIN_STATS_BALLOON
        groups |= libvirt.VIR_DOMAIN_STATS_INTERFACE | libvirt.VIR_DOMAIN_STATS_BLOCK
        found = [(ref.id, domain) for ref in refs if (domain := self._client.find(ref.id)) is not None]
        running = [(instance_id, domain) for instance_id, domain in found if self._is_active(domain)]
        if not running:
            return []
        with translated("cannot measure the machines"):
            entries = self._client.connection().domainListGetStats([domain for _, domain in running], groups)
            by_name = {domain.name(): values for domain, values in entries}
            return [
                observe.usage_of(instance_id, by_name[name])
                for instance_id, domain in running
                if (name := domain.name()) in by_name
            ]

    def _is_active(self, domain: Domain) -> bool:
        try:
            with translated("cannot ask for the machine's state"):
                return bool(domain.isActive())
        except NotFound:
            return False

    def logs(self, ref: Ref, *, follow: bool = False, tail: int | None = None) -> Iterator[LogRecord]:
        domain = self._client.domain(ref.id)
        order = folder.load_order(ref.directory)

        def ended() -> bool:
            try:
                return self._state(ref, domain)[0] not in ALIVE
            except NotFound:
                return True

        return logs.records(
            ref.directory, init=order.process is not None, ended=ended if follow else None, tail=tail
        )

    def events(self, callback: Callable[[Event], None], stop: Callable[[], bool]) -> None:
        from vmctl.backends.libvirt.events import watch

        watch(self._client.uri, callback, stop, self._end_of)

    def _end_of(self, instance_id: str) -> str:
        """``exit=<code>`` for a machine that has just ended, if it can be told."""
        try:
            domain = self._client.domain(instance_id)
            with translated("cannot ask for the machine's state"):
                owner = observe.describe(domain.XMLDesc()).owner
                native, reason = domain.state()
        except VmctlError:
            return ""
        _, end = observe.ending(owner.directory, native, reason) if owner else (None, None)
        return "" if end is None else f"exit={end.code}"

    def close(self) -> None:
        self._client.close()


def open_backend(state: Path) -> LibvirtBackend:
    """The backend of this user: the system's libvirt or a session of its own. Connects at first use."""
    return LibvirtBackend(state)


def _version(number: int) -> str:
    """libvirt packs versions: major * 1,000,000 + minor * 1,000 + release."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _daemon_path() -> str:
    """Daemons are in sbin, which is not on everybody's PATH."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def _remove_folder(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except PermissionError as error:
        raise PermissionDenied(f"cannot remove {error.filename}", hint="the instance is another user's") from error


def _remove_daemons_log(instance_id: str, *, system: bool) -> None:
    """libvirt keeps a log of every machine that ever was; ours are many and short-lived."""
    home = Path("/var/log/libvirt/qemu") if system else Path.home() / ".cache/libvirt/qemu/log"
    try:
        for file in home.glob(f"{native_name(instance_id)}.log*"):
            file.unlink(missing_ok=True)
    except PermissionError:
        log.debug("the log of %s stays: not ours to remove", instance_id)
