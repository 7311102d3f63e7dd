"""The ledger's file: making it, refusing what is not ours, and what happens when the disk or the file goes."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vmctl.errors import LedgerError
from vmctl.ledger import Ledger
from vmctl.ledger.database import APPLICATION_ID, Database, migrations
from vmctl.model.event import EventType


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(tmp_path / "state" / "ledger.db", tmp_path / "run")


def reason(ledger: Ledger) -> object:
    with pytest.raises(LedgerError) as caught:
        ledger.instances()
    assert caught.value.exit_code == 10
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.details["reason"]


def execute(ledger: Ledger, *statements: str) -> None:
    with ledger.write() as db:
        for statement in statements:
            db.execute(statement)


def test_folder_and_file_are_private(ledger: Ledger) -> None:
    assert not ledger.path.exists(), "opened at first use only"
    assert ledger.instances() == []
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(ledger.path.parent.stat().st_mode) == 0o711


def test_pragmas_are_in_force(ledger: Ledger) -> None:
    with ledger.read() as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert db.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert db.execute("PRAGMA foreign_keys").fetchone()[0] == 1
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(migrations())
        assert db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID


def test_migrations_are_numbered_without_gaps() -> None:
    assert [int(script.name[:4]) for script in migrations()] == list(range(1, len(migrations()) + 1))


def test_uuid_stays(ledger: Ledger, tmp_path: Path) -> None:
    first = ledger.uuid
    ledger.close()
    assert ledger.uuid == first
    assert Ledger.open(ledger.path, tmp_path / "run").uuid == first
    assert Ledger.open(tmp_path / "other.db", tmp_path / "run").uuid != first


def test_many_processes_may_make_it_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vmctl.ledger import Ledger\n"
        "base = Path(sys.argv[1]); print(Ledger.open(base / 'ledger.db', base / 'run').uuid)"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    assert len({racer.communicate(timeout=60)[0] for racer in racers}) == 1
    assert all(racer.returncode == 0 for racer in racers)


def test_nonsense_is_no_database(ledger: Ledger) -> None:
    ledger.path.parent.mkdir()
    ledger.path.write_bytes(b"this is not a database\n" * 500)
    assert reason(ledger) == "corrupt"


def test_damage_is_named(ledger: Ledger) -> None:
    ledger.record(EventType.CREATE, "x")
    ledger.close()
    with ledger.path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * (ledger.path.stat().st_size - 100))
    assert reason(ledger) == "corrupt"


def test_another_programs_database_is_left_alone(ledger: Ledger) -> None:
    ledger.path.parent.mkdir()
    with sqlite3.connect(ledger.path) as other:
        other.execute("CREATE TABLE t (x)")
    before = ledger.path.read_bytes()
    assert reason(ledger) == "corrupt"
    assert ledger.path.read_bytes() == before


def test_a_newer_schema_is_refused(ledger: Ledger) -> None:
    assert ledger.uuid
    ledger.close()
    with sqlite3.connect(ledger.path) as db:
        db.execute("PRAGMA user_version = 99")
    assert reason(ledger) == "newer-schema"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert reason(Ledger.open(tmp_path / "file" / "ledger.db", tmp_path / "run")) == "cannot-open"


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").mkdir()
    assert reason(Ledger.open(tmp_path / "ledger.db", tmp_path / "run")) == "cannot-open"


def test_a_full_disk_is_told_apart_and_rolls_back(ledger: Ledger) -> None:
    ledger.record(EventType.CREATE, "before")
    with pytest.raises(LedgerError) as caught:
        execute(
            ledger,
            "PRAGMA max_page_count = 100",
            "INSERT INTO meta (key, value) VALUES ('small', 'x')",
            "INSERT INTO meta (key, value) VALUES ('big', hex(zeroblob(1000000)))",
        )
    assert caught.value.details["reason"] == "disk-full"
    ledger.close()
    ledger.record(EventType.CREATE, "after")
    assert [event.instance_id for event in ledger.events()] == ["before", "after"]
    with ledger.read() as db:
        assert [row["key"] for row in db.execute("SELECT key FROM meta")] == ["uuid"]


@pytest.mark.parametrize(("free", "expected"), [(0, "disk-full"), (1, "io-error")])
def test_a_full_disk_behind_a_failed_write(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, free: int, expected: str
) -> None:
    """SQLite tells no reason when the shared-memory file beside the ledger cannot grow."""
    there = os.statvfs(ledger.path.parent.parent)
    monkeypatch.setattr(os, "statvfs", lambda folder: os.statvfs_result((*there[:4], free, *there[5:])))
    failed = sqlite3.OperationalError("disk I/O error")
    failed.sqlite_errorcode = sqlite3.SQLITE_IOERR | 19 << 8
    with pytest.raises(LedgerError) as caught, ledger.read():
        raise failed
    assert caught.value.details["reason"] == expected


def test_a_file_that_may_only_be_read(ledger: Ledger) -> None:
    with pytest.raises(LedgerError) as caught:
        execute(ledger, "PRAGMA query_only = ON", "INSERT INTO meta (key, value) VALUES ('k', 'v')")
    assert caught.value.details["reason"] == "read-only"


def test_an_error_in_the_block_undoes_it_and_frees_the_lock(ledger: Ledger) -> None:
    def fail() -> None:
        with ledger.write() as db:
            db.execute("INSERT INTO meta (key, value) VALUES ('k', 'v')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with ledger.write() as db:
        assert db.execute("SELECT count(*) FROM meta WHERE key = 'k'").fetchone()[0] == 0


def test_rehearsal_leaves_nothing(ledger: Ledger) -> None:
    with ledger.rehearse() as db:
        db.execute("INSERT INTO meta (key, value) VALUES ('k', 'v')")
    with ledger.read() as db:
        assert db.execute("SELECT count(*) FROM meta WHERE key = 'k'").fetchone()[0] == 0


def test_import_is_cheap() -> None:
    code = (
        "import sys, vmctl.ledger; "
        "print(sorted({'docker', 'libvirt', 'rich', 'typer', 'asyncio', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


def test_close_is_silent_when_never_opened(tmp_path: Path) -> None:
    Database(tmp_path / "x.db", tmp_path / "run").close()
    assert not (tmp_path / "x.db").exists()
