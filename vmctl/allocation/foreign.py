"""Workloads that vmctl did not start, as claims that are counted and never owned (design, section 12)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from vmctl.allocation.inventory import CPU, MEM
from vmctl.ledger import claims
from vmctl.ledger.records import ClaimClass, ClaimRecord, ClaimState, Part
from vmctl.model.ids import new_id
from vmctl.model.observed import Foreign
from vmctl.model.resources import ResourceKey

PROJECT = "_foreign"

# A container without a limit is counted by its measured use, which changes with every look: rounded up, so that the
# ledger is written only when it matters.
_MEMORY_GRAIN = 16 << 20
_CPU_GRAIN = 10


class Changes(NamedTuple):
    """What differs between the ledger and what was seen."""

    gone: list[ClaimRecord]
    new: list[Foreign]


def changes(db: sqlite3.Connection, seen: Iterable[Foreign], backends: frozenset[str] | None = None) -> Changes:
    """Compare with what ``backends`` (None: all) had; a workload that grew or shrank is one gone and one new."""
    now = {foreign_key(one): one for one in seen if one.running}
    known = {
        f"{claim.backend}/{claim.name}": claim
        for claim in claims.foreign(db)
        if backends is None or claim.backend in backends
    }
    same = {key for key, claim in known.items() if key in now and claim.amounts == _amounts(now[key])}
    return Changes(
        gone=[claim for key, claim in known.items() if key not in same],
        new=[one for key, one in now.items() if key not in same],
    )


def write(db: sqlite3.Connection, what: Changes, clock: int) -> None:
    """Write the difference; the sum may exceed capacity (then nothing new fits until it falls)."""
    for claim in what.gone:
        claims.move(db, claim, ClaimState.RELEASED, owner=None, detail="no longer seen")
    for one in what.new:
        claims.insert(
            db,
            ClaimRecord(
                id=new_id(),
                instance_id=None,
                part=Part.COMPUTE,
                state=ClaimState.FOREIGN,
                claim_class=ClaimClass.DURABLE,
                name=one.native_name,
                project=PROJECT,
                kind=one.kind,
                backend=one.backend,
                amounts=_amounts(one),
                overhead={},
                owner=None,
                created_at=clock,
            ),
            "seen",
        )


def foreign_key(one: Foreign) -> str:
    """Names a foreign workload; the same text as :func:`vmctl.ledger.claims.promises` uses."""
    return f"{one.backend}/{one.native_name}"


def residents(seen: Iterable[Foreign]) -> Mapping[str, int]:
    """Bytes in use by foreign workload."""
    return {foreign_key(one): one.resident for one in seen}


def _amounts(one: Foreign) -> dict[ResourceKey, int]:
    grown = {CPU: _round_up(one.cpu_millis, _CPU_GRAIN), MEM: _round_up(one.memory, _MEMORY_GRAIN)}
    return {key: amount for key, amount in grown.items() if amount}


def _round_up(amount: int, grain: int) -> int:
    return -(-amount // grain) * grain
