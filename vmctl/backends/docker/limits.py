"""Limits as the kernel enforces them: read back from a process's cgroup, version 1 or 2."""

from __future__ import annotations

from pathlib import Path

import msgspec

from vmctl.backends.docker import states
from vmctl.backends.docker.native import Container
from vmctl.errors import Unsupported
from vmctl.model.spec import InstanceSpec

UNLIMITED = 1 << 62
"""Any larger number: version 1 writes 9223372036854771712 for "no memory limit"."""
_ROOT = Path("/sys/fs/cgroup")
_UNIFIED = ""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes, millicpu, count; None where it could not be read, UNLIMITED where nothing is enforced."""

    memory: int | None = None
    cpu_millis: int | None = None
    pids: int | None = None


def asked(spec: InstanceSpec) -> Limits:
    return Limits(memory=spec.memory, cpu_millis=spec.cpu_millis, pids=spec.pids)


def recorded(container: Container) -> Limits:
    """What the daemon says it will enforce: it drops, with a mere warning, what its kernel cannot do."""
    host = container.host_config
    return Limits(
        memory=host.memory or UNLIMITED,
        cpu_millis=states.cpu_limit(container) or UNLIMITED,
        pids=host.pids_limit if (host.pids_limit or 0) > 0 else UNLIMITED,
    )


def enforced(pid: int) -> Limits:
    """What the kernel enforces on process ``pid``; all None when it has ended."""
    return read(_membership(pid), _ROOT)


def read(membership: list[str], root: Path) -> Limits:
    """The limits of a process, from the lines of its /proc/PID/cgroup and the files below ``root``.

    On a host with both versions a controller is in one of them: version 1 first.
    """
    folders = _folders(membership, root)
    if "memory" in folders:
        return Limits(
            memory=_number(folders["memory"] / "memory.limit_in_bytes"),
            cpu_millis=_cpu_v1(folders["cpu"]) if "cpu" in folders else None,
            pids=_number(folders["pids"] / "pids.max") if "pids" in folders else None,
        )
    if _UNIFIED not in folders:
        return Limits()
    unified = folders[_UNIFIED]
    return Limits(
        memory=_number(unified / "memory.max"), cpu_millis=_cpu_v2(unified), pids=_number(unified / "pids.max")
    )


def check(wanted: Limits, actual: Limits) -> None:
    """Raise Unsupported if something larger than ``wanted`` is enforced. What could not be read passes."""
    for field, unit in (("memory", "bytes"), ("cpu_millis", "millicpu"), ("pids", "processes")):
        want, have = getattr(wanted, field), getattr(actual, field)
        if want is not None and have is not None and have > want:
            found = "no limit" if have >= UNLIMITED else f"{have} {unit}"
            raise Unsupported(
                f"Docker does not enforce the limit of {want} {unit}: found {found}",
                hint="the kernel may lack the cgroup controller: see 'docker info'",
            )


def memory_in_use(pid: int) -> int | None:
    """Bytes charged to the cgroup of ``pid`` without page cache that can go at once; None when it has ended."""
    folders = _folders(_membership(pid), _ROOT)
    if "memory" in folders:
        return _in_use(folders["memory"], "memory.usage_in_bytes", "total_inactive_file")
    return _in_use(folders[_UNIFIED], "memory.current", "inactive_file") if _UNIFIED in folders else None


def cpu_time(pid: int) -> int | None:
    """Nanoseconds of CPU that the cgroup of ``pid`` has used; None when it has ended."""
    folders = _folders(_membership(pid), _ROOT)
    if "cpuacct" in folders:
        return _number(folders["cpuacct"] / "cpuacct.usage")
    return _statistic(folders[_UNIFIED] / "cpu.stat", "usage_usec") * 1000 if _UNIFIED in folders else None


def _in_use(folder: Path, usage: str, inactive: str) -> int | None:
    total = _number(folder / usage)
    return None if total is None else max(0, total - _statistic(folder / "memory.stat", inactive))


def _membership(pid: int) -> list[str]:
    """The lines of /proc/PID/cgroup; none when it has ended."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return []


def _folders(lines: list[str], root: Path) -> dict[str, Path]:
    """The cgroup's folder by controller; that of the version 2 tree under ``_UNIFIED``."""
    folders: dict[str, Path] = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            folders[controller] = root / controllers / path.lstrip("/")
    return folders


def _statistic(file: Path, key: str) -> int:
    try:
        pairs = (line.split() for line in file.read_text().splitlines())
        return next((int(value) for name, value in pairs if name == key), 0)
    except OSError:
        return 0


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return UNLIMITED if text == "max" else min(int(text), UNLIMITED)


def _cpu_v1(folder: Path) -> int | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    if quota is None or not period:
        return None
    return UNLIMITED if quota < 0 else quota * 1000 // period


def _cpu_v2(folder: Path) -> int | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except OSError:
        return None
    return UNLIMITED if quota == "max" else int(quota) * 1000 // int(period)
