"""What happens to the claims when a body ends or goes: the body first, the counters after (section 10, P3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmctl.crashpoint import crash_point, declare_crash_points
from vmctl.errors import NotFound
from vmctl.model.observed import Observed
from vmctl.model.state import ALIVE, Desired, RestartPolicy, State

if TYPE_CHECKING:
    from vmctl.app import App
    from vmctl.ledger.records import InstanceRecord

declare_crash_points("remove.releasing", "remove.deleted")


def finish(app: App, record: InstanceRecord) -> None:
    """Look at the body once more: write down what it does, and free its compute if it has ended."""
    settle(app, record, _look(app, record))


def settle(app: App, record: InstanceRecord, body: Observed | None) -> None:
    """Bring the ledger in line with ``body`` (None: it is not there), as listed by its backend a moment ago."""
    if body is None:
        if record.state in (State.PENDING, State.QUEUED):
            return  # being made right now
        note_state(app, record, State.LOST)
        _release_compute(app, record)
        return
    _note_body(app, record, body)
    if body.state in ALIVE or body.state is State.UNKNOWN or _will_be_revived(app, record):
        return
    if record.spec.remove and body.state in (State.STOPPED, State.FAILED) and not _has_session(app, record):
        remove_body(app, record)
    else:
        _release_compute(app, record)


def remove_body(app: App, record: InstanceRecord) -> None:
    """Remove the body by force, then everything the ledger holds for it. Safe to repeat after a crash."""
    grant = app.allocator.releasing_all(record.id, "removed")
    crash_point("remove.releasing")
    app.backend(record.backend).delete(app.ref(record.id))
    crash_point("remove.deleted")
    app.allocator.released(grant)


def note_state(app: App, record: InstanceRecord, state: State) -> None:
    """Write down a state that no body told; only what is new is written."""
    if record.state is not state:
        app.ledger.set_observed(record.id, state, record.exit)


def _note_body(app: App, record: InstanceRecord, body: Observed) -> None:
    known = (record.state, record.exit, record.started_at, record.restarts)
    if known != (body.state, body.exit, body.started_at or record.started_at, body.restarts):
        app.ledger.set_observed(
            record.id, body.state, body.exit, started_at=body.started_at, restarts=body.restarts
        )


def _release_compute(app: App, record: InstanceRecord) -> None:
    """Free the compute of a body that has ended, unless a living command is at work on it right now."""
    with app.allocator.owned_compute(record.id) as grant:
        if grant is None:
            return
        body = _look(app, record)  # once more, now that nobody else can start or stop it
        if body is None or body.state not in ALIVE:
            app.allocator.abandon(grant, "ended")
            app.allocator.released(grant)


def _look(app: App, record: InstanceRecord) -> Observed | None:
    try:
        return app.backend(record.backend).inspect(app.ref(record.id))
    except NotFound:
        return None


def _will_be_revived(app: App, record: InstanceRecord) -> bool:
    """Between two lives of a restart policy compute stays claimed (section 10)."""
    current = app.ledger.instance_by_id(record.id) or record
    return current.desired is Desired.RUNNING and record.spec.restart in (
        RestartPolicy.ALWAYS,
        RestartPolicy.UNLESS_STOPPED,
    )


def _has_session(app: App, record: InstanceRecord) -> bool:
    """Whether the instance belongs to an attached command, which removes it itself (or the sweep, if it died)."""
    return any(
        claim.claim_class == "session" for claim in app.allocator.claim_views() if claim.instance_id == record.id
    )
