"""The peer of image machines: QEMU by hand, with the kernel, initramfs, root disk and arguments that vmctl gives it."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from contrib.bench.measure import Failed
from vmctl.backends.base import Stdio
from vmctl.backends.wire import machine
from vmctl.backends.wire.pump import WireAttachment
from vmctl.errors import VmctlError
from vmctl.model.image import PreparedImage
from vmctl.model.process import Process
from vmctl.model.state import Exit

_CPU = {"kvm": "host", "tcg": "Nehalem"}
_BOOT = 120.0
_END = 60.0


def boot_to_poweroff(image: PreparedImage, process: Process, *, accel: str, memory: int) -> None:
    """Start QEMU, have the init run ``process``, wait for the machine's own end. Raises Failed."""
    with tempfile.TemporaryDirectory(prefix="vmctl-qemu-") as name:
        folder = Path(name)
        with subprocess.Popen(arguments(image, folder, accel, memory), stderr=subprocess.PIPE) as qemu:
            try:
                _wait_for_socket(machine.socket_path(folder, 0), qemu)
                session = machine.open_session(folder, _BOOT, fresh=True)
                session.boot(machine.boot_pairs(process, hostname="raw", root_fs=image.root_fs))
                end = _run(WireAttachment(session))
                qemu.wait(_END)
            except VmctlError as error:
                raise Failed(f"raw QEMU: {error}; its console ends: {_console(folder)}") from error
            except subprocess.TimeoutExpired as error:
                raise Failed(f"raw QEMU still runs {_END:g} s after its process") from error
            finally:
                qemu.kill()
    if end is None or end.code:
        raise Failed(f"raw QEMU's process ended with {end}")


def arguments(image: PreparedImage, folder: Path, accel: str, memory: int) -> list[str]:
    """The machine of ``wire.machine``, without libvirt and without a network."""
    if image.kernel is None or image.root_disk is None:
        raise Failed("the image has no disk to boot")
    command = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
        "-machine", f"q35,accel={accel}", "-cpu", _CPU[accel], "-smp", "1", "-m", f"size={memory}b",
        "-kernel", str(image.kernel.path), "-initrd", str(image.kernel.initramfs),
        "-append", " ".join(machine.KERNEL_CMDLINE),
        "-chardev", f"file,id=console,path={folder / 'console.log'}", "-device", "isa-serial,chardev=console",
        "-blockdev", f"driver=file,node-name=root,filename={image.root_disk},read-only=on",
        "-device", "virtio-blk-pci,drive=root", "-device", "virtio-rng-pci", "-device", "virtio-balloon-pci",
        "-device", "virtio-serial-pci",
    ]  # fmt: skip
    for number in range(machine.PORT_COUNT):
        path = machine.socket_path(folder, number)
        command += ["-chardev", f"socket,id=port{number},path={path},server=on,wait=off"]
        command += ["-device", f"virtserialport,chardev=port{number},name={machine.port_name(number)}"]
    command += ["-chardev", f"file,id=log,path={machine.log_path(folder)},append=on"]
    return [*command, "-device", f"virtserialport,chardev=log,name={machine.LOG_PORT}"]


def _run(attachment: WireAttachment) -> Exit | None:
    with open(os.devnull, "wb") as nowhere:
        return attachment.pump(Stdio(stdin=None, stdout=nowhere.fileno(), stderr=nowhere.fileno()))


def _wait_for_socket(path: Path, qemu: subprocess.Popen[bytes]) -> None:
    while not path.exists():
        if qemu.poll() is not None:
            words = qemu.stderr.read().decode(errors="replace") if qemu.stderr else ""
            raise Failed(f"QEMU did not start: {words.strip()}")
        time.sleep(0.002)


def _console(folder: Path) -> str:
    path = folder / "console.log"
    return path.read_text(errors="replace")[-300:] if path.exists() else "nothing"
