"""What this backend can do, what it refuses before anything is made, and what a machine costs beyond its memory."""

from __future__ import annotations

import signal
from pathlib import Path

from vmctl.backends.libvirt import disk
from vmctl.backends.libvirt.accel import TCG
from vmctl.backends.libvirt.network import DEFAULT
from vmctl.backends.libvirt.plan import TCG_CACHE, vcpus
from vmctl.backends.wire import machine
from vmctl.errors import NotFound, Unsupported, UsageError
from vmctl.model.capability import Capabilities, Feature
from vmctl.model.observed import Overhead
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Kind
from vmctl.units import format_size

MIB = 1 << 20
MIN_MEMORY = 32 * MIB
MIN_DISK = 16 * MIB
MAX_VCPUS = 255

_QEMU_MEMORY = 110 * MIB  # measured: 103 resident, 48 of them the kernel and initramfs that it boots
_VCPU_MEMORY = 3 * MIB
_PAGE_TABLES = 512  # the host's page tables: 8 bytes for each 4096 of the guest
_QEMU_CPU = 50  # millicpu of its own threads: 0 when the guest is idle or computes, 70 when it does nothing but I/O
_QEMU_THREADS = 8
_FIRMWARE = ("bios", "uefi")

_MISSING = {
    Feature.LIMIT_PIDS: "a machine has a kernel of its own, the host sees none of its processes",
    Feature.VOLUMES: "folders of the host are not shown in machines yet",
    Feature.PORTS: "ports of machines are not forwarded yet: use the machine's address",
    Feature.HOST_COMMAND: "a machine does not see the host's programs",
}
_NO_NETWORKS = "networks need the system's libvirt (qemu:///system), this user has a session of its own"


def capabilities(*, system: bool) -> Capabilities:
    """Every feature, with "" or the reason why not."""
    table = {feature: _MISSING.get(feature, "") for feature in Feature}
    if not system:
        table[Feature.NETWORKS] = _NO_NETWORKS
    return table


def validate(spec: InstanceSpec, *, system: bool) -> None:
    """Refuse what cannot be made. Raises Unsupported, UsageError, NotFound and PermissionDenied (its disk)."""
    if spec.kind is not Kind.VM:
        raise Unsupported(f"libvirt makes machines, not a {spec.kind}", hint="--kind vm, or leave out --backend")
    _check_boot(spec)
    _check_sizes(spec, system=system)
    if spec.mounts:
        raise Unsupported(f"cannot mount into a machine: {_MISSING[Feature.VOLUMES]}", hint="vmctl cp copies files")
    if spec.ports:
        raise Unsupported(f"cannot publish ports: {_MISSING[Feature.PORTS]}", hint="vmctl inspect shows the address")
    if spec.network == "host":
        raise Unsupported("a machine has a network stack of its own", hint="--network default or none")
    if not system and spec.network not in (DEFAULT, "none"):
        raise Unsupported(f"network '{spec.network}': {_NO_NETWORKS}", hint="--network default or none")
    if spec.stop_signal:
        signal_number(spec.stop_signal)


def _check_boot(spec: InstanceSpec) -> None:
    options = spec.machine
    if spec.image is not None:
        if options.disk or options.kernel or options.initrd or options.cmdline or options.firmware != "bios":
            hint = "leave out the image to boot a disk or kernel of your own"
            raise UsageError("a machine boots an image, or a disk or kernel of its own: not both", hint=hint)
        return
    if options.disk is None and options.kernel is None:
        raise UsageError("nothing to boot", hint="name an image, or a disk that boots by itself (--disk-image)")
    if spec.command or spec.entrypoint:
        raise UsageError("a machine without image boots by itself and takes no command", hint="name an image")
    if spec.read_only:
        raise Unsupported("a disk machine writes to a disk of its own", hint="leave out --read-only")
    if options.initrd is not None and options.kernel is None:
        raise UsageError("an initrd needs a kernel", hint="name the kernel as well")
    if options.firmware not in _FIRMWARE:
        raise UsageError(f"unknown firmware '{options.firmware}'", hint="one of " + ", ".join(_FIRMWARE))
    if options.disk is not None:
        disk.examine(options.disk)
    for file in (options.kernel, options.initrd):
        if file is not None and not Path(file).is_file():
            raise NotFound(f"no file at {file}", hint="name the kernel's file")


def _check_sizes(spec: InstanceSpec, *, system: bool) -> None:
    least = MIN_MEMORY if spec.image is None else machine.MIN_MEMORY
    if spec.memory < least:
        hint = f"at least --memory {format_size(least)}"
        raise UsageError(f"{format_size(spec.memory)} of memory is too little for a machine", hint=hint)
    if spec.image is not None and spec.disk < MIN_DISK:
        hint = f"at least --disk {format_size(MIN_DISK)}"
        raise UsageError(f"{format_size(spec.disk)} of disk is too little for a machine", hint=hint)
    if spec.cpu_millis > MAX_VCPUS * 1000:
        raise UsageError(f"a machine has at most {MAX_VCPUS} CPUs", hint="ask for fewer")
    if not system and spec.cpu_millis % 1000:
        hint = "ask for whole CPUs, or use the system's libvirt"
        raise Unsupported("parts of a CPU cannot be enforced in a session: libvirt has no cgroup there", hint=hint)


def signal_number(name: str) -> int:
    """SIGTERM, TERM and 15 are the same. Raises UsageError."""
    text = name.upper()
    if text.isdecimal() and 1 <= int(text) <= signal.NSIG - 1:
        return int(text)
    try:
        return int(signal.Signals[text if text.startswith("SIG") else f"SIG{text}"])
    except KeyError:
        raise UsageError(f"unknown signal '{name}'", hint="SIGTERM, TERM or 15, for example") from None


def overhead(spec: InstanceSpec, accel: str) -> Overhead:
    """What QEMU takes beyond the guest's memory and CPU: measured under TCG, estimated (and so marked) under KVM."""
    return Overhead(
        memory=qemu_memory(spec.memory, vcpus(spec.cpu_millis), accel),
        cpu_millis=_QEMU_CPU,
        pids=_QEMU_THREADS + vcpus(spec.cpu_millis),
        measured=accel == TCG,
    )


def qemu_memory(memory: int, count: int, accel: str) -> int:
    """Bytes that QEMU holds beyond ``memory`` of a guest with ``count`` vCPUs: the most it can come to.

    Under TCG the translated code comes on top; it grows to its limit with what the guest runs.
    """
    translated = TCG_CACHE if accel == TCG else 0
    return _QEMU_MEMORY + translated + count * _VCPU_MEMORY + memory // _PAGE_TABLES
