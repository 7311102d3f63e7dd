"""The init of image machines, on real kernels: one machine for most tests, a few of their own for what ends one."""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.guest_machine import GuestMachine, Outcome, command, end_client, make_root, pump, sh
from vmctl.backends.base import Attachment
from vmctl.backends.wire import machine, tarcopy
from vmctl.backends.wire.frames import FrameType, encode
from vmctl.backends.wire.logfile import last_exit, read_records
from vmctl.backends.wire.pump import WireAttachment
from vmctl.errors import CannotInvoke, Conflict, NotFound, ProgramNotFound, WrongState
from vmctl.images.kernel import KernelStore
from vmctl.model.event import LogRecord, Stream
from vmctl.model.process import Process
from vmctl.model.state import RestartPolicy
from vmctl.paths import default_paths

pytestmark = [pytest.mark.libvirt, pytest.mark.xdist_group("guest")]  # libvirt: where it is, QEMU is

Boot = Callable[..., GuestMachine]


@pytest.fixture(scope="module")
def new_machine() -> Iterator[Boot]:
    """Machines that are ended with the module. Short paths: sockets."""
    machines: list[GuestMachine] = []
    kernel = KernelStore(default_paths().state).ensure()
    with tempfile.TemporaryDirectory(prefix="vg-", dir="/var/tmp") as name:
        folder = Path(name)
        root = make_root(folder)

        def make(*, upper: Path | None = None, cmdline: str = "") -> GuestMachine:
            own = folder / str(len(machines))
            own.mkdir()
            machines.append(GuestMachine(own, root, kernel, upper=upper, cmdline=cmdline))
            return machines[-1]

        yield make
        for guest in machines:
            guest.close()


@pytest.fixture(scope="module")
def guest(new_machine: Boot) -> GuestMachine:
    """A machine whose main process echoes its stdin; its address comes by DHCP."""
    made = new_machine()
    made.boot(command("cat", stdin=True), network=machine.GuestNetwork()).close()
    return made


def logged(guest: GuestMachine, stream: Stream) -> bytes:
    records = read_records(machine.log_path(guest.folder))
    return b"".join(record.data for record in records if isinstance(record, LogRecord) and record.stream == stream)


def test_main_process_from_start_to_power_off(new_machine: Boot) -> None:
    guest = new_machine()
    outcome = pump(guest.boot(sh("echo out; echo err >&2; cat; exit 42", stdin=True)), b"given")
    assert (outcome.code, outcome.stdout, outcome.stderr) == (42, b"out\ngiven", b"err\n")
    guest.wait_gone()
    end = last_exit(machine.log_path(guest.folder))
    assert end is not None
    assert (end.code, end.signal) == (42, None)
    assert (logged(guest, Stream.STDOUT), logged(guest, Stream.STDERR)) == (b"out\ngiven", b"err\n")


