"""The libvirt backend: machines. See ``vmctl.backends.base`` for what every method promises."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from vmctl.backends.base import Attachment, Body, NativePlan, Ref
from vmctl.backends.libvirt import accel, disk, folder, imagemachine, limits, listing, logs, network, plan
from vmctl.backends.libvirt.client import Client, Domain, default_uri
from vmctl.backends.libvirt.errors import INSTALL_HINT, START_HINT, translated
from vmctl.backends.libvirt.events import watch
from vmctl.backends.libvirt.life import Life
from vmctl.backends.wire import machine, tarcopy
from vmctl.backends.wire.pump import WireAttachment
from vmctl.errors import NotFound, PermissionDenied, Unsupported, VmctlError
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
_QBOOT = Path("/usr/share/qemu/qboot.rom")
"""Starts a kernel 0.1 s sooner (under TCG) than the usual firmware, which looks for disks and networks first."""


class LibvirtBackend:
    """Machines of qemu:///system or qemu:///session. ``state`` holds the cache of the accelerator's verdict."""

    name = "libvirt"
    kinds = frozenset({Kind.VM})
    image_form: ImageForm | None = ImageForm.DISK

    def __init__(self, state: Path, uri: str | None = None) -> None:
        self._cache = state / "cache"
        self._kernels = state / "kernels"
        self._client = Client(uri or default_uri())
        self._life = Life(self._client)

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
        wanted = spec.machine.accel
        return limits.overhead(spec, self._verdict([]).accel if wanted == "auto" else wanted)

    def validate(self, spec: InstanceSpec) -> None:
        limits.validate(spec, system=self._client.system)

    def advice(self) -> str:
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
        firmware = _QBOOT if _QBOOT.exists() else None
        return plan.domain_xml(body, plan.Surroundings(self._accel(body), self._client.system, base, firmware))

    def create(self, body: Body) -> None:
        if self._client.find(body.id) is not None:
            return
        connection = self._client.connection()
        if body.spec.network != "none" and self._client.system:
            network.ensure_network(connection, body.spec.network)
        with UndoStack() as undo:
            undo.push("folder", lambda: _remove_folder(body.directory))
            folder.make(body.directory)
            _make_disk(body)
            if self._client.system:
                self._check_reachable(body)
            folder.save_order(body.directory, folder.order_of(body))
            xml = self._xml(body)
            with translated("libvirt does not accept the machine"):
                connection.defineXMLFlags(xml, 0)
            undo.disarm()

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
            self._life.switch_off(domain)
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
        return self._life.start(ref, attach=attach)

    def stop(self, ref: Ref, *, timeout: float, signal: str | None = None) -> None:
        self._life.stop(ref, timeout=timeout, signal=signal)

    def kill(self, ref: Ref, *, signal: str = "SIGKILL") -> None:
        self._life.kill(ref, limits.signal_number(signal))

    def pause(self, ref: Ref) -> None:
        self._life.freeze(ref, State.RUNNING, State.PAUSED, lambda domain: domain.suspend())

    def resume(self, ref: Ref) -> None:
        self._life.freeze(ref, State.PAUSED, State.RUNNING, lambda domain: domain.resume())

    def wait(self, ref: Ref, timeout: float | None = None) -> Exit:
        return self._life.wait(ref, timeout)

    # -- sessions -----------------------------------------------------------------------------------------------

    def attach(self, ref: Ref) -> Attachment:
        return self._life.attach(ref)

    def exec(self, ref: Ref, process: Process) -> Attachment:
        self._life.running(ref)
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
        self._life.running(ref)
        return self._life.console(ref, attached=False)

    # -- looking ------------------------------------------------------------------------------------------------

    def inspect(self, ref: Ref) -> Observed:
        return listing.inspect(self._client, ref)

    def instances(self) -> list[Observed]:
        return [] if self._client.knows_nothing() else listing.instances(self._client)

    def foreign(self) -> list[Foreign]:
        return [] if self._client.knows_nothing() else listing.foreign(self._client)

    def stats(self, refs: list[Ref]) -> list[Usage]:
        return listing.stats(self._client, refs)

    def logs(self, ref: Ref, *, follow: bool = False, tail: int | None = None) -> Iterator[LogRecord]:
        domain = self._client.domain(ref.id)
        order = folder.load_order(ref.directory)

        def ended() -> bool:
            try:
                return self._life.state(ref, domain)[0] not in ALIVE
            except NotFound:
                return True

        return logs.records(ref.directory, init=order.process is not None, ended=ended if follow else None, tail=tail)

    def events(self, callback: Callable[[Event], None], stop: Callable[[], bool]) -> None:
        watch(self._client.uri, callback, stop, lambda instance_id: listing.end_of(self._client, instance_id))

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


def _make_disk(body: Body) -> None:
    """The disk of the machine's own: over an image, over a base disk, or none."""
    if folder.has_upper(body):
        disk.make_upper(folder.upper_disk(body.directory), body.spec.disk)
    elif body.image is None and body.spec.machine.disk is not None:
        disk.make_overlay(disk.examine(body.spec.machine.disk), folder.overlay_disk(body.directory), body.spec.disk)


def _remove_folder(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except (FileNotFoundError, NotADirectoryError):
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
