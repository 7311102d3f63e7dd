"""A state machine over ledger and allocator: three processes whose steps interleave and who die between any two.

Each invariant of section 15 of the allocation design that exists today is checked after every step, by its number.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.allocation import (
    GIB,
    MIB,
    Bodies,
    World,
    host,
    new,
    remove_steps,
    run_steps,
    spec,
    start_steps,
    stop_steps,
    sweep,
    wanted,
)
from vmctl.allocation import allocator as allocator_module
from vmctl.allocation.policy import MEM_FLOOR
from vmctl.allocation.records import Verdict
from vmctl.errors import Conflict, DoesNotFitNow, NeverFits, NotFound, WrongState
from vmctl.ledger import ClaimState, claims, inventory
from vmctl.ledger.records import COUNTED
from vmctl.model.ids import new_id
from vmctl.model.observed import Foreign
from vmctl.model.resources import PPM
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Kind

PROCESSES = st.integers(0, 2)
NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
MEMORY = st.sampled_from([64 * MIB, 512 * MIB, GIB, 5 * GIB])
REFUSALS = (NeverFits, DoesNotFitNow, Conflict, WrongState, NotFound)


class Process:
    """One vmctl process: its own connection and locks, and one piece of work at some step."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.work: Iterator[str] | None = None

    def die(self) -> None:
        """kill -9: nothing of the work runs any more, the locks are free."""
        self.work = None
        self.world.allocator._locks.close()
        self.world.ledger.close()


