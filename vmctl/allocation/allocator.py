"""The controller: admits claims and moves them through their states, safe against kill -9 at any instant.

The protocol (design, section 10): claim first, body second. ``admit_*`` counts the claims in HELD; :meth:`begin` makes
REALISING durable before any backend is called; :meth:`confirm` follows when the body is there. On the way out
:meth:`abandon` (or ``releasing_*``) makes RELEASING durable before the body is touched, and :meth:`released` lowers
the counters only when the backend has confirmed that it is gone. Whoever dies in between leaves claims that
:meth:`recoverable` hands to the next sweep.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from vmctl.allocation import foreign, recovery, report
from vmctl.allocation.admission import NO_OBSERVATION, Admission, observe
from vmctl.allocation.grant import Grant, Orphan
from vmctl.allocation.inventory import HostFacts, probed_rows
from vmctl.allocation.locks import OwnerLocks
from vmctl.allocation.records import Decision, Demand, NewInstance, Observation
from vmctl.allocation.transitions import busy, give_up, move, needs_owner, open_to_others, step
from vmctl.errors import NotFound, WrongState
from vmctl.ledger import Ledger, claims, instances, inventory
from vmctl.ledger.records import ClaimClass, ClaimRecord, ClaimState, InstanceRecord, Owner, Part
from vmctl.model.ids import new_id
from vmctl.model.observed import Foreign
from vmctl.model.state import Desired, State
from vmctl.model.views import ClaimView, HostResource

PATIENCE_SECONDS = 5.0


class Allocator:
    """All changes of claims go through here. ``facts`` reads the host; ``clock`` gives nanoseconds since the epoch."""

    def __init__(
        self, ledger: Ledger, run_dir: Path, facts: Callable[[], HostFacts], clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._ledger = ledger
        self._locks = OwnerLocks(run_dir / "claims")
        self._facts = facts
        self._clock = clock
        self._admission = Admission(ledger, self._locks, facts, clock)

    # Admission

    def admit_new(
        self,
        new: NewInstance,
        demand: Demand,
        *,
        start: bool,
        session: bool = False,
        observation: Observation = NO_OBSERVATION,
    ) -> Grant:
        """Write the instance with its static claim, and with ``start`` its compute claim, in one transaction (HELD).

        ``session``: the claims die with this process. Raises Conflict (the name is taken), NeverFits, DoesNotFitNow;
        a refusal writes nothing but its event.
        """
        now = self._clock()
        record = InstanceRecord(
            id=new.id,
            name=new.name,
            project=new.project,
            kind=new.kind,
            backend=new.backend,
            spec=new.spec,
            image_digest=new.image_digest,
            desired=Desired.RUNNING if start else Desired.STOPPED,
            state=State.PENDING,
            exit=None,
            created_at=now,
            started_at=None,
            restarts=0,
        )
        lease_until = None if new.spec.ttl is None else now + int(new.spec.ttl * 1_000_000_000)
        parts = tuple(Part) if start else (Part.STATIC,)
        wanted = [_held(record, part, demand, _class(session, lease_until), lease_until, now) for part in parts]

        def prepare(db: sqlite3.Connection) -> list[ClaimRecord]:
            instances.refuse_taken_name(db, new.name)
            return wanted

        return self._admission.admit(record, prepare, demand, observation, new=True)

    def admit_start(
        self,
        instance_id: str,
        demand: Demand,
        *,
        session: bool = False,
        observation: Observation = NO_OBSERVATION,
    ) -> Grant:
        """Claim compute for an instance that exists (HELD).

        Raises NotFound, WrongState (compute is claimed already, or the instance is being made or removed),
        NeverFits, DoesNotFitNow.
        """
        record = self._ledger.instance_by_id(instance_id)
        if record is None:
            raise NotFound(f"no instance with id {instance_id}", hint="see 'vmctl ps -a'")

        def prepare(db: sqlite3.Connection) -> list[ClaimRecord]:
            known = claims.of_instance(db, instance_id)
            static, compute = known.get(Part.STATIC), known.get(Part.COMPUTE)
            if static is None or static.state is not ClaimState.ACTIVE:
                raise busy(record.name, static)
            if compute is not None and compute.state is ClaimState.ACTIVE:
                raise WrongState(f"'{record.name}' is started already", hint="stop it first (vmctl stop)")
            if compute is not None:
                raise busy(record.name, compute)
            until = static.lease_until
            return [_held(record, Part.COMPUTE, demand, _class(session, until), until, self._clock())]

        return self._admission.admit(record, prepare, demand, observation, new=False)

    def explain(
        self, demand: Demand, observation: Observation = NO_OBSERVATION, parts: Iterable[Part] = tuple(Part)
    ) -> Decision:
        """What an admission would say now; by the same code, in a transaction that is rolled back."""
        return self._admission.explain(demand, observation, parts)

    # The protocol

    def begin(self, grant: Grant) -> None:
        """HELD -> REALISING: from here on a backend may be called."""
        self._advance("begin", grant, ClaimState.REALISING, tuple(Part))

    def confirm(self, grant: Grant, *parts: Part) -> None:
        """REALISING -> ACTIVE, for all parts or those named. Durable claims need no owner any more."""
        self._advance("confirm", grant, ClaimState.ACTIVE, parts or tuple(Part))

    def abandon(self, grant: Grant, reason: str, *parts: Part) -> None:
        """Give up all parts or those named: HELD -> RELEASED, REALISING and ACTIVE -> RELEASING. Idempotent."""
        with step(self._ledger, "abandon") as db:
            moved = {
                part: give_up(db, claim, reason)
                for part, claim in self._current(db, grant, parts or tuple(Part)).items()
            }
        self._settle(grant, moved)

    def releasing_compute(self, instance_id: str, reason: str = "stop") -> Grant:
        """The compute claim -> RELEASING, before its body is stopped. Nothing claimed: a grant without claims.

        Waits a few seconds for a living process that is at work on it, then raises WrongState.
        """
        return self._releasing(instance_id, (Part.COMPUTE,), reason)

    def releasing_all(self, instance_id: str, reason: str = "remove") -> Grant:
        """Both claims -> RELEASING, before the body is removed; a session's too, while its owner lives."""
        return self._releasing(instance_id, tuple(Part), reason)

    def released(self, grant: Grant, *parts: Part) -> None:
        """RELEASING -> RELEASED, once the backend has confirmed that what was claimed is no longer used.

        Counters fall here. With its static claim the instance's row goes. Idempotent: the first one wins.
        """
        with step(self._ledger, "released") as db:
            moved: dict[Part, ClaimRecord] = {}
            for part, claim in self._current(db, grant, parts or tuple(Part)).items():
                moved[part] = claim
                if claim.state is not ClaimState.RELEASED:
                    moved[part] = move(db, claim, ClaimState.RELEASED, "gone")
        self._settle(grant, moved)

    # Recovery and observation

    def recoverable(self, limit: int = 64) -> AbstractContextManager[list[Orphan]]:
        """What the sweep must finish, at most ``limit`` instances, locked while the context lasts (rules P5 and P6).

        Asks the ledger only. HELD claims of dead owners are released here: no side effect was possible.
        """
        return recovery.recoverable(self._ledger, self._locks, self._clock(), limit)

    def compute_holders(self) -> list[InstanceRecord]:
        """Instances whose compute claim is ACTIVE: those whose bodies may have ended by themselves."""
        with self._ledger.read() as db:
            return instances.with_active_compute(db)

    @contextmanager
    def owned_compute(self, instance_id: str) -> Iterator[Grant | None]:
        """The instance's ACTIVE compute claim in this process's hands while the context lasts: nobody else can start,
        stop or release it. None: there is no such claim, or a living process is at work on it.
        """
        with self._ledger.read() as db:
            claim = claims.of_instance(db, instance_id).get(Part.COMPUTE)
        was_mine = claim is not None and self._locks.holds(claim.id)
        if claim is None or not self._locks.take(claim.id):
            yield None
            return
        with self._ledger.read() as db:  # again, under the lock
            claim = claims.by_id(db, claim.id) or claim
        grant = Grant(instance_id, [claim], self._locks)
        try:
            yield grant if claim.state is ClaimState.ACTIVE else None
        finally:
            if not was_mine:
                grant.close()

    def observe_foreign(self, seen: list[Foreign], backends: frozenset[str] | None = None) -> bool:
        """Make the claims of project ``_foreign`` what was seen by ``backends`` (None: by all of them).

        They may exceed capacity. True if the ledger changed; without a change nothing is written.
        """
        facts = self._facts()
        with self._ledger.read() as db:
            if not any(foreign.changes(db, seen, backends)) and not inventory.stale(db, probed_rows(facts)):
                return False
        with self._ledger.write() as db:
            observe(db, facts, Observation(foreign=seen, backends=backends), self._clock())
        return True

    # Views

    def claim_views(self, *, released: bool = False) -> list[ClaimView]:
        """Every counted claim, foreign ones included, oldest first; with ``released`` the past ones, too."""
        with self._ledger.read() as db:
            return [report.claim_view(claim) for claim in (claims.every(db) if released else claims.counted(db))]

    def host_resources(self) -> list[HostResource]:
        """Every resource of the host: what there is, what is claimed, what is free."""
        facts = self._facts()
        with self._ledger.rehearse() as db:
            observe(db, facts, NO_OBSERVATION, self._clock())
            return report.host_resources(inventory.read(db), claims.foreign_sums(db), facts)

    def set_resource(
        self, resource: str, *, total: int | None = None, reserved: int | None = None, ratio_ppm: int | None = None
    ) -> None:
        """The administrator's word for one resource (such as ``mem`` or ``disk.virt``); None keeps what is set.

        Raises UsageError: unknown resource, more reserved than there is, or a ratio that is not allowed.
        """
        facts = self._facts()
        with self._ledger.write() as db:
            observe(db, facts, NO_OBSERVATION, self._clock())
            report.set_resource(db, resource, total=total, reserved=reserved, ratio_ppm=ratio_ppm)

    def reset_resource(self, resource: str) -> None:
        """Back to what is probed. Raises UsageError for an unknown resource."""
        facts = self._facts()
        with self._ledger.write() as db:
            observe(db, facts, NO_OBSERVATION, self._clock())
            report.reset_resource(db, resource)

    # Inside

    def _advance(
        self, name: str, grant: Grant, to_state: ClaimState, parts: Iterable[Part]
    ) -> None:
        """Forward along the diagram; a claim that is there already stays."""
        with step(self._ledger, name) as db:
            moved = {
                part: move(db, grant.claims[part], to_state)
                for part in parts
                if part in grant.claims and grant.claims[part].state is not to_state
            }
        self._settle(grant, moved)

    def _releasing(self, instance_id: str, parts: tuple[Part, ...], reason: str) -> Grant:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._try_releasing(instance_id, parts, reason)
            except WrongState:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def _try_releasing(self, instance_id: str, parts: tuple[Part, ...], reason: str) -> Grant:
        taken: list[ClaimRecord] = []
        try:
            with step(self._ledger, "releasing") as db:
                record = instances.by_id(db, instance_id)
                for part, claim in claims.of_instance(db, instance_id).items():
                    if part in parts:
                        if not self._locks.take(claim.id) and not open_to_others(claim):
                            raise busy(record.name if record else claim.name, claim)
                        taken.append(claim)
                moved = {claim.part: give_up(db, claim, reason) for claim in taken}
        except BaseException:
            for claim in taken:
                self._locks.leave(claim.id)
            raise
        grant = Grant(instance_id, taken, self._locks)
        self._settle(grant, moved)
        return grant

    def _current(self, db: sqlite3.Connection, grant: Grant, parts: Iterable[Part]) -> dict[Part, ClaimRecord]:
        """The grant's claims as the ledger has them now."""
        found: dict[Part, ClaimRecord] = {}
        for part in parts:
            if part in grant.claims and (claim := claims.by_id(db, grant.claims[part].id)):
                found[part] = claim
        return found

    def _settle(self, grant: Grant, moved: Mapping[Part, ClaimRecord]) -> None:
        """After the commit: note the new states, and let go of locks that protect nothing any more."""
        for part, claim in moved.items():
            grant.claims[part] = claim
            if not needs_owner(claim):
                self._locks.drop(claim.id)


def _held(
    record: InstanceRecord, part: Part, demand: Demand, claim_class: ClaimClass, lease_until: int | None, now: int
) -> ClaimRecord:
    """A claim of this process, about to be written."""
    return ClaimRecord(
        id=new_id(),
        instance_id=record.id,
        part=part,
        state=ClaimState.HELD,
        claim_class=claim_class,
        name=record.name,
        project=record.project,
        kind=record.kind,
        backend=record.backend,
        amounts=demand.static if part is Part.STATIC else demand.compute,
        overhead={} if part is Part.STATIC else demand.overhead,
        owner=Owner.me(),
        created_at=now,
        lease_until=lease_until,
    )


def _class(session: bool, lease_until: int | None) -> ClaimClass:
    if session:
        return ClaimClass.SESSION
    return ClaimClass.DURABLE if lease_until is None else ClaimClass.LEASE
