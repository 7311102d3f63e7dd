"""The audit trail: append-only rows, each hashed together with the one before it.

Used inside a transaction of :class:`vmctl.ledger.database.Database`.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping

import msgspec

from vmctl.ledger.records import ClaimRecord, EventRecord, boot_id
from vmctl.model.resources import ResourceKey

GENESIS = "0" * 64


def append(
    db: sqlite3.Connection,
    event_type: str,
    *,
    instance_id: str = "",
    name: str = "",
    kind: str = "",
    claim_id: str = "",
    from_state: str = "",
    to_state: str = "",
    delta: Mapping[ResourceKey, int] | None = None,
    detail: str = "",
) -> None:
    """Add one event; the actor is this process."""
    last = db.execute("SELECT seq, hash FROM event ORDER BY seq DESC LIMIT 1").fetchone()
    seq, previous = (last["seq"] + 1, last["hash"]) if last else (1, GENESIS)
    event = EventRecord(
        seq=seq,
        at=time.time_ns(),
        mono=time.monotonic_ns(),
        boot_id=boot_id(),
        uid=os.getuid(),
        pid=os.getpid(),
        type=event_type,
        instance_id=instance_id,
        name=name,
        kind=kind,
        claim_id=claim_id,
        from_state=from_state,
        to_state=to_state,
        delta={str(key): amount for key, amount in (delta or {}).items()},
        detail=detail,
        hash="",
    )
    row = msgspec.structs.asdict(event)
    row["delta"] = _encode_delta(event.delta)
    row["hash"] = _digest(previous, event)
    db.execute(
        "INSERT INTO event (seq, at, mono, boot_id, uid, pid, type, instance_id, name, kind, claim_id, from_state,"
        " to_state, delta, detail, hash) VALUES (:seq, :at, :mono, :boot_id, :uid, :pid, :type, :instance_id, :name,"
        " :kind, :claim_id, :from_state, :to_state, :delta, :detail, :hash)",
        row,
    )


def append_move(
    db: sqlite3.Connection, claim: ClaimRecord, from_state: str, to_state: str, sign: int, detail: str
) -> None:
    """One claim's change of state; ``sign`` +1, 0 or -1 says what became of the counters."""
    append(
        db,
        "claim",
        instance_id=claim.instance_id or "",
        name=claim.name,
        kind=claim.kind or "",
        claim_id=claim.id,
        from_state=from_state,
        to_state=to_state,
        delta={key: sign * amount for key, amount in claim.amounts.items()} if sign else {},
        detail=detail,
    )


def since(db: sqlite3.Connection, seq: int, instance_id: str | None = None) -> Iterator[EventRecord]:
    """Events after ``seq``, oldest first; of one instance, or of all."""
    if instance_id is None:
        rows = db.execute("SELECT * FROM event WHERE seq > ? ORDER BY seq", (seq,))
    else:
        rows = db.execute("SELECT * FROM event WHERE seq > ? AND instance_id = ? ORDER BY seq", (seq, instance_id))
    for row in rows:
        yield EventRecord(**{**dict(row), "delta": msgspec.json.decode(row["delta"], type=dict[str, int])})


def broken_links(db: sqlite3.Connection) -> list[str]:
    """Where the hash chain does not hold: changed, missing, or re-ordered events, and a cut-off end."""
    problems: list[str] = []
    expected, previous = 1, GENESIS
    for event in since(db, 0):
        if event.seq != expected:
            problems.append(f"events {expected} to {event.seq - 1} are missing")
        elif event.hash != _digest(previous, event):
            problems.append(f"event {event.seq} was changed")
        expected, previous = event.seq + 1, event.hash
    given_out = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
    if given_out and given_out["seq"] >= expected:
        problems.append(f"events {expected} to {given_out['seq']} are missing")
    return problems


def _encode_delta(delta: dict[str, int]) -> str:
    return msgspec.json.encode(delta, order="sorted").decode()


def _digest(previous: str, event: EventRecord) -> str:
    body = msgspec.json.encode(msgspec.structs.replace(event, hash=previous), order="sorted")
    return hashlib.sha256(body).hexdigest()
