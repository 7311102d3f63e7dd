"""The moment of decision: one transaction that reads the use, applies the policy and writes the claims."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from vmctl.allocation import foreign, policy
from vmctl.allocation.grant import Grant
from vmctl.allocation.inventory import MEM, HostFacts, probed_rows
from vmctl.allocation.locks import OwnerLocks
from vmctl.allocation.records import Decision, Demand, Observation, Verdict
from vmctl.allocation.refusal import refusal
from vmctl.allocation.transitions import step
from vmctl.errors import Conflict, NotFound, VmctlError
from vmctl.ledger import Ledger, claims, events, instances, inventory
from vmctl.ledger.records import ClaimRecord, InstanceRecord, Part
from vmctl.model.resources import ResourceKey

HOLDERS_SHOWN = 3
NO_OBSERVATION = Observation()

Prepare = Callable[[sqlite3.Connection], list[ClaimRecord]]
"""Gives the claims that are wanted; raises Conflict, WrongState or NotFound to refuse. Reads only."""


class _Answer(NamedTuple):
    """``unsure``: the refusal rests on an upper bound; ask again with what is really resident."""

    decision: Decision
    unsure: bool


class Admission:
    """Admits claims or refuses them; a refusal writes its event and what was just observed of the host, no more."""

    def __init__(
        self, ledger: Ledger, locks: OwnerLocks, facts: Callable[[], HostFacts], clock: Callable[[], int]
    ) -> None:
        self._ledger = ledger
        self._locks = locks
        self._facts = facts
        self._clock = clock

    def admit(
        self, record: InstanceRecord, prepare: Prepare, demand: Demand, observation: Observation, *, new: bool
    ) -> Grant:
        """Write what ``prepare`` wants in state HELD, and the instance's row if it is ``new``; or raise the refusal."""
        facts = self._facts()
        residents: Mapping[str, int] | None = None
        while True:
            wanted: list[ClaimRecord] = []
            error: VmctlError | None = None
            unsure = False
            try:
                with step(self._ledger, "admit") as db:
                    observe(db, facts, observation, self._clock())
                    try:
                        wanted = prepare(db)
                        decision, unsure = decide(db, demand, {claim.part for claim in wanted}, facts, residents)
                        if decision.verdict is not Verdict.FITS:
                            error = refusal(record.name, decision)
                    except (Conflict, NotFound) as refused:
                        error = refused
                    if error is None:
                        self._write(db, record if new else None, wanted)
                    elif not unsure:
                        _note_refusal(db, record, error)
            except BaseException:
                for claim in wanted:
                    self._locks.drop(claim.id)
                raise
            if error is None:
                return Grant(record.id, wanted, self._locks)
            if not unsure:
                raise error
            residents = _residents(observation)

    def explain(self, demand: Demand, observation: Observation, parts: Iterable[Part]) -> Decision:
        """What :meth:`admit` would decide; by the same code, in transactions that are rolled back."""
        facts = self._facts()
        residents: Mapping[str, int] | None = None
        while True:
            with self._ledger.rehearse() as db:
                observe(db, facts, observation, self._clock())
                decision, unsure = decide(db, demand, set(parts), facts, residents)
            if not unsure:
                return decision
            residents = _residents(observation)

    def _write(self, db: sqlite3.Connection, new: InstanceRecord | None, wanted: list[ClaimRecord]) -> None:
        if new is not None:
            instances.insert(db, new)
        for claim in wanted:
            self._locks.take(claim.id)  # a fresh id: nobody can have it
            claims.insert(db, claim)


def observe(db: sqlite3.Connection, facts: HostFacts, observation: Observation, now: int) -> None:
    """Bring inventory and foreign claims up to date; writes only what differs."""
    if stale := inventory.stale(db, probed_rows(facts)):
        inventory.put(db, stale)
        events.append(db, "inventory", detail=", ".join(f"{row.key}={row.total}" for row in stale))
    seen = observation.foreign
    if seen is not None and any(changes := foreign.changes(db, seen, observation.backends)):
        foreign.write(db, changes, now)


def decide(
    db: sqlite3.Connection,
    demand: Demand,
    parts: Iterable[Part],
    facts: HostFacts,
    residents: Mapping[str, int] | None,
) -> _Answer:
    """The answer for these parts of a demand, beside everything that is counted.

    Without ``residents`` the counter stands for what is promised and not yet used: an upper bound that costs nothing,
    and enough as long as memory is plentiful.
    """
    rows = inventory.read(db)
    if never := policy.impossible(rows, demand):
        return _Answer(policy.decide(never, []), unsure=False)

    def holders(key: ResourceKey) -> tuple[tuple[str, int], ...]:
        return claims.holders(db, key, HOLDERS_SHOWN)

    short = []
    if Part.STATIC in parts:
        short += policy.short_now(rows, demand.static, holders) + policy.short_of_disk(facts, holders)
    if Part.COMPUTE in parts:
        promised = rows[MEM].used
        if residents is not None:
            promised = policy.unused_promises(claims.promises(db, MEM), residents)
        short += policy.short_now(rows, demand.compute, holders)
        short += policy.short_of_memory(facts, promised, demand.compute.get(MEM, 0), holders)
    if residents is None and len(sure := [one for one in short if one.gate != "available"]) < len(short):
        # Where something else is short, the bound must not be shown as a fact; where not, only real use can tell.
        return _Answer(policy.decide([], sure or short), unsure=not sure)
    return _Answer(policy.decide([], short), unsure=False)


def _residents(observation: Observation) -> Mapping[str, int]:
    return {**foreign.residents(observation.foreign or ()), **observation.residents()}


def _note_refusal(db: sqlite3.Connection, record: InstanceRecord, error: VmctlError) -> None:
    events.append(
        db, "refuse", instance_id=record.id, name=record.name, kind=record.kind, detail=f"{error.code}: {error.message}"
    )
