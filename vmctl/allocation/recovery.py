"""Finds claims whose owner is dead or whose time is over (rules P5 and P6 of the allocation design)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vmctl.allocation.grant import Grant, Orphan
from vmctl.allocation.locks import OwnerLocks
from vmctl.allocation.transitions import is_session, move, needs_owner, step
from vmctl.ledger import Ledger, claims, instances
from vmctl.ledger.records import IN_MOTION, ClaimRecord, ClaimState


@contextmanager
def recoverable(ledger: Ledger, locks: OwnerLocks, now: int, limit: int) -> Iterator[list[Orphan]]:
    """See :meth:`vmctl.allocation.allocator.Allocator.recoverable`."""
    with ledger.read() as db:
        suspects = claims.suspects(db, now)
    by_instance: dict[str, list[ClaimRecord]] = {}
    for claim in suspects:
        by_instance.setdefault(claim.instance_id or claim.id, []).append(claim)

    orphans: list[Orphan] = []
    try:
        for instance_id, group in by_instance.items():
            if len(orphans) == limit:
                break
            # A lock that this very process holds belongs to work of its own: the owner lives.
            if any(locks.holds(claim.id) for claim in group):
                continue
            if not all(locks.take(claim.id) for claim in group):
                _let_go(locks, group)
                continue
            orphan = _examine(ledger, locks, now, instance_id, group)
            if orphan is not None:
                orphans.append(orphan)
        _remove_stale_files(ledger, locks)
        yield orphans
    finally:
        for orphan in orphans:
            orphan.grant.close()


def _examine(
    ledger: Ledger, locks: OwnerLocks, now: int, instance_id: str, group: list[ClaimRecord]
) -> Orphan | None:
    """Under the locks: look again (the owner may have finished before it let go), release what is HELD."""
    with ledger.read() as db:
        current = [claim for one in group if (claim := claims.by_id(db, one.id)) and _is_orphan(claim, now)]
    held = [claim for claim in current if claim.state is ClaimState.HELD]
    if held:
        with step(ledger, "recover") as db:
            for claim in held:
                move(db, claim, ClaimState.RELEASED, "owner is dead")
    rest = [claim for claim in current if claim.state is not ClaimState.HELD]
    for claim in group:
        if claim.id not in {one.id for one in rest}:
            locks.drop(claim.id)
    if not rest:
        return None
    with ledger.read() as db:
        return Orphan(instances.by_id(db, instance_id), Grant(instance_id, rest, locks))


def _is_orphan(claim: ClaimRecord, now: int) -> bool:
    """For a claim whose lock is free."""
    if claim.state in IN_MOTION:
        return True
    expired = claim.lease_until is not None and claim.lease_until < now
    return claim.state is ClaimState.ACTIVE and (is_session(claim) or expired)


def _let_go(locks: OwnerLocks, group: list[ClaimRecord]) -> None:
    for claim in group:
        locks.leave(claim.id)


def _remove_stale_files(ledger: Ledger, locks: OwnerLocks) -> None:
    """Lock files of claims that need no owner: left by processes that died between two steps."""
    files = [claim_id for claim_id in locks.files() if not locks.holds(claim_id)]
    if not files:
        return
    with ledger.read() as db:
        known = {claim_id: claims.by_id(db, claim_id) for claim_id in files}
    for claim_id, claim in known.items():
        # A claim that is about to be written has a locked file and no row yet: take() tells.
        if (claim is None or not needs_owner(claim)) and locks.take(claim_id):
            locks.drop(claim_id)
