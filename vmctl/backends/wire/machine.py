"""What an image machine and the code that builds it must agree on: ports, kernel command line, BOOT.

Machine: q35, no default devices, virtio-blk with the image as /dev/vda (read-only), one virtio-serial controller with
PORT_COUNT ports called ``port_name(n)`` (unix sockets that QEMU listens on, at ``socket_path``) and one called LOG_PORT
(a file chardev with append, at ``log_path``), at most one virtio-net. Each port is a session of its own; a client takes
a free one by a lock beside its socket.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import msgspec

from vmctl.backends.wire.client import Session, connect, process_pairs
from vmctl.errors import Conflict
from vmctl.model.process import Process
from vmctl.model.state import RestartPolicy

KERNEL_CMDLINE = (
    "console=ttyS0",
    "quiet",
    "panic=-1",                 # with QEMU's -no-reboot (on_reboot=destroy) a panic ends the machine at once
    "cryptomgr.notests",        # saves 0.2 s under TCG
    "tsc=reliable",
    "no_timer_check",
    "nowatchdog",
    "mitigations=off",          # one tenant inside; the host has its own
    "audit=0",
    "random.trust_cpu=on",
    "rcupdate.rcu_expedited=1",
    "8250.nr_uarts=1",
    "net.ifnames=0",
    "memhp_default_state=online",
)
"""Measured with 256 MiB under TCG (QEMU 7.2, cloud kernel 6.1, EROFS of busybox; min/median seconds after QEMU's
start): init ready 1.54/1.61, ``true`` has exited 1.65/1.75, QEMU gone 1.67/1.76. With ``vmctl.defer`` added, devices
other than the ports stay unbound until BOOT: the form of a machine that is to be saved once and started many times.
"""

PORT_COUNT = 8
LOG_PORT = "vmctl.log"
ROOT_DEVICE = "/dev/vda"
UPPER_DEVICE = "/dev/vdb"
MIN_MEMORY = 128 << 20
"""Bytes; with less the cloud kernel and the overlay do not fit."""
BUSYBOX = "/run/vmctl/busybox"
"""A static busybox in every image machine, whatever its image holds."""
TAR = (BUSYBOX, "tar")


class GuestNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """How the machine's only interface is set up. ``address`` is CIDR; empty: DHCP. Addresses are IPv4.

    A given address costs nothing; DHCP through libvirt's default network takes 5 to 8 s (its bridge has STP on and
    forwards nothing for 4 s after a machine is plugged in; dnsmasq pings for 3 s before it offers an address). The
    main process starts without a lease after ``wait`` seconds; the client goes on asking.
    """

    mac: str = ""
    address: str = ""
    gateway: str = ""
    dns: tuple[str, ...] = ()
    wait: float = 10.0


def port_name(number: int) -> str:
    """The virtio-serial name of a session port."""
    return f"vmctl.{number}"


def socket_path(directory: Path, number: int) -> Path:
    """The unix socket of a session port, in the instance's folder."""
    return directory / f"port{number}.sock"


def log_path(directory: Path) -> Path:
    """The file behind LOG_PORT (see :mod:`vmctl.backends.wire.logfile`)."""
    return directory / "output.log"


def boot_pairs(
    process: Process,
    *,
    hostname: str,
    root_fs: str,
    upper: str = "",
    read_only: bool = False,
    network: GuestNetwork | None = None,
    restart: RestartPolicy = RestartPolicy.NO,
    restart_max: int = 0,
    size: tuple[int, int] | None = None,
) -> list[tuple[str, str]]:
    """The content of BOOT: must be made at the moment it is sent, for it carries the time and fresh entropy.

    ``upper`` is a disk formatted with ext4 (UPPER_DEVICE) that takes what is written to the root and keeps it from one
    start to the next; empty: the machine's memory takes it (half of it at most) and loses it. ``read_only`` seals the
    root. ``size``: rows and columns.
    """
    pairs = [
        ("clock", str(time.time_ns())),
        ("entropy", os.urandom(64).hex()),
        ("hostname", hostname),
        ("root", ROOT_DEVICE),
        ("fstype", root_fs),
        ("upper", upper),
        ("read_only", str(int(read_only))),
        ("restart", restart.value),
        ("restart_max", str(restart_max)),
    ]
    if network is not None:
        pairs += [("mac", network.mac), ("address", network.address), ("gateway", network.gateway)]
        pairs.append(("network_wait", str(round(network.wait * 1000))))
        pairs += [("dns", server) for server in network.dns]
    return pairs + process_pairs(process, size)


def open_session(directory: Path, timeout: float, *, fresh: bool = False) -> Session:
    """A session on a port that nobody uses; ``fresh`` for the first client of a machine just started.

    Raises Conflict when all ports are taken, else as :func:`connect`.
    """
    for number in range(PORT_COUNT):
        path = socket_path(directory, number)
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return connect(path, timeout, fresh=fresh, release=lock)
    raise Conflict("all sessions of the instance are in use", hint=f"at most {PORT_COUNT} clients at a time")
