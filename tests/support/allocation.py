"""A ledger and an allocator over a host that a test invents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from vmctl.allocation.allocator import Allocator
from vmctl.allocation.inventory import HostFacts
from vmctl.allocation.policy import MEM_FLOOR, demand
from vmctl.allocation.records import Demand, NewInstance
from vmctl.ledger import ClaimClass, ClaimState, Ledger, Part
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


class Bodies:
    """A backend for the protocol: one file per body, which outlives its makers as a daemon's objects do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "bodies"
        self._folder.mkdir(exist_ok=True)

    def start(self, instance_id: str, claim_id: str) -> None:
        (self._folder / instance_id).write_text(claim_id)

    def delete(self, instance_id: str) -> None:
        (self._folder / instance_id).unlink(missing_ok=True)

    def all(self) -> dict[str, str]:
        """Claim ids by instance id."""
        return {path.name: path.read_text() for path in self._folder.iterdir()}


def run_steps(world: World, bodies: Bodies, one: InstanceSpec, *, session: bool = False) -> Iterator[str]:
    """``run`` as ops does it, one step at a time; a session is removed at its end."""
    grant = world.allocator.admit_new(new(one), wanted(one), start=True, session=session)
    yield "held"
    world.allocator.begin(grant)
    yield "realising"
    bodies.start(grant.instance_id, grant.claim_id(Part.STATIC))
    yield "made"
    world.allocator.confirm(grant)
    yield "active"
    if session:
        yield from remove_steps(world, bodies, grant.instance_id)


def remove_steps(world: World, bodies: Bodies, instance_id: str) -> Iterator[str]:
    """``rm -f``, one step at a time."""
    grant = world.allocator.releasing_all(instance_id)
    yield "releasing"
    bodies.delete(instance_id)
    yield "deleted"
    world.allocator.released(grant)
    yield "released"


def stop_steps(world: World, bodies: Bodies, instance_id: str) -> Iterator[str]:
    """``stop``, one step at a time: the body goes here, as its compute does."""
    grant = world.allocator.releasing_compute(instance_id)
    yield "releasing"
    bodies.delete(instance_id)
    yield "stopped"
    world.allocator.released(grant)
    yield "released"


def start_steps(world: World, bodies: Bodies, instance_id: str) -> Iterator[str]:
    """``start`` of a stopped instance, one step at a time."""
    record = world.ledger.instance(instance_id)
    grant = world.allocator.admit_start(instance_id, wanted(record.spec))
    yield "held"
    world.allocator.begin(grant)
    yield "realising"
    bodies.start(instance_id, grant.claim_id(Part.COMPUTE))
    yield "made"
    world.allocator.confirm(grant)
    yield "active"


def sweep(world: World, bodies: Bodies) -> None:
    """Recovery as ops does it: forward where a durable body is complete, else back; then strays (rule P7).

    A body of this backend runs as long as it exists: one without a compute claim is a stray.
    """
    with world.allocator.recoverable() as orphans:
        for orphan in orphans:
            claims = orphan.grant.claims
            forward = all(
                claim.state is ClaimState.REALISING and claim.claim_class is ClaimClass.DURABLE
                for claim in claims.values()
            )
            if forward and orphan.grant.instance_id in bodies.all():
                world.allocator.confirm(orphan.grant)
            else:
                world.allocator.abandon(orphan.grant, "owner died")
                bodies.delete(orphan.grant.instance_id)
                world.allocator.released(orphan.grant)
    # Bodies first, claims after: what is claimed now cannot have been missing when the bodies were listed.
    found = bodies.all()
    counted = {view.instance_id for view in world.allocator.claim_views() if view.part == Part.COMPUTE}
    for instance_id in found.keys() - counted:
        bodies.delete(instance_id)
