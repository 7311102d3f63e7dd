"""Whether a demand fits: pure functions over rows of numbers, no I/O, no clock.

The gates, named in every refusal:

``capacity``   counters against (total - reserved) * ratio, without rounding
``single``     one instance can never get more CPUs or memory than the host has, whatever the ratio
``unit``       an amount outside the inventory's min, max or step
``available``  memory that is free in fact, less what is promised and not yet used, at start
``pressure``   tasks already wait for memory (PSI)
``watermark``  the storage pool is filled too far to make new disks
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from vmctl.allocation.inventory import CPU, DISK_PHYS, DISK_VIRT, INST, MEM, PIDS, HostFacts
from vmctl.allocation.records import Decision, Demand, Verdict
from vmctl.ledger.records import InventoryRow
from vmctl.model.observed import Overhead
from vmctl.model.resources import PPM, ResourceKey, Shortage, Vector
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Kind
from vmctl.units import round_up_to_page

MEM_FLOOR = 256 << 20
"""Bytes that must stay available for the host after a start, beside the reserve that is never claimed."""

MAX_PRESSURE = 1000       # hundredths of a percent: 10 % of the time somebody waits for memory
STOP_WATERMARK_PPM = 900_000

SINGLE = frozenset({CPU, MEM})
MEM_PRESSURE = ResourceKey("host", "mem.pressure")

Holders = Callable[[ResourceKey], tuple[tuple[str, int], ...]]
Inventory = Mapping[ResourceKey, InventoryRow]


def demand(spec: InstanceSpec, overhead: Overhead) -> Demand:
    """What an instance of this spec holds: its static part from create to rm, its compute from start to its end.

    The processes inside a VM are the guest kernel's, not ours: of pids it holds its overhead only.
    """
    inside = 0 if spec.kind is Kind.VM else spec.pids
    extra = {CPU: overhead.cpu_millis, MEM: round_up_to_page(overhead.memory), PIDS: overhead.pids}
    asked = {CPU: spec.cpu_millis, MEM: round_up_to_page(spec.memory), PIDS: inside}
    return Demand(
        static=_without_zeros({INST: 1, DISK_VIRT: spec.disk}),
        compute=_without_zeros({key: asked[key] + extra[key] for key in asked}),
        overhead=_without_zeros(extra),
    )


def fits(row: InventoryRow, amount: int) -> bool:
    """The capacity check, exact: ``(used + amount) * 10^6 <= (total - reserved) * ratio_ppm``.

    What does not raise the use always fits, also where the total has fallen below it.
    """
    return amount <= 0 or (row.used + amount) * PPM <= (row.total - row.reserved) * row.ratio_ppm


def impossible(inventory: Inventory, wanted: Demand) -> list[Shortage]:
    """What can never be granted, even to the only instance of the host."""
    found: list[Shortage] = []
    for key, amount in {**wanted.static, **wanted.compute}.items():
        row = inventory.get(key)
        if row is None:
            found.append(Shortage(key, "capacity", amount, 0, 0, ()))
            continue
        asked = amount - wanted.overhead.get(key, 0)
        empty = InventoryRow(key=key, total=row.total, reserved=row.reserved, ratio_ppm=row.ratio_ppm)
        if key in SINGLE and asked > row.total:
            most = min(row.total, row.capacity)
            found.append(Shortage(key, "single", asked, most, most, ()))
        elif not fits(empty, amount):
            found.append(Shortage(key, "capacity", amount, row.capacity, row.capacity, ()))
        elif not _is_unit(row, amount):
            found.append(Shortage(key, "unit", amount, row.max_unit or 0, row.capacity, ()))
    return found


def short_now(inventory: Inventory, amounts: Vector, holders: Holders) -> list[Shortage]:
    """The first gate: what does not fit beside what is claimed."""
    return [
        Shortage(key, "capacity", amount, max(0, row.capacity - row.used), row.capacity, holders(key))
        for key, amount in amounts.items()
        if not fits(row := inventory[key], amount)
    ]


def short_of_memory(facts: HostFacts, promised: int, amount: int, holders: Holders) -> list[Shortage]:
    """The second gate, at start: ``available - promised - floor >= amount``, and nobody waits for memory already.

    ``promised``: the sum over admitted claims of what they have not touched yet, see :func:`unused_promises`.
    """
    found: list[Shortage] = []
    free = facts.mem_available - promised - MEM_FLOOR
    if amount > free:
        found.append(Shortage(MEM, "available", amount, max(0, free), facts.mem_total, holders(MEM)))
    if facts.mem_pressure is not None and facts.mem_pressure > MAX_PRESSURE:
        found.append(Shortage(MEM_PRESSURE, "pressure", facts.mem_pressure, 0, MAX_PRESSURE, holders(MEM)))
    return found


def unused_promises(claims: Iterable[tuple[str, int]], residents: Mapping[str, int]) -> int:
    """Bytes that admitted claims may still take: the sum of (claimed - resident), where positive."""
    return sum(max(0, claimed - residents.get(name, 0)) for name, claimed in claims)


def short_of_disk(facts: HostFacts, holders: Holders) -> list[Shortage]:
    """No new disk once the file system is filled to the stop watermark, whoever filled it."""
    limit = facts.disk_total * STOP_WATERMARK_PPM // PPM
    if facts.disk_used <= limit:
        return []
    return [Shortage(DISK_PHYS, "watermark", facts.disk_used, 0, limit, holders(DISK_VIRT))]


def decide(never: list[Shortage], now: list[Shortage]) -> Decision:
    """Never beats not now; nothing short means it fits."""
    if never:
        return Decision(Verdict.NEVER, tuple(never))
    return Decision(Verdict.NOT_NOW, tuple(now)) if now else Decision(Verdict.FITS)


def _is_unit(row: InventoryRow, amount: int) -> bool:
    return row.min_unit <= amount <= (row.max_unit or amount) and amount % row.step == 0


def _without_zeros(amounts: dict[ResourceKey, int]) -> dict[ResourceKey, int]:
    return {key: amount for key, amount in amounts.items() if amount}
