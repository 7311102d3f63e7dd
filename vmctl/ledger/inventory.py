"""Pools, inventories and their counters. Used inside a transaction of :class:`vmctl.ledger.database.Database`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

from vmctl.ledger.records import InventoryRow
from vmctl.model.resources import HOST_POOL, ResourceKey

Inventory = Mapping[ResourceKey, InventoryRow]


def read(db: sqlite3.Connection) -> dict[ResourceKey, InventoryRow]:
    """Every resource with its counter."""
    return {
        (key := ResourceKey(row["pool"], row["resource"])): InventoryRow(
            key=key,
            total=row["total"],
            reserved=row["reserved"],
            ratio_ppm=row["ratio_ppm"],
            used=row["used"],
            min_unit=row["min_unit"],
            max_unit=row["max_unit"],
            step=row["step"],
            source=row["source"],
        )
        for row in db.execute("SELECT * FROM inventory ORDER BY pool, resource")
    }


def generation(db: sqlite3.Connection, pool: str) -> int:
    row = db.execute("SELECT generation FROM pool WHERE name = ?", (pool,)).fetchone()
    return int(row["generation"]) if row else 0


def stale(db: sqlite3.Connection, probed: Iterable[InventoryRow]) -> list[InventoryRow]:
    """Those rows of ``probed`` that say something else than the ledger does."""
    known = {
        ResourceKey(row["pool"], row["resource"]): row
        for row in db.execute(
            "SELECT pool, resource, probed_total, probed_reserved, default_ratio_ppm, min_unit, max_unit, step"
            " FROM inventory"
        )
    }
    return [row for row in probed if row.key not in known or tuple(known[row.key])[2:] != _probed_values(row)]


def put(db: sqlite3.Connection, rows: Iterable[InventoryRow]) -> None:
    """Write what was probed; counters and what the administrator set stay."""
    for row in rows:
        kind = "host" if row.key.pool == HOST_POOL else row.key.pool.partition(":")[0]
        parent = None if row.key.pool == HOST_POOL else HOST_POOL
        if parent:
            db.execute("INSERT OR IGNORE INTO pool (name, kind) VALUES (?, 'host')", (HOST_POOL,))
        db.execute("INSERT OR IGNORE INTO pool (name, parent, kind) VALUES (?, ?, ?)", (row.key.pool, parent, kind))
        db.execute(
            "INSERT INTO inventory (pool, resource, probed_total, probed_reserved, default_ratio_ppm, min_unit,"
            " max_unit, step) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (pool, resource) DO UPDATE SET"
            " probed_total = excluded.probed_total, probed_reserved = excluded.probed_reserved,"
            " default_ratio_ppm = excluded.default_ratio_ppm, min_unit = excluded.min_unit,"
            " max_unit = excluded.max_unit, step = excluded.step",
            (*row.key, *_probed_values(row)),
        )
        touch(db, {row.key.pool})


def override(
    db: sqlite3.Connection, key: ResourceKey, total: int | None, reserved: int | None, ratio_ppm: int | None
) -> None:
    """Replace what the administrator set for one resource; None means: as probed."""
    db.execute(
        "UPDATE inventory SET set_total = ?, set_reserved = ?, set_ratio_ppm = ? WHERE pool = ? AND resource = ?",
        (total, reserved, ratio_ppm, *key),
    )
    touch(db, {key.pool})


def overrides(db: sqlite3.Connection, key: ResourceKey) -> tuple[int | None, int | None, int | None]:
    """(total, reserved, ratio_ppm) as the administrator set them; None where nothing is set."""
    row = db.execute(
        "SELECT set_total, set_reserved, set_ratio_ppm FROM inventory WHERE pool = ? AND resource = ?", key
    ).fetchone()
    return tuple(row)


def add(db: sqlite3.Connection, amounts: Mapping[ResourceKey, int], sign: int) -> None:
    """Raise (+1) or lower (-1) the counters; CHECK (used >= 0) stops what would go below zero."""
    for key, amount in amounts.items():
        db.execute("UPDATE inventory SET used = used + ? WHERE pool = ? AND resource = ?", (sign * amount, *key))
    touch(db, {key.pool for key in amounts})


def touch(db: sqlite3.Connection, pools: Iterable[str]) -> None:
    """Something committed with this transaction changed these pools."""
    for pool in pools:
        db.execute("UPDATE pool SET generation = generation + 1 WHERE name = ?", (pool,))


def _probed_values(row: InventoryRow) -> tuple[int, int, int, int, int | None, int]:
    return row.total, row.reserved, row.ratio_ppm, row.min_unit, row.max_unit, row.step
