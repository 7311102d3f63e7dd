"""Reads the host and says what of it may be claimed.

Numbers come from the kernel itself (/proc, /sys, statvfs), never from a manager's idea of them.
``VMCTL_HOST_FACTS=<file>`` is a hook for tests: a JSON object whose fields replace those of :class:`HostFacts`, so that
a command can be run as on another host.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from vmctl.errors import UsageError
from vmctl.ledger.records import InventoryRow
from vmctl.model.resources import HOST_POOL, PPM, STORAGE_POOL, Resource, ResourceKey
from vmctl.units import PAGE

CPU = ResourceKey(HOST_POOL, Resource.CPU_SHARED)
MEM = ResourceKey(HOST_POOL, Resource.MEM)
PIDS = ResourceKey(HOST_POOL, Resource.PIDS)
INST = ResourceKey(HOST_POOL, Resource.INST)
DISK_VIRT = ResourceKey(STORAGE_POOL, Resource.DISK_VIRT)
DISK_PHYS = ResourceKey(STORAGE_POOL, Resource.DISK_PHYS)

GIB = 1 << 30
CPU_RATIO_PPM = 4 * PPM   # shared CPUs are time slices: four claimed for one that exists
DISK_RATIO_PPM = 2 * PPM  # thin disks: two virtual bytes for one that exists
MAX_INSTANCES = 4096

RATIO_ALLOWED = frozenset({CPU, DISK_VIRT})
"""Resources that may be over-committed. Memory may not: there is no balloon or swap plan yet (design, section 1)."""

UNITS = {
    Resource.CPU_SHARED: "millicpu",
    Resource.MEM: "bytes",
    Resource.DISK_VIRT: "bytes",
    Resource.DISK_PHYS: "bytes",
    Resource.PIDS: "count",
    Resource.INST: "count",
}


class HostFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the host has at this moment. Bytes, counts; pressure in hundredths of a percent, None: not measured.

    ``disk_total`` is what an unprivileged writer could fill: blocks kept for root are not part of it.
    """

    cpus: int
    mem_total: int
    mem_available: int
    hugepages: int = 0      # bytes set aside in hugepage pools
    zfs_arc: int = 0        # bytes that the ZFS cache may grow to
    pids: int = 32768
    disk_total: int = 0
    disk_available: int = 0
    mem_pressure: int | None = None

    @property
    def disk_used(self) -> int:
        return self.disk_total - self.disk_available


def read_host(state_dir: Path) -> HostFacts:
    """The facts now; the storage pool is the file system that holds ``state_dir`` (or its nearest parent)."""
    memory = _meminfo()
    disk_total, disk_available = _disk(state_dir)
    facts = HostFacts(
        cpus=_online_cpus(),
        mem_total=memory["MemTotal"],
        mem_available=memory["MemAvailable"],
        hugepages=memory.get("Hugetlb", 0),
        zfs_arc=_zfs_arc(),
        pids=_pids(),
        disk_total=disk_total,
        disk_available=disk_available,
        mem_pressure=_memory_pressure(),
    )
    return _overridden(facts)


def probed_rows(facts: HostFacts) -> list[InventoryRow]:
    """The inventory that follows from the facts, with default reserves and ratios (design, sections 2, 4 and 8)."""
    usable = facts.mem_total - facts.hugepages
    host_reserve = max(GIB, facts.mem_total // 20) + facts.zfs_arc
    disk_reserve = max(facts.disk_total // 20, 10 * GIB)

    def row(key: ResourceKey, total: int, reserved: int, ratio_ppm: int = PPM, step: int = 1) -> InventoryRow:
        return InventoryRow(
            key=key, total=total, reserved=min(reserved, total), ratio_ppm=ratio_ppm, min_unit=step, step=step
        )

    return [
        row(CPU, facts.cpus * 1000, 0, CPU_RATIO_PPM),
        row(MEM, usable // PAGE * PAGE, -(-host_reserve // PAGE) * PAGE, step=PAGE),
        row(PIDS, facts.pids, max(1024, facts.pids // 20)),
        row(INST, MAX_INSTANCES, 0),
        row(DISK_VIRT, facts.disk_total, disk_reserve, DISK_RATIO_PPM),
        row(DISK_PHYS, facts.disk_total, disk_reserve),
    ]


def _meminfo() -> dict[str, int]:
    found: dict[str, int] = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        found[name] = int(value.split()[0]) * 1024
    return found


def _online_cpus() -> int:
    """All CPUs that are online, not only those that this process may use."""
    text = _read("/sys/devices/system/cpu/online")
    if not text:
        return os.cpu_count() or 1
    count = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def _pids() -> int:
    """The smallest of the limits that apply to the whole host (or to the container that is our host)."""
    limits = [_read("/proc/sys/kernel/pid_max"), _read("/proc/sys/kernel/threads-max")]
    limits += [_read("/sys/fs/cgroup/pids.max"), _read("/sys/fs/cgroup/pids/pids.max")]
    return min((int(limit) for limit in limits if limit.isdigit()), default=32768)


def _disk(state_dir: Path) -> tuple[int, int]:
    """(total, available) bytes for an unprivileged writer."""
    folder = state_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    status = os.statvfs(folder)
    used = status.f_blocks - status.f_bfree
    return (used + status.f_bavail) * status.f_frsize, status.f_bavail * status.f_frsize


def _zfs_arc() -> int:
    match = re.search(r"^c_max\s+\d+\s+(\d+)", _read("/proc/spl/kstat/zfs/arcstats"), re.MULTILINE)
    return int(match[1]) if match else 0


def _memory_pressure() -> int | None:
    match = re.search(r"some avg10=(\d+)\.(\d\d)", _read("/proc/pressure/memory"))
    return int(match[1]) * 100 + int(match[2]) if match else None


def _read(path: str) -> str:
    """The file's text; empty where the kernel has no such file or does not let us."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _overridden(facts: HostFacts) -> HostFacts:
    path = os.environ.get("VMCTL_HOST_FACTS")
    if not path:
        return facts
    try:
        fields = msgspec.json.decode(Path(path).read_bytes(), type=dict[str, int | None])
        return msgspec.convert({**msgspec.structs.asdict(facts), **fields}, HostFacts)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"VMCTL_HOST_FACTS: {error}", hint="it names a JSON file with fields of HostFacts") from error
