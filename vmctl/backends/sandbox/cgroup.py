"""The control group of an instance: limits, freezing, counters; version 1 or 2, whichever has the controllers.

Only the standard library is imported: the supervisor uses this too. A group is described by ``{controller: folder}``,
which goes through JSON; in version 2 all controllers share one folder. Amounts are bytes, millicpu and counts.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "freezer")
PARENT = "vmctl"
OWN_PIDS = 2
"""bwrap and its process 1: they live in the group, and are not the workload's."""

_WANTED = frozenset({"memory", "cpu", "pids"})  # version 2; the rest is in every group
_ROOT = "/sys/fs/cgroup"
_PERIOD = 100_000  # microseconds, the kernel's default
_UNLIMITED = 1 << 60

Group = dict[str, str]
"""Controller -> folder; empty where the caller may make no group."""


class Limits(NamedTuple):
    """As asked for, or as read back; None: not enforced."""

    memory: int | None
    cpu_millis: int | None
    pids: int | None


class Counters(NamedTuple):
    """What the group has used until now; None where its controller is missing."""

    cpu_ns: int
    memory: int
    pids: int | None


def version() -> int:
    """2 where the unified hierarchy has the controllers, 1 where they are mounted one by one, 0 for neither."""
    if os.path.exists(f"{_ROOT}/cgroup.controllers"):
        return 2
    return 1 if os.path.isdir(f"{_ROOT}/memory") else 0


def plan_group(name: str) -> Group:
    """The folders that the group called ``name`` would have; empty if this caller cannot make them."""
    if version() == 2:
        parent = _unified_parent()
        return {"unified": f"{parent}/{PARENT}/{name}"} if parent else {}
    group = {c: f"{_ROOT}/{c}/{PARENT}/{name}" for c in CONTROLLERS if os.path.isdir(f"{_ROOT}/{c}")}
    writable = all(os.access(folder.removesuffix(f"/{PARENT}/{name}"), os.W_OK) for folder in group.values())
    return group if writable else {}


def _unified_parent() -> str:
    """Root takes the top; a user takes the folder beside the own group, where that was delegated."""
    if os.geteuid() == 0:
        return _ROOT
    with open("/proc/self/cgroup") as stream:
        own = next((line.strip()[3:] for line in stream if line.startswith("0::")), "/")
    parent = f"{_ROOT}{os.path.dirname(own)}".rstrip("/")
    delegated = all(os.access(path, os.W_OK) for path in (parent, f"{parent}/cgroup.procs"))
    enabled = _read(f"{parent}/cgroup.subtree_control").split()
    return parent if delegated and set(enabled) >= _WANTED else ""


def make(group: Group, limits: Limits) -> Limits:
    """Create the group and set the limits; what the kernel then says they are. Raises OSError."""
    for folder in group.values():
        parent = os.path.dirname(folder)
        os.makedirs(parent, exist_ok=True)
        if "unified" in group:
            for shared in (os.path.dirname(parent), parent):
                _enable_controllers(shared)
        os.makedirs(folder, exist_ok=True)
    _set_limits(group, limits)
    return read_limits(group)


