"""Finishes what dead commands left half done (allocation design, section 10, P6). Runs once in every command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmctl.errors import NotFound, VmctlError
from vmctl.model.state import ALIVE, Desired, State

if TYPE_CHECKING:
    from vmctl.allocation.grant import Orphan
    from vmctl.app import App
    from vmctl.ledger.records import InstanceRecord


def sweep_once(app: App) -> None:
    """Settle the claims whose owner died in the middle, and leases that are over. A second call does nothing.

    The question costs one query; backends are opened only when there is something to do. An orphan whose backend
    does not answer stays counted, and the next command tries again.
    """
    if app.swept:
        return
    app.swept = True
    with app.allocator.recoverable() as orphans:
        for orphan in orphans:
            if orphan.instance is None:
                app.allocator.abandon(orphan.grant, "no instance")
                app.allocator.released(orphan.grant)
                continue
            try:
                _settle(app, orphan, orphan.instance)
            except VmctlError as error:
                app.notice(f"{orphan.instance.name} could not be cleaned up: {error.message}")


def _settle(app: App, orphan: Orphan, record: InstanceRecord) -> None:
    """Forward where the body is complete and meant to stay, else back: the body goes first, its claims after."""
    from vmctl.ledger.records import ClaimClass, ClaimState, Part

    grant = orphan.grant
    ref = app.ref(record.id)
    backend = app.backend(record.backend)
    try:
        state = backend.inspect(ref).state
    except NotFound:
        state = State.LOST
    claims = grant.claims
    durable = all(claim.claim_class is ClaimClass.DURABLE for claim in claims.values())
    moving = {claim.state for claim in claims.values()}
    compute_only = Part.STATIC not in claims
    if durable and moving == {ClaimState.REALISING} and state in ALIVE and Part.COMPUTE in claims:
        app.allocator.confirm(grant)
        app.ledger.set_observed(record.id, state)
        app.ledger.set_desired(record.id, Desired.RUNNING)
    elif compute_only:
        app.allocator.abandon(grant, "its command died")
        if state in ALIVE:
            backend.stop(ref, timeout=0)
        app.allocator.released(grant)
        if state is not State.LOST:
            app.ledger.set_observed(record.id, backend.inspect(ref).state)
    else:
        whole = app.allocator.releasing_all(record.id, "its command died")
        backend.delete(ref)
        app.allocator.released(whole)
