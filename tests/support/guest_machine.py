"""An image machine on bare QEMU, without libvirt: what the init and the wire client are tested with."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vmctl.backends.base import Stdio
from vmctl.backends.wire import machine
from vmctl.backends.wire.client import Session
from vmctl.backends.wire.pump import WireAttachment
from vmctl.backends.wire.tarcopy import _collect
from vmctl.images.kernel import find_busybox
from vmctl.model.image import Kernel
from vmctl.model.process import DEFAULT_PATH, Process
from vmctl.model.state import Exit

START_TIMEOUT = 60.0


def sh(script: str, **options: object) -> Process:
    """A shell script as a process with a usual environment."""
    return command("sh", "-c", script, **options)


def command(*argv: str, user: str = "", tty: bool = False, stdin: bool = False, workdir: str = "/") -> Process:
    return Process(argv=argv, env={"PATH": DEFAULT_PATH}, user=user, tty=tty, stdin=stdin, workdir=workdir)


def make_root(folder: Path) -> Path:
    """A small root file system (EROFS): busybox without tar, two users, and programs that cannot run."""
    tree = folder / "tree"
    for name in ("bin", "etc", "tmp", "home/ann"):
        (tree / name).mkdir(parents=True)
    busybox = find_busybox()
    shutil.copy(busybox, tree / "bin" / "busybox")
    for applet in subprocess.check_output([busybox, "--list"], text=True).split():
        if applet not in ("tar", "busybox"):
            (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n")
    (tree / "etc" / "group").write_text("root:x:0:\nann:x:1000:\nstaff:x:50:bob,ann\n")
    (tree / "bin" / "noexec").write_text("text")
    (tree / "bin" / "lost").write_text("#!/nowhere\n")
    (tree / "bin" / "lost").chmod(0o755)
    root = folder / "root.erofs"
    subprocess.run(["mkfs.erofs", "-T0", root, tree], check=True, capture_output=True)
    return root


@dataclass
class Outcome:
    exit: Exit | None
    stdout: bytes
    stderr: bytes

    @property
    def code(self) -> int | None:
        return self.exit.code if self.exit else None


class GuestMachine:
    """QEMU with the ports of an image machine in ``folder``."""

    def __init__(self, folder: Path, root: Path, kernel: Kernel, *, upper: Path | None, cmdline: str) -> None:
        self.folder = folder
        arguments = _arguments(folder, root, kernel, cmdline)
        if upper is not None:
            arguments += ["-drive", f"if=none,id=upper,file={upper},format=raw"]
            arguments += ["-device", "virtio-blk-pci,drive=upper"]
        self._qemu = subprocess.Popen(arguments)

    def boot(self, process: Process, **options: object) -> Session:
        """Start the main process; the session is attached to it."""
        deadline = time.monotonic() + START_TIMEOUT
        while not machine.socket_path(self.folder, machine.PORT_COUNT - 1).exists():
            assert self._qemu.poll() is None, "QEMU has ended"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        session = machine.open_session(self.folder, START_TIMEOUT, fresh=True)
        assert session.ready.state == "waiting"
        options = {"hostname": "inside", "root_fs": "erofs", **options}
        try:
            session.boot(machine.boot_pairs(process, **options))  # type: ignore[arg-type]
        except BaseException:
            session.close()
            raise
        return session

    def session(self) -> Session:
        return machine.open_session(self.folder, START_TIMEOUT)

    def run(self, process: Process, stdin: bytes | None = None, signals: int | None = None) -> Outcome:
        """Exec it and wait for its end."""
        session = self.session()
        session.exec(process)
        return pump(session, stdin, signals=signals, tty=process.tty)

    def console(self) -> str:
        return (self.folder / "console.log").read_text(errors="replace")

    def wait_gone(self, timeout: float = 20.0) -> None:
        self._qemu.wait(timeout)

    def close(self) -> None:
        self._qemu.kill()
        self._qemu.wait()


def pump(session: Session, stdin: bytes | None = None, *, signals: int | None = None, tty: bool = False) -> Outcome:
    """Pump with pipes as the caller's streams, and close."""
    out: list[bytes] = []
    err: list[bytes] = []
    source = None
    if stdin is not None:
        source = os.memfd_create("stdin")
        os.write(source, stdin)
        os.lseek(source, 0, os.SEEK_SET)
    try:
        with _collect(out.append) as stdout, _collect(err.append) as stderr:
            end = WireAttachment(session).pump(Stdio(source, stdout, stderr, tty=tty, signals=signals))
    finally:
        session.close()
        if source is not None:
            os.close(source)
    return Outcome(end, b"".join(out), b"".join(err))


def end_client(client: subprocess.Popen[bytes]) -> None:
    """Kill -9, as a crashed vmctl ends."""
    with suppress(ProcessLookupError):
        os.kill(client.pid, signal.SIGKILL)
    client.wait()


def _arguments(folder: Path, root: Path, kernel: Kernel, cmdline: str) -> list[str]:
    arguments = ["qemu-system-x86_64", "-M", "q35,accel=tcg", "-cpu", "Nehalem", "-m", "128", "-nodefaults"]
    arguments += ["-no-user-config", "-display", "none", "-no-reboot", "-kernel", str(kernel.path)]
    arguments += ["-initrd", str(kernel.initramfs), "-append", " ".join((*machine.KERNEL_CMDLINE, cmdline))]
    arguments += ["-chardev", f"file,id=console,path={folder}/console.log", "-serial", "chardev:console"]
    arguments += ["-drive", f"if=none,id=root,file={root},format=raw,readonly=on"]
    arguments += ["-device", "virtio-blk-pci,drive=root", "-device", "virtio-serial-pci,max_ports=16"]
    for number in range(machine.PORT_COUNT):
        path = machine.socket_path(folder, number)
        arguments += ["-chardev", f"socket,id=port{number},path={path},server=on,wait=off"]
        arguments += ["-device", f"virtserialport,chardev=port{number},name={machine.port_name(number)}"]
    arguments += ["-chardev", f"file,id=log,path={machine.log_path(folder)},append=on"]
    arguments += ["-device", f"virtserialport,chardev=log,name={machine.LOG_PORT}"]
    return [*arguments, "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,mac=52:54:00:12:34:56"]