def _enable_controllers(folder: str) -> None:
    wanted = _WANTED & set(_read(f"{folder}/cgroup.controllers").split())
    if missing := wanted - set(_read(f"{folder}/cgroup.subtree_control").split()):
        _write(f"{folder}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(missing)))


def _set_limits(group: Group, limits: Limits) -> None:
    if unified := group.get("unified"):
        if limits.memory is not None:
            _write(f"{unified}/memory.max", str(limits.memory))
            _write_if_present(f"{unified}/memory.swap.max", "0")
            _write_if_present(f"{unified}/memory.oom.group", "1")
        if limits.cpu_millis is not None:
            _write(f"{unified}/cpu.max", f"{_quota(limits.cpu_millis)} {_PERIOD}")
        if limits.pids is not None:
            _write(f"{unified}/pids.max", str(limits.pids + OWN_PIDS))
        return
    if limits.memory is not None and (folder := group.get("memory")):
        _write_memory_v1(folder, limits.memory)
    if limits.cpu_millis is not None and (folder := group.get("cpu")):
        _write(f"{folder}/cpu.cfs_period_us", str(_PERIOD))
        _write(f"{folder}/cpu.cfs_quota_us", str(_quota(limits.cpu_millis)))
    if limits.pids is not None and (folder := group.get("pids")):
        _write(f"{folder}/pids.max", str(limits.pids + OWN_PIDS))


def _write_memory_v1(folder: str, amount: int) -> None:
    """Memory and memory+swap MUST stay ordered at every moment, so the second write may have to come first."""
    files = [f"{folder}/memory.limit_in_bytes", f"{folder}/memory.memsw.limit_in_bytes"]
    try:
        for file in files:
            _write_if_present(file, str(amount))
    except OSError:
        for file in reversed(files):
            _write_if_present(file, str(amount))


def _quota(cpu_millis: int) -> int:
    return max(1000, cpu_millis * _PERIOD // 1000)  # the kernel takes no less than a millisecond


def read_limits(group: Group) -> Limits:
    """The limits in force; all None when the group is gone."""
    if unified := group.get("unified"):
        quota, _, period = _read(f"{unified}/cpu.max").partition(" ")
        cpu = int(quota) * 1000 // int(period) if quota.isdecimal() else None
        return Limits(_limit(f"{unified}/memory.max"), cpu, _pids_limit(f"{unified}/pids.max"))
    quota = _read(f"{group.get('cpu', '')}/cpu.cfs_quota_us")
    cpu = int(quota) * 1000 // int(_read(f"{group['cpu']}/cpu.cfs_period_us") or _PERIOD) if quota.isdecimal() else None
    memory = _limit(f"{group.get('memory', '')}/memory.limit_in_bytes")
    return Limits(memory, cpu, _pids_limit(f"{group.get('pids', '')}/pids.max"))


def _limit(file: str) -> int | None:
    text = _read(file)
    return int(text) if text.isdecimal() and int(text) < _UNLIMITED else None


def _pids_limit(file: str) -> int | None:
    limit = _limit(file)
    return None if limit is None else limit - OWN_PIDS


def open_doors(group: Group) -> list[int]:
    """Descriptors through which a process can join later, when it does not see the host's files any more."""
    return [os.open(f"{folder}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for folder in group.values()]


def join(doors: list[int]) -> None:
    """Move the calling process into the group whose doors these are, and close them. Raises OSError."""
    for door in doors:
        os.write(door, b"0")
        os.close(door)


def freeze(group: Group, *, frozen: bool, timeout: float = 5.0) -> bool:
    """Freeze or thaw; whether that state was reached in time. Raises OSError when the group is gone."""
    if unified := group.get("unified"):
        _write(f"{unified}/cgroup.freeze", "1" if frozen else "0")
    else:
        _write(f"{group['freezer']}/freezer.state", "FROZEN" if frozen else "THAWED")
    deadline = time.monotonic() + timeout
    while is_frozen(group) != frozen:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def is_frozen(group: Group) -> bool:
    """Whether every process in it is stopped."""
    if unified := group.get("unified"):
        return "frozen 1" in _read(f"{unified}/cgroup.events").splitlines()
    return _read(f"{group.get('freezer', '')}/freezer.state") == "FROZEN"


def can_freeze(group: Group) -> bool:
    """Whether ``freeze`` has a controller to work with."""
    return "unified" in group or "freezer" in group


def counters(group: Group) -> Counters | None:
    """Usage until now; None when the group is gone."""
    if unified := group.get("unified"):
        memory, pids = _read(f"{unified}/memory.current"), _read(f"{unified}/pids.current")
        cpu_ns = _field(f"{unified}/cpu.stat", "usage_usec") * 1000
    else:
        memory = _read(f"{group.get('memory', '')}/memory.usage_in_bytes")
        pids = _read(f"{group.get('pids', '')}/pids.current")
        cpu_ns = int(_read(f"{group.get('cpuacct', '')}/cpuacct.usage") or 0)
    if not memory.isdecimal():
        return None
    return Counters(cpu_ns, int(memory), max(0, int(pids) - OWN_PIDS) if pids.isdecimal() else None)


def oom_kills(group: Group) -> int:
    """How often the kernel has killed in this group for want of memory."""
    if unified := group.get("unified"):
        return _field(f"{unified}/memory.events", "oom_kill")
    return _field(f"{group.get('memory', '')}/memory.oom_control", "oom_kill")


def processes(group: Group) -> list[int]:
    """The pids in the group, all threads' leaders."""
    folder = next(iter(group.values()), "")
    return [int(line) for line in _read(f"{folder}/cgroup.procs").split()]


def destroy(group: Group, timeout: float = 5.0) -> bool:
    """Kill what is left in the group and remove it; silent when gone, False when something stays."""
    deadline = time.monotonic() + timeout
    while not _remove(group):
        if time.monotonic() > deadline:
            return False
        _kill(group)
        time.sleep(0.005)
    return True


def _kill(group: Group) -> None:
    if "freezer" in group:
        _write_if_present(f"{group['freezer']}/freezer.state", "THAWED")  # a frozen process does not die in version 1
    if "unified" in group and os.path.exists(f"{group['unified']}/cgroup.kill"):
        _write_if_present(f"{group['unified']}/cgroup.kill", "1")
        return
    for pid in processes(group):
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue


def _remove(group: Group) -> bool:
    done = True
    for folder in group.values():
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            continue
        except OSError:
            done = False
    return done


def _field(file: str, name: str) -> int:
    for line in _read(file).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdecimal():
            return int(value)
    return 0


def _read(file: str) -> str:
    """The file's text, or nothing where it does not exist: a controller may be missing, a group may be gone."""
    try:
        with open(file) as stream:
            return stream.read().strip()
    except OSError:
        return ""


def _write(file: str, text: str) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _write_if_present(file: str, text: str) -> None:
    if os.path.exists(file):
        _write(file, text)
