"""Claim rows and their amounts. Used inside a transaction of :class:`vmctl.ledger.database.Database`.

Every change of a claim's state goes through :func:`insert` or :func:`move`: state, counters and event in one
transaction (rule P1 of the allocation design).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from typing import NamedTuple

from vmctl.ledger import events, inventory
from vmctl.ledger.records import COUNTED, MOVES, ClaimClass, ClaimRecord, ClaimState, Owner, Part
from vmctl.model.resources import ResourceKey
from vmctl.model.state import Kind


class Holder(NamedTuple):
    """Who holds how much of one resource."""

    name: str
    amount: int


def insert(db: sqlite3.Connection, claim: ClaimRecord, detail: str = "") -> None:
    """Add a claim in a counted state, raise the counters, write the event."""
    now = time.time_ns()
    owner = claim.owner
    db.execute(
        "INSERT INTO claim (id, instance_id, part, state, class, name, project, kind, backend, lease_until, owner_pid,"
        " owner_starttime, owner_boot_id, created_at, changed_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            claim.id,
            claim.instance_id,
            claim.part,
            claim.state,
            claim.claim_class,
            claim.name,
            claim.project,
            claim.kind,
            claim.backend,
            claim.lease_until,
            owner.pid if owner else None,
            owner.starttime if owner else None,
            owner.boot_id if owner else None,
            claim.created_at,
            now,
        ),
    )
    db.executemany(
        "INSERT INTO claim_amount (claim_id, pool, resource, amount, overhead) VALUES (?, ?, ?, ?, ?)",
        [(claim.id, *key, amount, claim.overhead.get(key, 0)) for key, amount in claim.amounts.items()],
    )
    inventory.add(db, claim.amounts, +1)
    events.append_move(db, claim, "", claim.state, +1, detail)


def move(
    db: sqlite3.Connection, claim: ClaimRecord, to_state: ClaimState, *, owner: Owner | None, detail: str = ""
) -> bool:
    """Compare-and-swap from ``claim.state`` to ``to_state``. False: somebody else moved it first.

    A move out of the counted states lowers the counters and drops the amounts, in this transaction.
    """
    if (claim.state, to_state) not in MOVES:
        raise ValueError(f"a claim cannot go from {claim.state} to {to_state}")
    changed = db.execute(
        "UPDATE claim SET state = ?, generation = generation + 1, changed_at = ?, owner_pid = ?, owner_starttime = ?,"
        " owner_boot_id = ? WHERE id = ? AND state = ?",
        (
            to_state,
            time.time_ns(),
            owner.pid if owner else None,
            owner.starttime if owner else None,
            owner.boot_id if owner else None,
            claim.id,
            claim.state,
        ),
    )
    if changed.rowcount != 1:
        return False
    leaves = to_state not in COUNTED
    if leaves:
        inventory.add(db, claim.amounts, -1)
        db.execute("DELETE FROM claim_amount WHERE claim_id = ?", (claim.id,))
    else:
        inventory.touch(db, {key.pool for key in claim.amounts})
    events.append_move(db, claim, claim.state, to_state, -1 if leaves else 0, detail)
    return True


def by_id(db: sqlite3.Connection, claim_id: str) -> ClaimRecord | None:
    """A claim in any state (without amounts once it is not counted any more)."""
    return _one(db, db.execute("SELECT * FROM claim WHERE id = ?", (claim_id,)))


def of_instance(db: sqlite3.Connection, instance_id: str) -> dict[Part, ClaimRecord]:
    """The counted claims of an instance."""
    rows = db.execute("SELECT * FROM claim WHERE instance_id = ? AND counted", (instance_id,))
    return {claim.part: claim for claim in _records(db, rows)}


def counted(db: sqlite3.Connection) -> list[ClaimRecord]:
    """Every counted claim, foreign ones included, oldest first."""
    return _records(db, db.execute("SELECT * FROM claim WHERE counted ORDER BY created_at, id"))


def every(db: sqlite3.Connection) -> list[ClaimRecord]:
    """Every claim that ever was, oldest first; those that are not counted any more have no amounts."""
    return _records(db, db.execute("SELECT * FROM claim ORDER BY created_at, id"))


def foreign(db: sqlite3.Connection) -> list[ClaimRecord]:
    return _records(db, db.execute("SELECT * FROM claim WHERE state = 'FOREIGN' ORDER BY id"))


def suspects(db: sqlite3.Connection, now: int) -> list[ClaimRecord]:
    """Claims that are nobody's business but their owner's, and the sweep's when the owner is dead.

    In motion, or a session, or with a lease that ended before ``now`` (nanoseconds since the epoch). Three index scans.
    """
    rows = db.execute(
        "SELECT * FROM claim WHERE state IN ('HELD', 'REALISING', 'RESIZING', 'RELEASING')"
        " UNION SELECT * FROM claim WHERE state = 'ACTIVE' AND class = 'session'"
        " UNION SELECT * FROM claim WHERE state = 'ACTIVE' AND lease_until IS NOT NULL AND lease_until < ?",
        (now,),
    )
    return _records(db, rows)


def holders(db: sqlite3.Connection, key: ResourceKey, limit: int) -> tuple[Holder, ...]:
    """Who holds most of a resource, the largest first (the parts of an instance together)."""
    rows = db.execute(
        "SELECT claim.name, sum(amount) AS held FROM claim_amount JOIN claim ON claim.id = claim_id"
        " WHERE pool = ? AND resource = ? GROUP BY coalesce(instance_id, claim.id)"
        " ORDER BY held DESC, claim.name LIMIT ?",
        (*key, limit),
    )
    return tuple(Holder(row["name"], row["held"]) for row in rows)


def foreign_sums(db: sqlite3.Connection) -> dict[ResourceKey, int]:
    """What foreign workloads hold, by resource."""
    rows = db.execute(
        "SELECT pool, resource, sum(amount) AS held FROM claim_amount JOIN claim ON claim.id = claim_id"
        " WHERE state = 'FOREIGN' GROUP BY pool, resource"
    )
    return {ResourceKey(row["pool"], row["resource"]): row["held"] for row in rows}


def sums(db: sqlite3.Connection) -> dict[ResourceKey, int]:
    """The sum over all counted claims, added up from the rows: what the counters must say."""
    rows = db.execute("SELECT pool, resource, sum(amount) AS held FROM claim_amount GROUP BY pool, resource")
    return {ResourceKey(row["pool"], row["resource"]): row["held"] for row in rows}


def _one(db: sqlite3.Connection, rows: Iterable[sqlite3.Row]) -> ClaimRecord | None:
    found = _records(db, rows)
    return found[0] if found else None


def _records(db: sqlite3.Connection, rows: Iterable[sqlite3.Row]) -> list[ClaimRecord]:
    return [_record(db, row) for row in list(rows)]


def _record(db: sqlite3.Connection, row: sqlite3.Row) -> ClaimRecord:
    amounts: dict[ResourceKey, int] = {}
    overhead: dict[ResourceKey, int] = {}
    parts = db.execute("SELECT pool, resource, amount, overhead FROM claim_amount WHERE claim_id = ?", (row["id"],))
    for part in parts:
        key = ResourceKey(part["pool"], part["resource"])
        amounts[key] = part["amount"]
        if part["overhead"]:
            overhead[key] = part["overhead"]
    owned = row["owner_pid"] is not None
    return ClaimRecord(
        id=row["id"],
        instance_id=row["instance_id"],
        part=Part(row["part"]),
        state=ClaimState(row["state"]),
        claim_class=ClaimClass(row["class"]),
        name=row["name"],
        project=row["project"],
        kind=Kind(row["kind"]) if row["kind"] else None,
        backend=row["backend"],
        amounts=amounts,
        overhead=overhead,
        owner=Owner(row["owner_pid"], row["owner_starttime"], row["owner_boot_id"]) if owned else None,
        created_at=row["created_at"],
        lease_until=row["lease_until"],
        generation=row["generation"],
    )


def promises(db: sqlite3.Connection, key: ResourceKey) -> list[tuple[str, int]]:
    """(instance id, or ``backend/name`` of a foreign workload; amount) of every counted claim on ``key``."""
    rows = db.execute(
        "SELECT coalesce(instance_id, backend || '/' || claim.name) AS who, amount"
        " FROM claim_amount JOIN claim ON claim.id = claim_id WHERE pool = ? AND resource = ?",
        key,
    )
    return [(row["who"], row["amount"]) for row in rows]