def test_disk_of_its_own_keeps_what_is_written_and_devices_may_wait_for_boot(new_machine: Boot, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    with upper.open("wb") as stream:
        stream.truncate(256 << 20)
    subprocess.run(["/sbin/mkfs.ext4", "-q", upper], check=True)
    script = sh("cat /etc/kept 2>/dev/null; echo here > /etc/kept; df -m / | awk 'END { exit $2 < 200 }'")
    # "vmctl.defer" is how a machine to be saved and restored with other disks starts.
    for expected, cmdline in [(b"", ""), (b"here\n", "vmctl.defer")]:
        guest = new_machine(upper=upper, cmdline=cmdline)
        outcome = pump(guest.boot(script, upper=machine.UPPER_DEVICE))
        assert (outcome.code, outcome.stdout) == (0, expected)
        guest.wait_gone()


def test_last_output_is_not_lost_to_a_slow_client(new_machine: Boot) -> None:
    guest = new_machine()
    session = guest.boot(sh("head -c 200000 /dev/zero; exit 7"))
    time.sleep(1)
    outcome = pump(session)
    assert (outcome.code, len(outcome.stdout)) == (7, 200_000)
    guest.wait_gone()


def test_restarts_then_gives_up_on_a_read_only_root(new_machine: Boot) -> None:
    guest = new_machine()
    session = guest.boot(
        sh("echo run; touch /etc/x && exit 0; exit 5"), read_only=True, restart=RestartPolicy.ON_FAILURE, restart_max=2
    )
    outcome = pump(session)
    assert (outcome.code, outcome.stdout) == (5, b"run\n" * 3)
    assert b"Read-only file system" in outcome.stderr
    guest.wait_gone()


@pytest.mark.parametrize(("program", "error", "code"), [("nope", ProgramNotFound, 127), ("noexec", CannotInvoke, 126)])
def test_main_process_that_cannot_start(new_machine: Boot, program: str, error: type[Exception], code: int) -> None:
    guest = new_machine()
    with pytest.raises(error, match=program):
        guest.boot(command(program))
    guest.wait_gone()
    end = last_exit(machine.log_path(guest.folder))
    assert end is not None
    assert end.code == code


def test_power_off_kills_what_does_not_obey(new_machine: Boot) -> None:
    guest = new_machine()
    attached = guest.boot(sh("trap 'echo asked' TERM; echo up; while :; do sleep 0.1; done"))
    outcomes: list[Outcome] = []
    watcher = threading.Thread(target=lambda: outcomes.append(pump(attached)), daemon=True)
    watcher.start()
    while b"up" not in logged(guest, Stream.STDOUT):
        time.sleep(0.02)
    session = guest.session()
    session.poweroff(1.0, signal.SIGTERM)
    session.close()
    guest.wait_gone()
    watcher.join(5)
    assert outcomes
    assert (outcomes[0].code, outcomes[0].stdout) == (137, b"up\nasked\n")
    end = last_exit(machine.log_path(guest.folder))
    assert end is not None
    assert (end.code, end.signal) == (137, 9)


def test_exec_streams_and_code(guest: GuestMachine) -> None:
    outcome = guest.run(sh("echo out; echo err >&2; exit 3"))
    assert (outcome.code, outcome.stdout, outcome.stderr) == (3, b"out\n", b"err\n")


def test_exec_death_by_signal(guest: GuestMachine) -> None:
    end = guest.run(sh("kill -9 $$")).exit
    assert end is not None
    assert (end.code, end.signal, end.oom) == (137, 9, False)


@pytest.mark.parametrize(
    ("program", "error"),
    [("nope", ProgramNotFound), ("/bin/lost", ProgramNotFound), ("noexec", CannotInvoke), ("/etc", CannotInvoke)],
)
def test_exec_of_what_cannot_run(guest: GuestMachine, program: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        guest.run(command(program))


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", b"uid=0(root) gid=0(root)"),
        ("ann", b"uid=1000(ann) gid=1000(ann) groups=50(staff)"),
        ("1000", b"uid=1000(ann) gid=1000(ann) groups=50(staff)"),
        ("77:88", b"uid=77 gid=88"),
        ("ann:staff", b"uid=1000(ann) gid=50(staff)"),
    ],
)
def test_users(guest: GuestMachine, user: str, expected: bytes) -> None:
    outcome = guest.run(sh("id; echo $HOME >&2; echo into > /dev/stdout", user=user))
    assert outcome.stdout == expected + b"\ninto\n"
    assert outcome.stderr == (b"/home/ann\n" if b"ann" in expected else b"/\n" if user else b"/root\n")


def test_unknown_user(guest: GuestMachine) -> None:
    with pytest.raises(CannotInvoke, match="nobodyhere"):
        guest.run(command("true", user="nobodyhere"))


def test_twenty_megabytes_each_way(guest: GuestMachine) -> None:
    data = os.urandom(20 << 20)
    outcome = guest.run(command("tee", "/dev/stderr", stdin=True), data)
    assert outcome.code == 0
    assert hashlib.sha256(outcome.stdout).digest() == hashlib.sha256(data).digest()
    assert outcome.stderr == outcome.stdout


def test_terminal(guest: GuestMachine) -> None:
    session = guest.session()
    session.exec(sh("stty size; tty; read line; echo got $line; stty size", tty=True, stdin=True), (33, 101))
    first = b""
    while not re.search(rb"/dev/pts/\d+\r\n", first):
        first += b"".join(frame.payload for frame in session.receive() if frame.type == FrameType.STDOUT)
        time.sleep(0.01)
    assert first.startswith(b"33 101\r\n")
    session.queue(FrameType.WINCH, struct.pack(">HH", 44, 55))
    session.queue(FrameType.STDIN, b"word\n")
    outcome = pump(session)
    assert (outcome.code, outcome.stdout) == (0, b"word\r\ngot word\r\n44 55\r\n")


def test_signals_reach_the_process(guest: GuestMachine) -> None:
    read_end, write_end = os.pipe()
    timer = threading.Timer(0.5, os.write, (write_end, bytes([signal.SIGCHLD, signal.SIGUSR1])))
    timer.start()
    outcome = guest.run(sh("trap 'echo caught; exit 9' USR1; while :; do sleep 0.05; done"), signals=read_end)
    os.close(read_end)
    os.close(write_end)
    assert (outcome.code, outcome.stdout) == (9, b"caught\n")


def test_signal_passes_stdin_that_nobody_reads(guest: GuestMachine) -> None:
    read_end, write_end = os.pipe()
    threading.Timer(0.5, os.write, (write_end, bytes([signal.SIGTERM]))).start()
    outcome = guest.run(command("sleep", "60", stdin=True), bytes(5 << 20), signals=read_end)
    os.close(read_end)
    os.close(write_end)
    assert outcome.code == 143


def test_sessions_side_by_side(guest: GuestMachine) -> None:
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda n: guest.run(sh(f"sleep 1; exit {n}")).code, range(4)))
    assert codes == [0, 1, 2, 3]
    assert time.monotonic() - started < 3.5


