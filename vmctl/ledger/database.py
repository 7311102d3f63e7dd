"""The SQLite file: opening, migrations, transactions, and what can go wrong with it.

Writers take a short flock around BEGIN IMMEDIATE ... COMMIT: SQLite alone is fair to nobody under contention, and
with sixteen processes the flock cuts the 99th percentile by a factor of five (allocation design, introduction).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmctl.errors import LedgerError

APPLICATION_ID = 1986876276  # "vmct"
BUSY_SECONDS = 60.0

_HINTS = {
    sqlite3.SQLITE_FULL: ("disk-full", "the disk is full", "free some space on that file system and try again"),
    sqlite3.SQLITE_READONLY: ("read-only", "it is not writable", "run vmctl as the user who owns it"),
    sqlite3.SQLITE_PERM: ("read-only", "access was denied", "run vmctl as the user who owns it"),
    sqlite3.SQLITE_CANTOPEN: ("cannot-open", "it cannot be opened", "check the permissions of its folder"),
    sqlite3.SQLITE_CORRUPT: ("corrupt", "it is damaged", "move it aside, or restore a backup"),
    sqlite3.SQLITE_NOTADB: ("corrupt", "it is not a database", "move it aside, or restore a backup"),
    sqlite3.SQLITE_BUSY: ("busy", "another process has kept it locked for a minute", "see who has it open: fuser"),
    sqlite3.SQLITE_IOERR: ("io-error", "reading or writing it failed", "check the disk and the kernel's log"),
}


class Database:
    """One connection, opened at first use; autocommit off the explicit transactions of this class."""

    def __init__(self, path: Path, run_dir: Path) -> None:
        self.path = path
        self._lock_path = run_dir / "ledger.lock"
        self._connection: sqlite3.Connection | None = None
        self._lock_fd = -1

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One deferred transaction: everything read inside belongs to one state of the ledger."""
        with self._translated():
            db = self._connect()
            db.execute("BEGIN DEFERRED")
            try:
                yield db
            finally:
                db.rollback()

    @contextmanager
    def rehearse(self) -> Iterator[sqlite3.Connection]:
        """A write transaction that is always rolled back: what *would* happen, decided by the code that does it."""
        with self._translated():
            db = self._connect()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            finally:
                db.rollback()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction; rolled back when the block raises. No backend may be called inside."""
        with self._translated():
            db = self._connect()
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
            try:
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    # SQLite itself rolls back after some errors (disk full); a second rollback is harmless.
                    db.rollback()
                    raise
            finally:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                for folder in (self.path.parent, self._lock_path.parent):
                    make_private(folder)
                self._lock_fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise LedgerError(
                    f"cannot open the ledger {self.path}: {error.strerror}",
                    hint="check the folder's permissions, or set VMCTL_STATE_DIR",
                    details={"reason": "cannot-open"},
                ) from error
            try:
                self._connection = self._open()
            except BaseException:
                self.close()
                raise
        return self._connection

    def _open(self) -> sqlite3.Connection:
        # 0600 before SQLite creates it (the WAL and shm files take over the mode).
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise LedgerError(
                f"cannot open the ledger {self.path}: {error.strerror}",
                hint="run vmctl as the user who owns it, or set VMCTL_STATE_DIR",
                details={"reason": "cannot-open"},
            ) from error
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN DEFERRED")  # one view: another process may be making the tables right now
            version = self._version(db)
            db.rollback()
            if version != len(migrations()):
                self._migrate(db)
        except BaseException:
            db.close()
            raise
        return db

    def _version(self, db: sqlite3.Connection) -> int:
        """The schema's number; 0 for an empty file. Raises LedgerError for what is not ours or too new."""
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        application = int(db.execute("PRAGMA application_id").fetchone()[0])
        if version and application != APPLICATION_ID:
            raise self._not_ours()
        if not version and db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            raise self._not_ours()
        if version > len(migrations()):
            raise LedgerError(
                f"the ledger {self.path} was written by a newer vmctl (schema {version})",
                hint="update vmctl, or set VMCTL_STATE_DIR to use another ledger",
                details={"reason": "newer-schema"},
            )
        return version

    def _not_ours(self) -> LedgerError:
        return LedgerError(
            f"{self.path} is a database, but not a vmctl ledger",
            hint="move it aside, or set VMCTL_STATE_DIR",
            details={"reason": "corrupt"},
        )

    def _migrate(self, db: sqlite3.Connection) -> None:
        """Bring the schema up to date; of several processes that try at once the first does it."""
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        try:
            # Cannot happen inside a transaction, and does not wait for other connections: hence under the flock.
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("BEGIN IMMEDIATE")
            try:
                version = self._version(db)
                for script in migrations()[version:]:
                    for statement in _statements(script.read_text()):
                        db.execute(statement)
                if version == 0:
                    db.execute("INSERT INTO meta (key, value) VALUES ('uuid', ?)", (str(uuid.uuid4()),))
                db.execute("COMMIT")
            except BaseException:
                db.rollback()
                raise
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            # The low byte is the primary code; the rest tells variants apart that share cause and cure.
            primary = code & 0xFF if isinstance(code, int) else None
            if primary == sqlite3.SQLITE_IOERR and _disk_is_full(self.path):
                primary = sqlite3.SQLITE_FULL  # the shared-memory file could not grow: SQLite has no word for that
            known = _HINTS.get(primary) if primary is not None else None
            reason, what, hint = known or ("failed", str(error), "run 'vmctl doctor'")
            raise LedgerError(
                f"cannot use the ledger {self.path}: {what}", hint=hint, details={"reason": reason}
            ) from error


def _disk_is_full(path: Path) -> bool:
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False


def make_private(folder: Path) -> None:
    """Create ``folder`` if missing: 0711, so that nobody may list it, but QEMU (another user) reaches what is below."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o711, exist_ok=True)


def migrations() -> list[Path]:
    """The numbered scripts, in order; the n-th (from 1) leads to schema n."""
    return sorted((Path(__file__).parent / "migrations").glob("*.sql"))


def _statements(script: str) -> Iterator[str]:
    """Single statements: executescript() would commit the transaction that must hold all of them."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
