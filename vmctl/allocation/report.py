"""Claims and host resources in the form that users see, and what users may set."""

from __future__ import annotations

import difflib
import sqlite3
from collections.abc import Iterable, Mapping

from vmctl.allocation.inventory import DISK_PHYS, MEM, RATIO_ALLOWED, UNITS, HostFacts
from vmctl.allocation.refusal import human
from vmctl.errors import UsageError
from vmctl.ledger import events, inventory
from vmctl.ledger.records import ClaimRecord, InventoryRow, parse_key
from vmctl.model.resources import PPM, Resource, ResourceKey
from vmctl.model.views import ClaimView, HostResource


def claim_view(claim: ClaimRecord) -> ClaimView:
    """One row of ``claim ls``."""
    return ClaimView(
        id=claim.id,
        instance_id=claim.instance_id,
        name=claim.name,
        project=claim.project,
        kind=claim.kind,
        backend=claim.backend,
        part=claim.part,
        state=claim.state,
        claim_class=claim.claim_class,
        amounts={str(key): amount for key, amount in claim.amounts.items()},
        overhead={str(key): amount for key, amount in claim.overhead.items()},
        owner_pid=claim.owner.pid if claim.owner else None,
        owner_alive=claim.owner is not None and claim.owner.alive(),
        created_at=claim.created_at,
        lease_until_at=claim.lease_until,
    )


def host_resources(
    rows: Mapping[ResourceKey, InventoryRow], foreign: Mapping[ResourceKey, int], facts: HostFacts
) -> list[HostResource]:
    """One row per resource; ``used`` is what the host itself measures, where it does."""
    measured = {MEM: max(0, facts.mem_total - facts.mem_available), DISK_PHYS: facts.disk_used}
    return [
        HostResource(
            pool=key.pool,
            resource=key.resource,
            unit=UNITS[Resource(key.resource)],
            total=row.total,
            reserved=row.reserved,
            ratio_ppm=row.ratio_ppm,
            capacity=row.capacity,
            claimed=row.used,
            foreign=foreign.get(key, 0),
            # Bytes on a disk are gone whether or not somebody claimed them.
            free=max(0, row.capacity - max(row.used, measured[key] if key == DISK_PHYS else 0)),
            used=measured.get(key),
            source=row.source,
        )
        for key, row in rows.items()
    ]


def set_resource(
    db: sqlite3.Connection, name: str, *, total: int | None, reserved: int | None, ratio_ppm: int | None
) -> None:
    """See :meth:`vmctl.allocation.allocator.Allocator.set_resource`."""
    rows = inventory.read(db)
    key = _resource_key(name, rows)
    if ratio_ppm is not None and (ratio_ppm < PPM or (ratio_ppm > PPM and key not in RATIO_ALLOWED)):
        allowed = ", ".join(sorted(one.resource for one in RATIO_ALLOWED))
        hint = f"it is 1 or more, and more than 1 only for {allowed}"
        raise UsageError(f"the ratio of {key} cannot be {ratio_ppm / PPM:g}", hint=hint)
    old_total, old_reserved, old_ratio = inventory.overrides(db, key)
    inventory.override(
        db,
        key,
        old_total if total is None else total,
        old_reserved if reserved is None else reserved,
        old_ratio if ratio_ppm is None else ratio_ppm,
    )
    row = inventory.read(db)[key]
    if reserved is not None and reserved > row.total:
        wanted, there = human(key.resource, reserved), human(key.resource, row.total)
        raise UsageError(f"cannot reserve {wanted} of {key}", hint=f"there is {there}")
    events.append(
        db, "inventory", detail=f"{key}: total={row.total} reserved={row.reserved} ratio_ppm={row.ratio_ppm}"
    )


def reset_resource(db: sqlite3.Connection, name: str) -> None:
    """Back to what is probed."""
    key = _resource_key(name, inventory.read(db))
    inventory.override(db, key, None, None, None)
    events.append(db, "inventory", detail=f"{key}: as probed")


def _resource_key(name: str, known: Iterable[ResourceKey]) -> ResourceKey:
    """``mem``, ``disk.virt`` or ``disk.virt@storage:default``."""
    keys = list(known)
    for key in keys:
        if key == parse_key(name) or key.resource == name:
            return key
    names = [key.resource for key in keys]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else "one of " + ", ".join(names)
    raise UsageError(f"no resource called '{name}'", hint=hint)
