"""Limits and use, read from the files of either cgroup version."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmctl.backends.docker.cgroup import UNLIMITED, Cgroup, Limits, Used, network_bytes
from vmctl.backends.docker.limits import check
from vmctl.errors import Unsupported

V1 = {
    "memory/c0ffee/memory.limit_in_bytes": "67108864\n",
    "memory/c0ffee/memory.usage_in_bytes": "5000\n",
    "memory/c0ffee/memory.stat": "cache 2000\ntotal_inactive_file 1000\n",
    "cpu,cpuacct/c0ffee/cpu.cfs_quota_us": "50000\n",
    "cpu,cpuacct/c0ffee/cpu.cfs_period_us": "100000\n",
    "cpu,cpuacct/c0ffee/cpuacct.usage": "123\n",
    "pids/c0ffee/pids.max": "max\n",
    "pids/c0ffee/pids.current": "4\n",
    "blkio/c0ffee/blkio.throttle.io_service_bytes_recursive": "8:0 Read 10\n8:0 Write 20\n8:16 Read 1\nTotal 31\n",
}
V1_OF = "5:memory:/c0ffee\n4:cpu,cpuacct:/c0ffee\n3:pids:/c0ffee\n2:blkio:/c0ffee\n1:name=systemd:/c0ffee\n0::/c0ffee\n"
V2 = {
    "c0ffee/memory.max": "max\n",
    "c0ffee/memory.current": "5000\n",
    "c0ffee/memory.stat": "anon 1\ninactive_file 1000\n",
    "c0ffee/cpu.max": "150000 100000\n",
    "c0ffee/cpu.stat": "usage_usec 7\nuser_usec 1\n",
    "c0ffee/pids.max": "50\n",
    "c0ffee/pids.current": "4\n",
    "c0ffee/io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=0 rios=1\n",
}


def cgroup(folder: Path, files: dict[str, str], membership: str) -> Cgroup:
    for name, text in ({f"sys/{name}": text for name, text in files.items()} | {"proc/7/cgroup": membership}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return Cgroup(7, "c0ffee", proc=folder / "proc", root=folder / "sys")


def test_version_1_counts_before_the_empty_tree_of_version_2(tmp_path: Path) -> None:
    one = cgroup(tmp_path, V1, V1_OF)
    assert one.limits() == Limits(memory=64 << 20, cpu_millis=500, pids=UNLIMITED)
    assert one.used() == Used(memory=4000, cpu_ns=123, pids=4, block_read=11, block_write=20)


def test_version_2(tmp_path: Path) -> None:
    one = cgroup(tmp_path, V2, "0::/c0ffee\n")
    assert one.limits() == Limits(memory=UNLIMITED, cpu_millis=1500, pids=50)
    assert one.used() == Used(memory=4000, cpu_ns=7000, pids=4, block_read=11, block_write=20)


def test_unlimited_in_both(tmp_path: Path) -> None:
    none = {"memory/c0ffee/memory.limit_in_bytes": "9223372036854771712", "cpu,cpuacct/c0ffee/cpu.cfs_quota_us": "-1"}
    v1 = cgroup(tmp_path / "1", V1 | none, V1_OF).limits()
    assert v1 == Limits(memory=UNLIMITED, cpu_millis=UNLIMITED, pids=UNLIMITED)
    v2 = V2 | {"c0ffee/cpu.max": "max 100000"}
    assert cgroup(tmp_path / "2", v2, "0::/c0ffee\n").limits().cpu_millis == UNLIMITED


def test_a_process_that_has_ended(tmp_path: Path) -> None:
    gone = Cgroup(8, "c0ffee", proc=tmp_path, root=tmp_path)
    assert gone.limits() == Limits()
    assert gone.used() is None
    assert network_bytes(8, proc=tmp_path) == (0, 0)


def test_a_process_that_is_just_ending_has_no_limits(tmp_path: Path) -> None:
    """The kernel moves it to the root before it is a zombie: that is no missing limit."""
    root = {name.replace("/c0ffee/", "/"): text for name, text in V1.items()}
    one = cgroup(tmp_path, root, V1_OF.replace("/c0ffee", "/"))
    assert not one
    assert one.limits() == Limits()


def test_a_process_of_another_container_is_not_ours(tmp_path: Path) -> None:
    """With the daemon in another pid namespace its pids mean other processes here."""
    assert not cgroup(tmp_path, V2, "0::/docker/decaf\n")
    assert cgroup(tmp_path, V2, "0::/system.slice/docker-c0ffee.scope\n")


def test_network_bytes_leave_loopback_out(tmp_path: Path) -> None:
    (tmp_path / "7" / "net").mkdir(parents=True)
    (tmp_path / "7" / "net" / "dev").write_text(
        "Inter-| Receive\n face |bytes\n"
        "    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n"
        "  eth0:310 3 0 0 0 0 0 0 42 1 0 0 0 0 0 0\n"
    )
    assert network_bytes(7, proc=tmp_path) == (310, 42)


@pytest.mark.parametrize(
    "actual",
    [
        Limits(memory=UNLIMITED, cpu_millis=500, pids=50),
        Limits(memory=100, cpu_millis=501, pids=50),
        Limits(memory=100, cpu_millis=500, pids=51),
    ],
)
def test_a_limit_that_is_not_enforced_is_an_error(actual: Limits) -> None:
    with pytest.raises(Unsupported):
        check(Limits(memory=100, cpu_millis=500, pids=50), actual)


def test_what_is_smaller_or_cannot_be_read_passes() -> None:
    check(Limits(memory=100, cpu_millis=500, pids=50), Limits(memory=96, cpu_millis=500, pids=None))
