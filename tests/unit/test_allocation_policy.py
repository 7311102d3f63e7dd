"""The pure rules: what is demanded, what fits, and what a refusal says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.allocation import GIB, MIB, host
from vmctl.allocation import policy
from vmctl.allocation.inventory import CPU, DISK_PHYS, DISK_VIRT, INST, MEM, PIDS, HostFacts, probed_rows
from vmctl.allocation.records import Decision, Demand, Verdict
from vmctl.allocation.refusal import refusal
from vmctl.errors import DoesNotFitNow, NeverFits
from vmctl.ledger.records import InventoryRow
from vmctl.model.observed import Overhead
from vmctl.model.resources import PPM, ResourceKey, Shortage
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Kind


def nobody(_: ResourceKey) -> tuple[tuple[str, int], ...]:
    return ()


def row(total: int = 100, reserved: int = 0, ratio_ppm: int = PPM, used: int = 0) -> InventoryRow:
    return InventoryRow(key=MEM, total=total, reserved=reserved, ratio_ppm=ratio_ppm, used=used)


def test_demand_of_a_container_counts_overhead_and_whole_pages() -> None:
    one = InstanceSpec(kind=Kind.CONTAINER, cpu_millis=1500, memory=5000, disk=7, pids=10)
    wanted = policy.demand(one, Overhead(memory=1, cpu_millis=50, pids=3))
    assert wanted.static == {INST: 1, DISK_VIRT: 7}
    assert wanted.compute == {CPU: 1550, MEM: 8192 + 4096, PIDS: 13}
    assert wanted.overhead == {CPU: 50, MEM: 4096, PIDS: 3}


def test_processes_inside_a_vm_are_not_the_hosts() -> None:
    wanted = policy.demand(InstanceSpec(kind=Kind.VM, pids=500), Overhead(pids=8))
    assert wanted.compute[PIDS] == 8


def test_the_last_unit_fits_and_the_next_does_not() -> None:
    assert policy.fits(row(reserved=10, used=89), 1)
    assert not policy.fits(row(reserved=10, used=90), 1)
    assert policy.fits(row(total=2, ratio_ppm=1_500_000, used=2), 1)
    assert not policy.fits(row(total=2, ratio_ppm=1_499_999, used=2), 1), "no rounding up"


@given(
    total=st.integers(0, 1 << 60),
    reserved=st.integers(0, 1 << 60),
    ratio_ppm=st.integers(PPM, 16 * PPM),
    used=st.integers(0, 1 << 62),
    amount=st.integers(1, 1 << 60),
)
def test_fits_is_the_exact_inequality(total: int, reserved: int, ratio_ppm: int, used: int, amount: int) -> None:
    reserved = min(reserved, total)
    one = row(total, reserved, ratio_ppm, used)
    assert policy.fits(one, amount) == ((used + amount) * PPM <= (total - reserved) * ratio_ppm)
    assert policy.fits(one, amount) == (amount <= one.capacity - used), "the free amount shown is the one that fits"
    assert policy.fits(one, 0)


def test_one_instance_cannot_get_more_cpus_than_there_are() -> None:
    rows = {one.key: one for one in probed_rows(host())}
    assert policy.impossible(rows, Demand(static={}, compute={CPU: 64_000})) == []
    (short,) = policy.impossible(rows, Demand(static={}, compute={CPU: 64_001}))
    assert (short.gate, short.needed, short.capacity) == ("single", 64_001, 64_000)
    assert policy.impossible(rows, Demand(static={}, compute={CPU: 64_100}, overhead={CPU: 100})) == []


def test_every_impossible_resource_is_named() -> None:
    rows = {one.key: one for one in probed_rows(host())}
    found = policy.impossible(rows, Demand(static={INST: 5000}, compute={MEM: 1 << 50, PIDS: 1 << 40}))
    assert {short.key for short in found} == {INST, MEM, PIDS}


def test_amounts_outside_the_step_are_refused() -> None:
    rows = {one.key: one for one in probed_rows(host())}
    (short,) = policy.impossible(rows, Demand(static={}, compute={MEM: 4097}))
    assert short.gate == "unit"


def test_a_resource_that_the_host_lacks_never_fits() -> None:
    (short,) = policy.impossible({}, Demand(static={INST: 1}, compute={}))
    assert (short.gate, short.capacity) == ("capacity", 0)


def test_memory_gate_counts_promises_and_keeps_a_floor() -> None:
    facts = HostFacts(cpus=1, mem_total=8 * GIB, mem_available=4 * GIB)
    most = 4 * GIB - GIB - policy.MEM_FLOOR
    assert policy.short_of_memory(facts, GIB, most, nobody) == []
    (short,) = policy.short_of_memory(facts, GIB, most + 1, nobody)
    assert (short.gate, short.free) == ("available", most)


@pytest.mark.parametrize(("pressure", "gates"), [(None, []), (1000, []), (1001, ["pressure"])])
def test_pressure_gate(pressure: int | None, gates: list[str]) -> None:
    facts = HostFacts(cpus=1, mem_total=8 * GIB, mem_available=8 * GIB, mem_pressure=pressure)
    assert [short.gate for short in policy.short_of_memory(facts, 0, MIB, nobody)] == gates


def test_what_is_resident_is_promised_no_more() -> None:
    claims = [("a", 100), ("b", 100), ("c", 100)]
    assert policy.unused_promises(claims, {"a": 40, "b": 300}) == 60 + 0 + 100


@pytest.mark.parametrize(("available", "short"), [(100, False), (99, True)])
def test_disk_watermark(available: int, short: bool) -> None:
    facts = HostFacts(cpus=1, mem_total=GIB, mem_available=GIB, disk_total=1000, disk_available=available)
    found = policy.short_of_disk(facts, nobody)
    assert [one.key for one in found] == ([DISK_PHYS] if short else [])


def test_never_beats_not_now() -> None:
    short = Shortage(MEM, "capacity", 2, 1, 1, ())
    assert policy.decide([short], [short]).verdict is Verdict.NEVER
    assert policy.decide([], [short]).verdict is Verdict.NOT_NOW
    assert policy.decide([], []) == Decision(Verdict.FITS)


def test_refusal_names_needed_free_and_holders() -> None:
    held = (("db", 8 * GIB), ("win", 2 * GIB))
    mem = Shortage(MEM, "capacity", 2 * GIB, GIB, 11 * GIB, held)
    cpu = Shortage(CPU, "capacity", 1500, 250, 8000, ())
    error = refusal("web", Decision(Verdict.NOT_NOW, (mem, cpu)))
    assert isinstance(error, DoesNotFitNow)
    assert error.exit_code == 75
    assert error.message == (
        "'web' does not fit now: memory needs 2G, free 1G, most held by db 8G, win 2G; CPU needs 1.5, free 0.25"
    )
    assert error.details["verdict"] == "not-now"
    assert error.details["shortages"][0] == {  # type: ignore[index]
        "resource": "mem",
        "pool": "host",
        "gate": "capacity",
        "needed": 2 * GIB,
        "free": GIB,
        "capacity": 11 * GIB,
        "holders": [{"name": "db", "amount": 8 * GIB}, {"name": "win", "amount": 2 * GIB}],
    }


def test_refusal_for_ever() -> None:
    error = refusal("web", Decision(Verdict.NEVER, (Shortage(MEM, "capacity", 99 * GIB, GIB, GIB, ()),)))
    assert isinstance(error, NeverFits)
    assert error.exit_code == 5
    assert error.message == "'web' can never fit on this host: memory needs 99G, the host can give 1G"


@pytest.mark.parametrize("gate", ["capacity", "single", "unit", "available", "pressure", "watermark"])
@pytest.mark.parametrize("verdict", [Verdict.NEVER, Verdict.NOT_NOW])
def test_every_refusal_is_one_line_with_a_hint(gate: str, verdict: Verdict) -> None:
    key = policy.MEM_PRESSURE if gate == "pressure" else DISK_PHYS if gate == "watermark" else MEM
    error = refusal("web", Decision(verdict, (Shortage(key, gate, 1234, 0, 1000, ()),)))
    assert error.hint
    assert "\n" not in error.message + error.hint
