"""Instance rows. Used inside a transaction of :class:`vmctl.ledger.database.Database`."""

from __future__ import annotations

import difflib
import sqlite3

import msgspec

from vmctl.errors import Conflict, NotFound
from vmctl.ledger.records import InstanceRecord
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Desired, Exit, Kind, State

SHORTEST_PREFIX = 4


def insert(db: sqlite3.Connection, record: InstanceRecord) -> None:
    """Add a row. Raises Conflict when the name is taken."""
    refuse_taken_name(db, record.name)
    db.execute(
        "INSERT INTO instance (id, name, project, kind, backend, spec, image_digest, desired, state, exit, created_at,"
        " started_at, restarts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.id,
            record.name,
            record.project,
            record.kind,
            record.backend,
            msgspec.json.encode(record.spec).decode(),
            record.image_digest,
            record.desired,
            record.state,
            _encode_exit(record.exit),
            record.created_at,
            record.started_at,
            record.restarts,
        ),
    )


def refuse_taken_name(db: sqlite3.Connection, name: str) -> None:
    """Raise Conflict when an instance has this name."""
    if db.execute("SELECT 1 FROM instance WHERE name = ?", (name,)).fetchone():
        raise Conflict(f"an instance named '{name}' exists already", hint=f"remove it (vmctl rm {name}) or use another")


def delete(db: sqlite3.Connection, instance_id: str) -> None:
    db.execute("DELETE FROM instance WHERE id = ?", (instance_id,))


def every(db: sqlite3.Connection, project: str | None = None) -> list[InstanceRecord]:
    """All instances, or those of one project, oldest first."""
    if project is None:
        rows = db.execute("SELECT * FROM instance ORDER BY created_at, id")
    else:
        rows = db.execute("SELECT * FROM instance WHERE project = ? ORDER BY created_at, id", (project,))
    return [_record(row) for row in rows]


def by_id(db: sqlite3.Connection, instance_id: str) -> InstanceRecord | None:
    row = db.execute("SELECT * FROM instance WHERE id = ?", (instance_id,)).fetchone()
    return _record(row) if row else None


def with_active_compute(db: sqlite3.Connection) -> list[InstanceRecord]:
    """The instances whose compute claim is ACTIVE, oldest first."""
    rows = db.execute(
        "SELECT instance.* FROM claim JOIN instance ON instance.id = instance_id"
        " WHERE claim.state = 'ACTIVE' AND part = 'compute' ORDER BY instance.created_at, instance.id"
    )
    return [_record(row) for row in rows]


def find(db: sqlite3.Connection, ref: str) -> InstanceRecord:
    """By exact name, id, or an id's beginning of at least four characters that no other has. Raises NotFound."""
    row = db.execute("SELECT * FROM instance WHERE name = ? OR id = ?", (ref, ref)).fetchone()
    if row:
        return _record(row)
    if len(ref) >= SHORTEST_PREFIX:
        # Ids are lower-case letters and digits: "~" sorts behind all of them.
        rows = db.execute("SELECT * FROM instance WHERE id >= ? AND id < ? || '~' LIMIT 4", (ref, ref)).fetchall()
        if len(rows) == 1:
            return _record(rows[0])
        if rows:
            some = ", ".join(row["name"] for row in rows[:3]) + (" and more" if len(rows) > 3 else "")
            raise NotFound(f"'{ref}' begins the ids of several instances", hint=f"one of {some}? give more of the id")
    names = [row["name"] for row in db.execute("SELECT name FROM instance ORDER BY name")]
    close = difflib.get_close_matches(ref, names, n=1)
    raise NotFound(f"no instance called '{ref}'", hint=f"did you mean '{close[0]}'?" if close else "see 'vmctl ps -a'")


def set_desired(db: sqlite3.Connection, instance_id: str, desired: Desired) -> None:
    db.execute("UPDATE instance SET desired = ? WHERE id = ?", (desired, instance_id))


def set_observed(
    db: sqlite3.Connection,
    instance_id: str,
    state: State,
    exit_: Exit | None,
    started_at: int | None,
    restarts: int | None,
) -> None:
    """Write what a backend said; ``started_at`` and ``restarts`` None keep what is known."""
    db.execute(
        "UPDATE instance SET state = ?, exit = ?, started_at = coalesce(?, started_at),"
        " restarts = coalesce(?, restarts) WHERE id = ?",
        (state, _encode_exit(exit_), started_at, restarts, instance_id),
    )


def rename(db: sqlite3.Connection, instance_id: str, new_name: str) -> None:
    """Change the name, also that of its claims. Raises Conflict when it is taken."""
    refuse_taken_name(db, new_name)
    db.execute("UPDATE instance SET name = ? WHERE id = ?", (new_name, instance_id))
    db.execute("UPDATE claim SET name = ? WHERE instance_id = ? AND counted", (new_name, instance_id))


def _encode_exit(exit_: Exit | None) -> str | None:
    return None if exit_ is None else msgspec.json.encode(exit_).decode()


def _record(row: sqlite3.Row) -> InstanceRecord:
    return InstanceRecord(
        id=row["id"],
        name=row["name"],
        project=row["project"],
        kind=Kind(row["kind"]),
        backend=row["backend"],
        spec=msgspec.json.decode(row["spec"], type=InstanceSpec),
        image_digest=row["image_digest"],
        desired=Desired(row["desired"]),
        state=State(row["state"]),
        exit=None if row["exit"] is None else msgspec.json.decode(row["exit"], type=Exit),
        created_at=row["created_at"],
        started_at=row["started_at"],
        restarts=row["restarts"],
    )
