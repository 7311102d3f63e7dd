"""Whether KVM runs a guest here. The only proof is a real kernel that reaches user space; cheap signs come first.

Hosts exist on which /dev/kvm opens, libvirt offers kvm and a guest of five instructions runs, while every ordinary
kernel dies without a word. So a verdict is reached by a boot, once, and kept with a fingerprint of what it depends on.
"""

from __future__ import annotations

import hashlib
import os
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import msgspec

KVM = "kvm"
TCG = "tcg"
EMULATOR = "qemu-system-x86_64"

_DEVICE = Path("/dev/kvm")
_MODULES = ("kvm_intel", "kvm_amd")
_FIRST_BYTE = 2.0
_USER_SPACE = 6.0
"""Seconds: a kernel under KVM prints at once and is in user space in well under a second; nested KVM is slower."""
_ALIVE = re.compile(rb"Run \S+ as init process|VFS: (?:Unable to mount|Cannot open) root")
"""What a kernel prints when it hands over to user space, or would if it had a root."""
_CMDLINE = "console=ttyS0 earlyprintk=serial panic=-1 8250.nr_uarts=1"
_CACHE_FILE = "accel.json"

HOW = "enable virtualization in the firmware (or nested virtualization on the outer host) and 'modprobe kvm_intel'"


class Verdict(msgspec.Struct, frozen=True):
    """``accel`` is kvm or tcg; ``reason`` why it is not kvm (or how kvm was proven). ``key``: the fingerprint."""

    accel: str
    reason: str
    key: str = ""

    @property
    def fact(self) -> str:
        """For people: ``kvm`` or ``tcg: <reason>``."""
        return KVM if self.accel == KVM else f"{TCG}: {self.reason}"


class Guest(msgspec.Struct, frozen=True):
    """A kernel to try, with an initramfs if there is one at hand."""

    kernel: Path
    initrd: Path | None = None


def verdict(cache: Path, guests: list[Guest], *, force: bool = False) -> Verdict:
    """The remembered verdict, or a new one: cheap signs, then a boot of the first of ``guests`` that exists.

    ``force``: try even if the signs are bad (``--accel kvm``). Takes seconds at most, once per boot of the host.
    """
    if (sign := cannot_open()) or (not force and (sign := no_virtualization())):
        return Verdict(TCG, sign)
    emulator = shutil.which(EMULATOR)
    if emulator is None:
        return Verdict(TCG, f"{EMULATOR} is not installed")
    key = fingerprint(Path(emulator))
    if (known := _load(cache)) is not None and known.key == key:
        return known
    guest = next((one for one in guests if one.kernel.is_file()), None)
    if guest is None:
        return Verdict(TCG, "KVM is not proven yet: no kernel to try it with")
    failure = prove(emulator, guest)
    result = Verdict(TCG, failure, key) if failure else Verdict(KVM, f"{guest.kernel.name} reached user space", key)
    _save(cache, result)
    return result


def cannot_open() -> str:
    """Why the device is of no use to this user; empty if it opens."""
    if os.uname().machine != "x86_64":
        return f"machines are x86_64, this host is {os.uname().machine}"
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"there is no {_DEVICE}"
    except OSError as error:
        return f"{_DEVICE} cannot be opened: {error.strerror}"
    return ""


def no_virtualization() -> str:
    """Why KVM cannot be hardware's: no CPU flag and no module. Empty if there is one of either."""
    flags = re.search(r"^flags\s*:(.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    if flags and {"vmx", "svm"} & set(flags[1].split()):
        return ""
    if any(Path("/sys/module", module).exists() for module in _MODULES):
        return ""
    return f"{_DEVICE} opens, but the CPU shows neither vmx nor svm and neither kvm_intel nor kvm_amd is loaded"


def device_trouble() -> str:
    """What slows libvirt down: a device closed to the group kvm has it ask QEMU for its abilities at every start."""
    import grp

    try:
        info, group = _DEVICE.stat(), grp.getgrnam("kvm").gr_gid
    except (OSError, KeyError):
        return ""
    if info.st_mode & 0o006 == 0o006 or (info.st_gid == group and info.st_mode & 0o060 == 0o060):
        return ""
    return f"closed to the group kvm: every start of a machine takes seconds longer; chgrp kvm {_DEVICE}, chmod 660"


def fingerprint(emulator: Path) -> str:
    """Changes when the verdict might: host kernel, boot, CPU, microcode, modules, QEMU."""
    cpu = _read("/proc/cpuinfo").split("\n\n", 1)[0]
    stable = [line for line in cpu.splitlines() if line.split("\t")[0] in ("model name", "flags", "microcode")]
    info = emulator.stat()
    modules = [module for module in _MODULES if Path("/sys/module", module).exists()]
    parts = [os.uname().release, _read("/proc/sys/kernel/random/boot_id"), *stable, *modules]
    parts += [str(emulator.resolve()), str(info.st_size), str(info.st_mtime_ns)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def prove(emulator: str, guest: Guest) -> str:
    """Boot ``guest`` under KVM with 128 MiB; why that failed, or empty."""
    command = [emulator, "-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "128", "-nodefaults", "-no-reboot"]
    command += ["-no-user-config", "-display", "none", "-serial", "stdio", "-kernel", str(guest.kernel)]
    command += ["-append", _CMDLINE]
    if guest.initrd is not None:
        command += ["-initrd", str(guest.initrd)]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except OSError as error:
        return f"QEMU cannot be run: {error.strerror}"
    with process:
        try:
            return _watch(process)
        finally:
            process.kill()


def _watch(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None  # noqa: S101 - asked for above
    begun = time.monotonic()
    seen = b""
    while True:
        limit = _USER_SPACE if seen else _FIRST_BYTE
        remaining = begun + limit - time.monotonic()
        if remaining <= 0 or not select.select([process.stdout], [], [], remaining)[0]:
            stage = "did not reach user space" if seen else "printed nothing"
            return f"an ordinary kernel under KVM {stage} within {limit:g} s"
        chunk = os.read(process.stdout.fileno(), 65536)
        seen = (seen + chunk)[-65536:]
        if _ALIVE.search(seen):
            return ""
        if not chunk:
            last = seen.decode("utf-8", "replace").strip().splitlines()[-1:]
            said = "".join(c for c in " ".join(last) if c.isprintable())[:160]
            return f"an ordinary kernel under KVM ends QEMU{': ' + said if said else ''}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _load(cache: Path) -> Verdict | None:
    try:
        return msgspec.json.decode((cache / _CACHE_FILE).read_bytes(), type=Verdict)
    except (OSError, msgspec.DecodeError):
        return None


def _save(cache: Path, result: Verdict) -> None:
    """Best effort: without a cache the proof is repeated."""
    temporary = cache / f"{_CACHE_FILE}.{os.getpid()}"
    try:
        cache.mkdir(mode=0o711, parents=True, exist_ok=True)
        temporary.write_bytes(msgspec.json.encode(result))
        temporary.replace(cache / _CACHE_FILE)
    except OSError:
        temporary.unlink(missing_ok=True)
