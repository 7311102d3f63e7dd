"""The cgroup of a container as the kernel shows it, version 1 or 2: what is enforced and what is used.

Read here and not asked of the engine: its statistics come once a second for each container (a second question waits
for 1,000 ms, measured with 20.10), and what it says about limits is what it was asked for.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

UNLIMITED = 1 << 62
"""Any larger number: version 1 writes 9223372036854771712 for "no memory limit"."""

_UNIFIED = ""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes, millicpu, count; None where it could not be read, UNLIMITED where nothing is enforced."""

    memory: int | None = None
    cpu_millis: int | None = None
    pids: int | None = None


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """``memory`` is without page cache that can go at once; ``cpu_ns`` and the bytes count from the start."""

    memory: int
    cpu_ns: int
    pids: int
    block_read: int
    block_write: int


class Cgroup:
    """The cgroup of a container's process ``pid``.

    Cgroups of Docker have the container's id in their path, whatever driver makes them. A process without it is
    another one: the pid is that of another pid namespace, or the process is just ending (the kernel moves it to the
    root before it is a zombie). On a host with both versions a controller is in one of them, and 1 counts first.
    """

    def __init__(
        self, pid: int, container_id: str, *, proc: Path = Path("/proc"), root: Path = Path("/sys/fs/cgroup")
    ) -> None:
        self._folders: dict[str, Path] = {}
        try:
            lines = (proc / str(pid) / "cgroup").read_text().splitlines()
        except OSError:  # it has ended
            return
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if container_id not in path:
                continue
            for controller in controllers.split(","):
                self._folders[controller] = root / controllers / path.lstrip("/")

    def __bool__(self) -> bool:
        """Whether the process lives, and in this container."""
        return bool(self._folders)

    def limits(self) -> Limits:
        """What the kernel enforces."""
        if "memory" in self._folders:
            return Limits(
                memory=self._number("memory", "memory.limit_in_bytes"),
                cpu_millis=self._cpu_quota_v1(),
                pids=self._number("pids", "pids.max"),
            )
        return Limits(
            memory=self._number(_UNIFIED, "memory.max"),
            cpu_millis=self._cpu_quota_v2(),
            pids=self._number(_UNIFIED, "pids.max"),
        )

    def used(self) -> Used | None:
        """What it uses; None when it has ended."""
        if "memory" in self._folders:
            memory = self._number("memory", "memory.usage_in_bytes")
            cache = self._pairs("memory", "memory.stat").get("total_inactive_file", 0)
            cpu = self._number("cpuacct", "cpuacct.usage")
            pids = self._number("pids", "pids.current")
            read, written = self._blocks_v1()
        else:
            memory = self._number(_UNIFIED, "memory.current")
            cache = self._pairs(_UNIFIED, "memory.stat").get("inactive_file", 0)
            cpu = self._pairs(_UNIFIED, "cpu.stat").get("usage_usec", 0) * 1000
            pids = self._number(_UNIFIED, "pids.current")
            read, written = self._blocks_v2()
        if memory is None:
            return None
        return Used(
            memory=max(0, memory - cache), cpu_ns=cpu or 0, pids=pids or 0, block_read=read, block_write=written
        )

    def _text(self, controller: str, name: str) -> str | None:
        try:
            return (self._folders[controller] / name).read_text().strip()
        except (KeyError, OSError):
            return None

    def _number(self, controller: str, name: str) -> int | None:
        text = self._text(controller, name)
        if not text:
            return None
        return UNLIMITED if text == "max" else min(int(text), UNLIMITED)

    def _pairs(self, controller: str, name: str) -> dict[str, int]:
        lines = (self._text(controller, name) or "").splitlines()
        return {key: int(value) for key, value in (line.split(maxsplit=1) for line in lines)}

    def _cpu_quota_v1(self) -> int | None:
        quota, period = self._number("cpu", "cpu.cfs_quota_us"), self._number("cpu", "cpu.cfs_period_us")
        if quota is None or not period:
            return None
        return UNLIMITED if quota < 0 else quota * 1000 // period

    def _cpu_quota_v2(self) -> int | None:
        text = self._text(_UNIFIED, "cpu.max")
        if not text:
            return None
        quota, period = text.split()
        return UNLIMITED if quota == "max" else int(quota) * 1000 // int(period)

    def _blocks_v1(self) -> tuple[int, int]:
        """Lines are ``8:0 Read 4096``, and a total."""
        lines = (self._text("blkio", "blkio.throttle.io_service_bytes_recursive") or "").splitlines()
        words = [line.split() for line in lines]
        read = sum(int(word[2]) for word in words if word[1:2] == ["Read"])
        return read, sum(int(word[2]) for word in words if word[1:2] == ["Write"])

    def _blocks_v2(self) -> tuple[int, int]:
        """Lines are ``8:0 rbytes=4096 wbytes=0 rios=1 ...``."""
        words = (self._text(_UNIFIED, "io.stat") or "").split()
        values = [word.partition("=") for word in words]
        read = sum(int(value) for key, _, value in values if key == "rbytes")
        return read, sum(int(value) for key, _, value in values if key == "wbytes")


def network_bytes(pid: int, *, proc: Path = Path("/proc")) -> tuple[int, int]:
    """Received and sent bytes of the network namespace of ``pid``, without loopback."""
    try:
        lines = (proc / str(pid) / "net" / "dev").read_text().splitlines()[2:]
    except OSError:
        return 0, 0
    links = [line.partition(":") for line in lines]
    counters = [values.split() for name, _, values in links if name.strip() != "lo"]
    return sum(int(values[0]) for values in counters), sum(int(values[8]) for values in counters)