def test_no_more_sessions_than_ports(guest: GuestMachine) -> None:
    held = [guest.session() for _ in range(machine.PORT_COUNT)]
    with pytest.raises(Conflict):
        guest.session()
    for session in held:
        session.close()
    assert guest.run(command("true")).code == 0


def test_attach_to_the_main_process(guest: GuestMachine) -> None:
    session = guest.session()
    assert session.ready.state == "running"
    session.attach(stdin=True)
    session.queue(FrameType.STDIN, b"hello\n")
    while not (output := [frame for frame in session.receive() if frame.type == FrameType.STDOUT]):
        time.sleep(0.01)
    session.close()
    assert output[0].payload == b"hello\n"
    assert logged(guest, Stream.STDOUT).endswith(b"hello\n")


CLIENT = """
import sys
from pathlib import Path
from vmctl.backends.base import Stdio
from vmctl.backends.wire import machine
from vmctl.backends.wire.pump import WireAttachment
from vmctl.model.process import Process
session = machine.open_session(Path(sys.argv[1]), 30)
session.exec(Process(argv=tuple(sys.argv[2:]), env={"PATH": "/bin"}, stdin=True))
WireAttachment(session).pump(Stdio(0, 1, 2))
"""


def test_killed_client_takes_its_process_along_and_frees_the_port(guest: GuestMachine) -> None:
    with open("/dev/zero", "rb") as zero:
        arguments = [sys.executable, "-c", CLIENT, str(guest.folder), "sh", "-c", "echo up; sleep 1234 & tee /tmp/x"]
        client = subprocess.Popen(arguments, stdin=zero, stdout=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.read(3) == b"up\n"
    assert client.stdout.read(1 << 20) == bytes(1 << 20)
    end_client(client)
    client.stdout.close()
    deadline = time.monotonic() + 10
    while guest.run(sh("pgrep -f '[s]leep 1234' || pgrep tee")).code == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert guest.run(sh("echo fine")).stdout == b"fine\n"


@pytest.mark.parametrize(
    "junk",
    [
        encode(FrameType.STDIN, bytes(60_000))[:30_000],
        encode(FrameType.EXEC, b"argv\0reboot\0")[:-3],
        b"\x08\xff\xff\xff\xff" + bytes(100),
        b"\xee" * 100_000,
        encode(FrameType.SYNC, bytes(16)) + encode(FrameType.EXEC, b"\0\0") + encode(FrameType.WINCH, b"x"),
        encode(FrameType.SYNC, bytes(16)) + encode(FrameType.SIGNAL, b"\xff") + encode(FrameType.BOOT, b""),
    ],
    ids=["half-stdin", "half-exec", "huge", "unknown", "empty-pairs", "bad-requests"],
)
def test_junk_from_a_client_hurts_nobody(guest: GuestMachine, junk: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(machine.socket_path(guest.folder, 0)))
        raw.sendall(junk)
        time.sleep(0.05)
    assert guest.run(sh("echo fine")).stdout == b"fine\n"


def test_second_boot_is_refused(guest: GuestMachine) -> None:
    session = guest.session()
    with pytest.raises(WrongState):
        session.boot(machine.boot_pairs(command("true"), hostname="x", root_fs="erofs"))
    session.close()


def test_ping_is_quick(guest: GuestMachine) -> None:
    session = guest.session()
    assert min(session.ping() for _ in range(20)) < 0.05
    session.close()


def test_what_the_machine_is_set_up_with(guest: GuestMachine) -> None:
    script = "hostname; hostname -i; ip -4 -o addr show eth0 | cut -d' ' -f7; date +%s; ls -d /dev/pts/ptmx /dev/fd"
    outcome = guest.run(sh(script))
    name, address, interface, clock, *devices = outcome.stdout.decode().split()
    assert (name, address, interface) == ("inside", "127.0.1.1", "10.0.2.15/24")
    assert abs(int(clock) - time.time()) < 5
    assert len(devices) == 2
    assert guest.run(command("cat", "/etc/resolv.conf")).stdout == b"nameserver 10.0.2.3\n"


def test_copy_without_tar_in_the_image(guest: GuestMachine, tmp_path: Path) -> None:
    def run(process: Process) -> Attachment:
        session = guest.session()
        session.exec(process)
        return WireAttachment(session)

    content = os.urandom(1 << 20)
    (tmp_path / "f").write_bytes(content)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(tmp_path / "f", "f")
    archive.seek(0)
    tarcopy.copy_in(run, "/home/ann", archive, tar=machine.TAR)
    copied = io.BytesIO()
    tarcopy.copy_out(run, "/home/ann/f", copied, tar=machine.TAR)
    copied.seek(0)
    with tarfile.open(fileobj=copied) as tar:
        member = tar.extractfile("f")
        assert member is not None
        assert member.read() == content
    with pytest.raises(NotFound):
        tarcopy.copy_out(run, "/no/such", io.BytesIO(), tar=machine.TAR)
    archive.seek(0)
    with pytest.raises(NotFound):
        tarcopy.copy_in(run, "/no/such", archive, tar=machine.TAR)
