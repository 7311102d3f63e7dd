"""Does the ledger agree with itself? Counters against rows, rows against the audit trail, the trail against its hashes.

Used inside a transaction of :class:`vmctl.ledger.database.Database`.
"""

from __future__ import annotations

import sqlite3
from collections import Counter

from vmctl.ledger import claims, events, inventory
from vmctl.ledger.records import COUNTED, MOVES, ClaimState, parse_key
from vmctl.model.resources import ResourceKey


def problems(db: sqlite3.Connection) -> list[str]:
    """Everything that is wrong, in words."""
    damage = [str(row[0]) for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]
    if damage:
        return [f"database: {line}" for line in damage]
    return [*_counters(db), *_replay(db), *_instances(db), *events.broken_links(db)]


def _counters(db: sqlite3.Connection) -> list[str]:
    sums = claims.sums(db)
    return [
        f"counter of {key} says {row.used}, its claims add up to {sums.get(key, 0)}"
        for key, row in inventory.read(db).items()
        if row.used != sums.get(key, 0)
    ]


def _replay(db: sqlite3.Connection) -> list[str]:
    """Play the events again: only moves of the diagram, no counter below zero, and at the end what the tables say."""
    found: list[str] = []
    states: dict[str, str] = {}
    used: Counter[ResourceKey] = Counter()
    for event in events.since(db, 0):
        if event.type != "claim":
            continue
        before = states.get(event.claim_id, "")
        if before != event.from_state or (before and (ClaimState(before), ClaimState(event.to_state)) not in MOVES):
            found.append(f"event {event.seq}: claim {event.claim_id} went {before or 'new'} -> {event.to_state}")
        states[event.claim_id] = event.to_state
        for name, amount in event.delta.items():
            key = parse_key(name)
            used[key] += amount
            if used[key] < 0:
                found.append(f"event {event.seq}: {key} falls below zero")
    rows = {row["id"]: row["state"] for row in db.execute("SELECT id, state FROM claim")}
    found += [
        f"claim {claim_id} is {rows.get(claim_id, 'gone')}, its events say {states.get(claim_id, 'nothing')}"
        for claim_id in sorted(rows.keys() | states.keys())
        if rows.get(claim_id) != states.get(claim_id)
    ]
    found += [
        f"counter of {key} says {row.used}, the events add up to {used[key]}"
        for key, row in inventory.read(db).items()
        if row.used != used[key]
    ]
    return found


def _instances(db: sqlite3.Connection) -> list[str]:
    """An instance exists exactly as long as its static claim is counted."""
    have = {row["id"] for row in db.execute("SELECT id FROM instance")}
    static = {
        row["instance_id"]
        for row in db.execute("SELECT instance_id, state FROM claim WHERE part = 'static' AND instance_id IS NOT NULL")
        if ClaimState(row["state"]) in COUNTED
    }
    return [f"instance {one} has no static claim" for one in sorted(have - static)] + [
        f"static claim of {one} has no instance" for one in sorted(static - have)
    ]
