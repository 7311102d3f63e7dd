"""A ledger and an allocator over a host that a test invents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vmctl.allocation.allocator import Allocator
from vmctl.allocation.inventory import HostFacts
from vmctl.allocation.policy import MEM_FLOOR, demand
from vmctl.allocation.records import Demand, NewInstance
from vmctl.ledger import Ledger
from vmctl.model.ids import new_id
from vmctl.model.observed import Overhead
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Kind

MIB = 1 << 20
GIB = 1 << 30


def host(slots: int = 8, memory: int = 512 * MIB) -> HostFacts:
    """A host with memory for exactly ``slots`` instances of ``memory`` bytes, and plenty of everything else."""
    usable = slots * memory
    total = next(total for total in range(usable, 3 * usable + 4 * GIB, MIB) if total - max(GIB, total // 20) >= usable)
    return HostFacts(
        cpus=64,
        mem_total=total,
        mem_available=total + MEM_FLOOR,  # the first gate decides
        pids=1 << 20,
        disk_total=1 << 40,
        disk_available=1 << 40,
    )


class World:
    """Ledger and allocator below ``folder``, as one process has them; ``facts`` can be replaced at any time."""

    def __init__(self, folder: Path, facts: HostFacts | None = None, clock: Callable[[], int] | None = None) -> None:
        self.folder = folder
        self.facts = facts or host()
        self.ledger = Ledger.open(folder / "ledger.db", folder / "run")
        arguments = (self.ledger, folder / "run", lambda: self.facts)
        self.allocator = Allocator(*arguments, clock) if clock else Allocator(*arguments)

    def used(self, resource: str = "mem") -> int:
        return next(row.claimed for row in self.allocator.host_resources() if row.resource == resource)


def spec(name: str = "web", **fields: object) -> InstanceSpec:
    """A small app: 512 MiB, 100 millicpu."""
    return InstanceSpec(**{"kind": Kind.APP, "name": name, "cpu_millis": 100, "pids": 16, **fields})


def new(one: InstanceSpec) -> NewInstance:
    return NewInstance(id=new_id(), name=one.name, spec=one, kind=one.kind, backend="fake", project=one.project)


def wanted(one: InstanceSpec) -> Demand:
    return demand(one, Overhead())
