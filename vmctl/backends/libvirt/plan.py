"""From a body to libvirt's domain XML: pure, built as a tree, held by golden tests.

Two kinds of machines share everything but their boot: an image machine boots our kernel, whose init runs the image
(see ``wire.machine`` for what both sides agree on); a disk machine boots what is on its disk, or a given kernel.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec

from vmctl.backends.base import Body
from vmctl.backends.libvirt import folder
from vmctl.backends.libvirt.disk import BaseDisk
from vmctl.backends.wire import machine
from vmctl.model.ids import as_uuid, native_name
from vmctl.model.state import RestartPolicy

NAMESPACE = "urn:vmctl:instance:1"
ET.register_namespace("vmctl", NAMESPACE)

MIB = 1 << 20
_PERIOD = 100_000
_LONG_PERIOD = 1_000_000
_FIRST_SLOT = 2  # of the root bus: q35 has its bridge in 0, and a display's customary place is 1
_MIN_QUOTA = 1000
"""Microseconds; libvirt's and the kernel's bounds."""

TCG_CPU = "Nehalem"
"""x86-64-v2, which is what distributions are built for; 0.1 s faster to boot than "max" under TCG."""


TCG_CACHE = 128 * MIB
"""Translated code that QEMU keeps. Its own limit is 1 GiB, which would count as overhead of every machine."""


class Surroundings(msgspec.Struct, frozen=True):
    """What the plan depends on beside the body. ``system``: the system's daemon, with cgroups and bridges.

    ``firmware``: a ROM that does nothing but start a kernel (qboot), where the host has one.
    """

    accel: str  # kvm | tcg
    system: bool
    base: BaseDisk | None = None
    firmware: Path | None = None


def vcpus(cpu_millis: int) -> int:
    """Whole virtual CPUs that hold ``cpu_millis``."""
    return -(-cpu_millis // 1000)


def mac_of(instance_id: str) -> str:
    """The machine's MAC: QEMU's prefix and 24 bits that follow from the id, so that leases are found again."""
    digest = hashlib.sha256(instance_id.encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def quota(cpu_millis: int) -> tuple[int, int] | None:
    """(period, quota) in microseconds for each vCPU thread; None where the number of vCPUs is limit enough."""
    count = vcpus(cpu_millis)
    if cpu_millis == count * 1000:
        return None
    period = _PERIOD if cpu_millis * _PERIOD // 1000 // count >= _MIN_QUOTA else _LONG_PERIOD
    return period, max(_MIN_QUOTA, cpu_millis * period // 1000 // count)


def domain_xml(body: Body, around: Surroundings) -> str:
    """The domain's definition, indented; the same arguments give the same text."""
    spec = body.spec
    image_machine = folder.is_image_machine(body)
    root = ET.Element("domain", type="kvm" if around.accel == "kvm" else "qemu")
    _add(root, "name", native_name(body.id))
    _add(root, "uuid", as_uuid(body.id))
    _add(root, "title", body.name)
    _metadata(root, body)
    _add(root, "memory", str(spec.memory // MIB * 1024), unit="KiB")
    _add(root, "vcpu", str(vcpus(spec.cpu_millis)))
    if (limits := quota(spec.cpu_millis)) is not None:
        tune = _add(root, "cputune")
        _add(tune, "period", str(limits[0]))
        _add(tune, "quota", str(limits[1]))
    _boot(root, body, around)
    features = _add(root, "features")
    _add(features, "acpi")
    _add(features, "apic")
    if around.accel != "kvm":
        _add(_add(features, "tcg"), "tb-cache", str(TCG_CACHE // MIB), unit="MiB")
    _cpu(root, around.accel)
    if not image_machine:
        _clock(root)
    revive = not image_machine and spec.restart is not RestartPolicy.NO
    _add(root, "on_poweroff", "destroy")
    _add(root, "on_reboot", "destroy" if image_machine else "restart")
    _add(root, "on_crash", "restart" if revive else "destroy")
    devices = _add(root, "devices")
    _disks(devices, body, around)
    _add(devices, "controller", type="usb", model="none")
    _interface(devices, body, system=around.system)
    _console(devices, body.directory)
    _add(devices, "controller", type="virtio-serial", index="0")
    if image_machine:
        _sessions(devices, body.directory)
    else:
        agent = _add(devices, "channel", type="unix")
        _add(agent, "source", mode="bind", path=str(folder.agent_socket(body.directory)))
        _add(agent, "target", type="virtio", name="org.qemu.guest_agent.0")
        _add(devices, "panic", model="isa")
    balloon = _add(devices, "memballoon", model="virtio", freePageReporting="on")
    _add(balloon, "stats", period="5")
    rng = _add(devices, "rng", model="virtio")
    _add(rng, "backend", "/dev/urandom", model="random")
    _add(devices, "audio", id="1", type="none")
    if image_machine:
        _on_root_bus(devices)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


def _metadata(root: ET.Element, body: Body) -> None:
    """Whose it is. Values of the environment stay out: libvirt shows metadata to every local user."""
    spec = msgspec.to_builtins(body.spec)
    if "env" in spec:
        spec["env"] = dict.fromkeys(spec["env"], "")
    owner = _add(_add(root, "metadata"), f"{{{NAMESPACE}}}instance")
    for key, value in (
        ("id", body.id),
        ("ledger", body.ledger),
        ("claim", body.claim),
        ("name", body.name),
        ("directory", str(body.directory)),
    ):
        owner.set(key, value)
    _add(owner, f"{{{NAMESPACE}}}spec", json.dumps(spec, sort_keys=True, separators=(",", ":")))


def _boot(root: ET.Element, body: Body, around: Surroundings) -> None:
    options = body.spec.machine
    system = _add(root, "os")
    if options.firmware == "uefi":
        system.set("firmware", "efi")
    _add(system, "type", "hvm", arch="x86_64", machine="q35")
    if options.firmware == "uefi":
        _add(_add(system, "firmware"), "feature", enabled="no", name="secure-boot")
    kernel = body.image.kernel if folder.is_image_machine(body) and body.image else None
    if kernel is not None:
        if around.firmware is not None:
            _add(system, "loader", str(around.firmware), readonly="yes", type="rom")
        _add(system, "kernel", str(kernel.path))
        _add(system, "initrd", str(kernel.initramfs))
        _add(system, "cmdline", " ".join(machine.KERNEL_CMDLINE))
    elif options.kernel is not None:
        _add(system, "kernel", options.kernel)
        if options.initrd is not None:
            _add(system, "initrd", options.initrd)
        _add(system, "cmdline", "console=ttyS0" if options.cmdline is None else options.cmdline)
    else:
        _add(system, "boot", dev="hd")


def _cpu(root: ET.Element, accel: str) -> None:
    if accel == "kvm":
        _add(root, "cpu", mode="host-passthrough")
        return
    _add(_add(root, "cpu", mode="custom"), "model", TCG_CPU, fallback="forbid")


def _clock(root: ET.Element) -> None:
    """What virt-manager gives every Linux: lost ticks are caught up. Our kernels count time without those timers."""
    clock = _add(root, "clock", offset="utc")
    _add(clock, "timer", name="rtc", tickpolicy="catchup")
    _add(clock, "timer", name="pit", tickpolicy="delay")


def _disks(devices: ET.Element, body: Body, around: Surroundings) -> None:
    if folder.is_image_machine(body) and body.image is not None and body.image.root_disk is not None:
        disk = _add(devices, "disk", type="file", device="disk")
        _add(disk, "driver", name="qemu", type="raw")
        _shared_source(disk, body.image.root_disk, around)
        _add(disk, "backingStore")
        _add(disk, "target", dev="vda", bus="virtio")
        _add(disk, "readonly")
        if folder.has_upper(body):
            disk = _add(devices, "disk", type="file", device="disk")
            _add(disk, "driver", name="qemu", type="raw", discard="unmap", error_policy="enospace")
            _add(disk, "source", file=str(folder.upper_disk(body.directory)))
            _add(disk, "backingStore")
            _add(disk, "target", dev="vdb", bus="virtio")
    elif around.base is not None:
        disk = _add(devices, "disk", type="file", device="disk")
        _add(disk, "driver", name="qemu", type="qcow2", discard="unmap", error_policy="enospace")
        _add(disk, "source", file=str(folder.overlay_disk(body.directory)))
        backing = _add(disk, "backingStore", type="file")  # written out, so that libvirt never probes a format
        _add(backing, "format", type=around.base.format)
        _shared_source(backing, around.base.path, around)
        _add(backing, "backingStore")
        _add(disk, "target", dev="vda", bus="virtio")


def _shared_source(parent: ET.Element, path: Path, around: Surroundings) -> None:
    """A file that others use too: the system's libvirt must not give it to QEMU's user. (A session has one user.)"""
    source = _add(parent, "source", file=str(path))
    if around.system:
        _add(source, "seclabel", model="dac", relabel="no")


def _interface(devices: ET.Element, body: Body, *, system: bool) -> None:
    network = body.spec.network
    if network == "none":
        return
    interface = _add(devices, "interface", type="network" if system else "user")
    _add(interface, "mac", address=mac_of(body.id))
    if system:
        _add(interface, "source", network=network)
    _add(interface, "model", type="virtio")
    if folder.is_image_machine(body):
        _add(interface, "rom", enabled="no")  # nobody boots from this network, and the ROM's set-up takes time


def _console(devices: ET.Element, directory: Path) -> None:
    """The serial console: a socket for people, a log for everybody else."""
    serial = _add(devices, "serial", type="unix")
    _add(serial, "source", mode="bind", path=str(folder.console_socket(directory)))
    _add(serial, "log", file=str(folder.console_log(directory)), append="on")
    _add(serial, "target", type="isa-serial", port="0")


def _on_root_bus(devices: ET.Element) -> None:
    """libvirt would put every device behind a hot-plug port of its own; the kernel probes ports one by one, slowly."""
    slot = _FIRST_SLOT
    for device in devices:
        virtio = device.find("target[@bus='virtio']") is not None or device.find("model[@type='virtio']") is not None
        if virtio or device.get("type") == "virtio-serial" or device.get("model") == "virtio":
            _add(device, "address", type="pci", domain="0x0000", bus="0x00", slot=f"0x{slot:02x}", function="0x0")
            slot += 1


def _sessions(devices: ET.Element, directory: Path) -> None:
    for number in range(machine.PORT_COUNT):
        channel = _add(devices, "channel", type="unix")
        _add(channel, "source", mode="bind", path=str(machine.socket_path(directory, number)))
        _add(channel, "target", type="virtio", name=machine.port_name(number))
    log = _add(devices, "channel", type="file")
    _add(log, "source", path=str(machine.log_path(directory)), append="on")
    _add(log, "target", type="virtio", name=machine.LOG_PORT)


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """What our metadata in a domain says."""

    id: str
    ledger: str
    claim: str
    name: str
    directory: Path


def owner_of(domain: ET.Element) -> Owner | None:
    """Ours, or None: read from a domain's XML."""
    found = domain.find(f"metadata/{{{NAMESPACE}}}instance")
    if found is None:
        return None
    return Owner(
        id=found.get("id", ""),
        ledger=found.get("ledger", ""),
        claim=found.get("claim", ""),
        name=found.get("name", ""),
        directory=Path(found.get("directory", "/nonexistent")),
    )
