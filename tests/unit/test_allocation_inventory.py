"""Reading the host, and the reserves and ratios that follow."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.allocation import GIB, MIB, World, host
from vmctl.allocation.inventory import CPU, DISK_PHYS, DISK_VIRT, INST, MEM, PIDS, HostFacts, probed_rows, read_host
from vmctl.errors import UsageError
from vmctl.ledger.records import InventoryRow, parse_key
from vmctl.model.resources import PPM, ResourceKey

FACTS = HostFacts(
    cpus=4,
    mem_total=64 * GIB,
    mem_available=60 * GIB,
    hugepages=2 * GIB,
    zfs_arc=GIB,
    pids=32768,
    disk_total=1000 * GIB,
    disk_available=700 * GIB,
)


def rows(facts: HostFacts) -> dict[ResourceKey, InventoryRow]:
    return {row.key: row for row in probed_rows(facts)}


def test_this_host_is_read_from_the_kernel(tmp_path: Path) -> None:
    facts = read_host(tmp_path / "not" / "there" / "yet")
    label, kilobytes, _ = Path("/proc/meminfo").read_text().splitlines()[0].split()
    assert (label, facts.mem_total) == ("MemTotal:", int(kilobytes) * 1024)
    assert 0 < facts.mem_available <= facts.mem_total
    assert facts.cpus == os.cpu_count()
    assert 0 < facts.disk_available <= facts.disk_total
    assert facts.pids > 100


def test_reserves_and_ratios() -> None:
    found = rows(FACTS)
    mem = found[MEM]
    assert mem.total == 62 * GIB, "hugepages are somebody's already"
    assert mem.reserved == pytest.approx(64 * GIB / 20 + GIB, abs=4096)
    assert mem.reserved % 4096 == 0
    assert mem.ratio_ppm == PPM
    assert (found[CPU].total, found[CPU].ratio_ppm) == (4000, 4 * PPM)
    assert (found[DISK_VIRT].reserved, found[DISK_VIRT].ratio_ppm) == (50 * GIB, 2 * PPM)
    assert (found[DISK_PHYS].reserved, found[DISK_PHYS].ratio_ppm) == (50 * GIB, PPM)
    assert (found[PIDS].ratio_ppm, found[INST].ratio_ppm) == (PPM, PPM)


def test_small_hosts_keep_a_gibibyte() -> None:
    assert rows(HostFacts(cpus=1, mem_total=2 * GIB, mem_available=GIB))[MEM].reserved == GIB


def test_nothing_is_reserved_beyond_the_total() -> None:
    found = rows(HostFacts(cpus=1, mem_total=512 * MIB, mem_available=MIB, disk_total=GIB, disk_available=GIB, pids=10))
    assert all(row.reserved <= row.total for row in found.values())
    assert found[MEM].capacity == 0


def test_facts_can_be_replaced_for_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "facts.json"
    file.write_text(json.dumps({"cpus": 2, "mem_total": 8 * GIB}))
    monkeypatch.setenv("VMCTL_HOST_FACTS", str(file))
    facts = read_host(tmp_path)
    assert (facts.cpus, facts.mem_total) == (2, 8 * GIB)
    assert facts.disk_total > 0, "the rest is probed"


@pytest.mark.parametrize("text", ["{", "[]", '{"cpu": 2}', '{"cpus": "two"}'])
def test_nonsense_facts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "facts.json").write_text(text)
    monkeypatch.setenv("VMCTL_HOST_FACTS", str(tmp_path / "facts.json"))
    with pytest.raises(UsageError, match="VMCTL_HOST_FACTS"):
        read_host(tmp_path)


@pytest.mark.parametrize("key", [CPU, DISK_VIRT, ResourceKey("nic:eth0", "net.rx")])
def test_keys_survive_their_text(key: ResourceKey) -> None:
    assert parse_key(str(key)) == key


def test_settings_win_over_probes_and_can_be_taken_back(tmp_path: Path) -> None:
    world = World(tmp_path, FACTS)
    world.allocator.set_resource("mem", total=32 * GIB, reserved=0)
    world.allocator.set_resource("cpu.shared", ratio_ppm=2 * PPM)
    world.facts = host()
    found = {row.resource: row for row in world.allocator.host_resources()}
    assert (found["mem"].total, found["mem"].reserved, found["mem"].source) == (32 * GIB, 0, "configured")
    assert (found["cpu.shared"].ratio_ppm, found["cpu.shared"].total) == (2 * PPM, 64_000)
    assert found["inst"].source == "probed"
    world.allocator.reset_resource("mem")
    found = {row.resource: row for row in world.allocator.host_resources()}
    assert (found["mem"].total, found["mem"].source) == (host().mem_total, "probed")
    assert world.ledger.fsck() == []


@pytest.mark.parametrize(
    ("resource", "settings"),
    [
        ("mem", {"ratio_ppm": 2 * PPM}),
        ("pids", {"ratio_ppm": 2 * PPM}),
        ("cpu.shared", {"ratio_ppm": PPM // 2}),
        ("mem", {"reserved": 1 << 50}),
        ("memry", {"total": 1}),
    ],
)
def test_senseless_settings_change_nothing(tmp_path: Path, resource: str, settings: dict[str, int]) -> None:
    world = World(tmp_path, FACTS)
    before = world.allocator.host_resources()
    with pytest.raises(UsageError) as caught:
        world.allocator.set_resource(resource, **settings)
    assert caught.value.hint
    assert world.allocator.host_resources() == before


def test_reserving_everything_is_allowed(tmp_path: Path) -> None:
    world = World(tmp_path, FACTS)
    world.allocator.set_resource("cpu.shared", reserved=4000)
    assert next(row.capacity for row in world.allocator.host_resources() if row.resource == "cpu.shared") == 0