class Machine(RuleBasedStateMachine):
    """Rules are what users, crashes, other managers and the hardware do."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vmctl-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.facts = host(slots=4)
        self.processes = [Process(self.folder) for _ in range(3)]
        self.look = World(self.folder)
        self.bodies = Bodies(self.folder)
        self.generations: dict[str, tuple[int, int]] = {}
        self.shrunk = False
        self.requests: list[tuple[str, str]] = []
        self._spread()
        self.look.allocator.observe_foreign([])

    def teardown(self) -> None:
        if not hasattr(self, "look"):
            return
        try:
            self.recover_twice()
        finally:
            for process in self.processes:
                process.die()
            self.look.ledger.close()
            shutil.rmtree(self.folder)

    def _spread(self) -> None:
        for world in [self.look, *(process.world for process in self.processes)]:
            world.facts = self.facts

    def _dump(self) -> list[object]:
        """Every table but the events."""
        with self.look.ledger.read() as db:
            tables = ("pool", "inventory", "instance", "claim", "claim_amount")
            return [[tuple(row) for row in db.execute(f"SELECT * FROM {table} ORDER BY 1, 2")] for table in tables]

    def _start(self, process: Process, work: Iterator[str], refused: tuple[type[Exception], ...]) -> bool:
        """Take up work; I5: a refusal changes nothing, and an admission that is refused is one event."""
        before, seq = self._dump(), self.look.ledger.last_seq()
        try:
            next(work)
        except refused:
            assert self._dump() == before, "I5"
            assert [event.type for event in self.look.ledger.events(seq)] in ([], ["refuse"]), "I5"
            return False
        process.work = work
        return True

    def _idle(self, number: int) -> Process | None:
        process = self.processes[number]
        return process if process.work is None else None

    def _victim(self, choice: int) -> str:
        records = self.look.ledger.instances()
        return records[choice % len(records)].id if records else new_id()

    # Users

    @rule(number=PROCESSES, name=NAMES, memory=MEMORY, session=st.booleans())
    def run(self, number: int, name: str, memory: int, session: bool) -> None:
        if not (process := self._idle(number)):
            return
        one = spec(name, memory=memory)
        taken = name in {record.name for record in self.look.ledger.instances()}
        verdict = process.world.allocator.explain(wanted(one)).verdict
        work = run_steps(process.world, self.bodies, one, session=session)
        granted = self._start(process, work, (NeverFits, DoesNotFitNow, Conflict))
        assert granted == (verdict is Verdict.FITS and not taken), "I29"
        self._check_i3(granted)

    @rule(number=PROCESSES, name=NAMES)
    def create(self, number: int, name: str) -> None:
        if process := self._idle(number):
            self._start(process, create_steps(process.world, spec(name)), (DoesNotFitNow, Conflict))

    @rule(number=PROCESSES, choice=st.integers(0, 9), life=st.sampled_from([start_steps, stop_steps, remove_steps]))
    def change(self, number: int, choice: int, life: Callable[[World, Bodies, str], Iterator[str]]) -> None:
        if not (process := self._idle(number)):
            return
        granted = self._start(process, life(process.world, self.bodies, self._victim(choice)), REFUSALS)
        if life is start_steps:
            self._check_i3(granted)

    @rule(number=PROCESSES)
    def go_on(self, number: int) -> None:
        process = self.processes[number]
        if process.work is not None:
            try:
                next(process.work)
            except StopIteration:
                process.work = None
            except WrongState:  # somebody else was faster: the session's owner and rm -f
                process.work = None

    # Death

    @rule(number=PROCESSES)
    def crash(self, number: int) -> None:
        process = self.processes[number]
        self.requests += self._being_made(process)
        process.die()
        self.processes[number] = Process(self.folder)
        self._spread()

    @precondition(lambda self: self.requests)
    @rule()
    def daemon(self) -> None:
        """P7: a daemon carries out a dead client's request, perhaps long after recovery."""
        self.bodies.start(*self.requests.pop())

    @rule(number=PROCESSES)
    def recover(self, number: int) -> None:
        if process := self._idle(number):
            sweep(process.world, self.bodies)

    @rule()
    def recover_twice(self) -> None:
        """I18: all die; after recovery only durable claims are left, nothing stray, and a second one does nothing."""
        for process in self.processes:
            process.die()
        self.processes = [Process(self.folder) for _ in range(3)]
        self._spread()
        sweep(self.look, self.bodies)
        settled, seq = self._dump(), self.look.ledger.last_seq()
        sweep(self.look, self.bodies)
        assert (self._dump(), self.look.ledger.last_seq()) == (settled, seq), "I18"
        own = [view for view in self.look.allocator.claim_views() if view.state != "FOREIGN"]
        assert all((view.state, view.claim_class) == ("ACTIVE", "durable") for view in own), "I18"
        assert self.bodies.all().keys() == {view.instance_id for view in own if view.part == "compute"}, "I18"
        assert not self.look.allocator._locks.files(), "I18"

    # The rest of the world

    @rule(memory=st.lists(MEMORY, max_size=2))
    def foreign(self, memory: list[int]) -> None:
        seen = [
            Foreign(
                backend="docker",
                native_name=f"f{index}",
                kind=Kind.CONTAINER,
                running=True,
                cpu_millis=100,
                memory=amount,
            )
            for index, amount in enumerate(memory)
        ]
        self.shrunk = True
        self.look.allocator.observe_foreign(seen)

    @rule(slots=st.sampled_from([2, 4, 8]))
    def hardware(self, slots: int) -> None:
        self.facts = msgspec.structs.replace(host(slots=slots), mem_available=64 * GIB + MEM_FLOOR)
        self.shrunk = True
        self._spread()
        self.look.allocator.observe_foreign([], backends=frozenset())  # noted now, so that I5 can be judged later

    @precondition(lambda self: self.look.ledger.instances())
    @rule(choice=st.integers(0, 9), name=NAMES)
    def rename(self, choice: int, name: str) -> None:
        try:
            self.look.ledger.rename(self._victim(choice), name)
        except Conflict:
            assert name in {record.name for record in self.look.ledger.instances()}

    # What must always hold

    def _check_i3(self, granted: bool) -> None:
        if granted:
            with self.look.ledger.read() as db:
                for row in inventory.read(db).values():
                    assert row.used * PPM <= (row.total - row.reserved) * row.ratio_ppm, "I3"

    def _being_made(self, process: Process) -> list[tuple[str, str]]:
        held = set(process.world.allocator._locks._held)
        return [
            (view.instance_id, view.id)
            for view in self.look.allocator.claim_views()
            if view.state == "REALISING" and view.part == "compute" and view.id in held and view.instance_id
        ]

    @invariant()
    def ledger_agrees_with_itself(self) -> None:
        """I1 counters are sums; I17 replay of the events gives the tables, every prefix >= 0; the chain holds."""
        if hasattr(self, "look"):
            assert self.look.ledger.fsck() == []

    @invariant()
    def capacity_is_kept(self) -> None:
        """I8 (and the same for every resource) unless hardware or strangers made it over-committed."""
        if hasattr(self, "look") and not self.shrunk:
            for row in self.look.allocator.host_resources():
                assert row.claimed <= row.capacity, "I8"

    @invariant()
    def bodies_have_claims(self) -> None:
        """I15 and I16: a body's claim row exists; what is RELEASED is in no counter."""
        if not hasattr(self, "look"):
            return
        for claim_id in self.bodies.all().values():
            assert self.look.ledger.claim(claim_id) is not None, "I16"
        with self.look.ledger.read() as db:
            for row in db.execute("SELECT DISTINCT state FROM claim JOIN claim_amount ON claim_id = claim.id"):
                assert ClaimState(row["state"]) in COUNTED, "I15"
            amounts = [claim.amounts for claim in claims.counted(db)]
        assert all(amounts), "I15: and what is counted has amounts"

    @invariant()
    def generations_rise(self) -> None:
        """I14: a pool whose inventory or claims changed has a higher generation."""
        if not hasattr(self, "look"):
            return
        with self.look.ledger.read() as db:
            for row in db.execute("SELECT name, generation FROM pool"):
                query = "SELECT * FROM inventory WHERE pool = ? ORDER BY resource"
                content = hash(tuple(tuple(one) for one in db.execute(query, (row["name"],))))
                before, known = self.generations.get(row["name"], (-1, 0))
                assert row["generation"] > before or (row["generation"], content) == (before, known), "I14"
                self.generations[row["name"]] = (row["generation"], content)


def create_steps(world: World, one: InstanceSpec) -> Iterator[str]:
    """``create``: the static part only; the body of this backend exists while it runs."""
    grant = world.allocator.admit_new(new(one), wanted(one), start=False)
    yield "held"
    world.allocator.begin(grant)
    yield "realising"
    world.allocator.confirm(grant)
    yield "active"


def test_allocation_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator_module, "PATIENCE_SECONDS", -1.0)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=50, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
