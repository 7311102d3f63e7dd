"""The ledger as the rest of vmctl sees it: instances, the audit trail, and transactions for the allocator."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path

from vmctl.errors import NotFound
from vmctl.ledger import check, claims, events, instances
from vmctl.ledger.database import Database
from vmctl.ledger.records import ClaimRecord, EventRecord, InstanceRecord
from vmctl.model.event import EventType
from vmctl.model.ids import check_name
from vmctl.model.state import Desired, Exit, State


class Ledger:
    """One ledger file. The connection is opened at first use; every method raises LedgerError when it cannot be used.

    An object belongs to the thread that uses it first.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._uuid = ""

    @classmethod
    def open(cls, path: Path, run_dir: Path) -> Ledger:
        """The ledger at ``path``, created (with its folder) at first use; its lock file lives in ``run_dir``."""
        return cls(Database(path, run_dir))

    @property
    def path(self) -> Path:
        return self._database.path

    @property
    def uuid(self) -> str:
        """Names this ledger in the labels of the bodies that it accounts for."""
        if not self._uuid:
            with self.read() as db:
                self._uuid = str(db.execute("SELECT value FROM meta WHERE key = 'uuid'").fetchone()["value"])
        return self._uuid

    def close(self) -> None:
        self._database.close()

    def read(self) -> AbstractContextManager[sqlite3.Connection]:
        """One consistent view; for the allocator."""
        return self._database.read()

    def write(self) -> AbstractContextManager[sqlite3.Connection]:
        """One durable transaction; for the allocator. No backend may be called inside."""
        return self._database.write()

    def rehearse(self) -> AbstractContextManager[sqlite3.Connection]:
        """A transaction that is always rolled back; for the allocator's explanations."""
        return self._database.rehearse()

    def instances(self, project: str | None = None) -> list[InstanceRecord]:
        """All instances, or those of one project, oldest first."""
        with self.read() as db:
            return instances.every(db, project)

    def instance(self, ref: str) -> InstanceRecord:
        """By exact name, id, or an id's beginning (four characters or more). Raises NotFound with a suggestion."""
        with self.read() as db:
            return instances.find(db, ref)

    def instance_by_id(self, instance_id: str) -> InstanceRecord | None:
        """By whole id; None when there is none (any more)."""
        with self.read() as db:
            return instances.by_id(db, instance_id)

    def claim(self, claim_id: str) -> ClaimRecord | None:
        """A claim in any state, released ones included."""
        with self.read() as db:
            return claims.by_id(db, claim_id)

    def set_desired(self, instance_id: str, desired: Desired) -> None:
        """Keep what the user asked for last."""
        with self.write() as db:
            instances.set_desired(db, instance_id, desired)

    def set_observed(
        self,
        instance_id: str,
        state: State,
        exit: Exit | None = None,
        *,
        started_at: int | None = None,
        restarts: int | None = None,
    ) -> None:
        """Keep what a backend said last. ``started_at`` (ns) and ``restarts`` None leave what is known."""
        with self.write() as db:
            instances.set_observed(db, instance_id, state, exit, started_at, restarts)

    def rename(self, instance_id: str, new_name: str) -> None:
        """Give an instance another name. Raises UsageError (not a name), Conflict (taken), NotFound."""
        check_name(new_name)
        with self.write() as db:
            known = instances.by_id(db, instance_id)
            if known is None:
                raise NotFound(f"no instance with id {instance_id}", hint="see 'vmctl ps -a'")
            if known.name == new_name:
                return
            instances.rename(db, instance_id, new_name)
            events.append(
                db,
                EventType.RENAME,
                instance_id=instance_id,
                name=new_name,
                kind=known.kind,
                detail=f"from={known.name}",
            )

    def record(
        self, event_type: EventType, instance_id: str, *, name: str = "", kind: str = "", detail: str = ""
    ) -> None:
        """Append one event to the audit trail; the actor is this process (its uid and pid)."""
        with self.write() as db:
            events.append(db, event_type, instance_id=instance_id, name=name, kind=kind, detail=detail)

    def events(self, since_seq: int = 0, instance_id: str | None = None) -> list[EventRecord]:
        """Events after ``since_seq``, oldest first; of one instance, or of all."""
        with self.read() as db:
            return list(events.since(db, since_seq, instance_id))

    def last_seq(self) -> int:
        """The number of the newest event: what a follower starts from."""
        with self.read() as db:
            return int(db.execute("SELECT coalesce(max(seq), 0) AS seq FROM event").fetchone()["seq"])

    def fsck(self) -> list[str]:
        """Everything that is not as it must be, in words; empty when all is well."""
        with self.read() as db:
            return check.problems(db)
