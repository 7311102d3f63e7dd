"""``start stop restart kill pause resume rename``: verbs on one existing instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vmctl.app import App
from vmctl.backends.base import Attachment, Backend, CanPause, Ref, Stdio
from vmctl.crashpoint import crash_point, declare_crash_points
from vmctl.errors import NotFound, Unsupported, WrongState
from vmctl.model.capability import Feature
from vmctl.model.ids import check_name
from vmctl.model.state import ALIVE, Desired, Exit, State
from vmctl.model.views import ActionResult
from vmctl.ops.advice import advise
from vmctl.ops.ending import finish
from vmctl.ops.instances import find, speaking_of
from vmctl.ops.observe import observe
from vmctl.ops.session import attend
from vmctl.undo import UndoStack

if TYPE_CHECKING:
    from vmctl.ledger.records import InstanceRecord

declare_crash_points("start.held", "start.begun", "start.started", "stop.stopped")


class StartResult(msgspec.Struct, frozen=True, kw_only=True):
    """``exit`` is set when the caller was attached and the main process ended."""

    action: ActionResult
    exit: Exit | None = None


def start(app: App, ref: str, attach: Stdio | None = None) -> StartResult:
    """Claim compute again and start; silent for what runs. Raises DoesNotFitNow when compute is short now."""
    record = find(app, ref)
    backend = app.backend(record.backend)
    target = app.ref(record.id)
    try:
        state = backend.inspect(target).state
    except NotFound as error:
        hint = f"vmctl rm {record.name}, then create it again"
        raise NotFound(f"the body of {record.name} was removed by something else than vmctl", hint=hint) from error
    if state is State.PAUSED:
        raise WrongState(f"{record.name} is paused", hint=f"vmctl resume {record.name}")
    action = ActionResult(name=record.name, action="started", id=record.id)
    if state in ALIVE:
        return StartResult(action=action)
    attachment = _start(app, record, backend, target, attached=attach is not None)
    if attachment is None or attach is None:
        return StartResult(action=action)
    end = attend(backend, target, attachment, attach, grace=record.spec.stop_timeout, force=False)
    if end is not None:
        finish(app, record)
    return StartResult(action=action, exit=end)


def _start(app: App, record: InstanceRecord, backend: Backend, ref: Ref, *, attached: bool) -> Attachment | None:
    from vmctl.allocation.policy import demand

    wanted = demand(record.spec, backend.overhead(record.spec))
    with UndoStack() as undo:
        grant = app.allocator.admit_start(record.id, wanted, session=False, observation=observe(app))
        undo.push("claim", lambda: app.allocator.abandon(grant, "not started"))
        crash_point("start.held")
        app.allocator.begin(grant)

        def unstart() -> None:
            app.allocator.abandon(grant, "not started")
            backend.stop(ref, timeout=0)
            app.allocator.released(grant)

        undo.push("start", unstart)
        crash_point("start.begun")
        advise(app, backend)
        attachment = backend.start(ref, attach=attached)
        crash_point("start.started")
        app.allocator.confirm(grant)
        app.ledger.set_desired(record.id, Desired.RUNNING)
        app.ledger.set_observed(record.id, State.RUNNING)
        undo.disarm()
    return attachment


def stop(app: App, ref: str, timeout: float | None = None, signal: str | None = None) -> ActionResult:
    """Ask the workload to end, by force after ``timeout`` seconds; its compute is free afterwards."""
    record = find(app, ref)
    app.ledger.set_desired(record.id, Desired.STOPPED)
    limit = record.spec.stop_timeout if timeout is None else timeout
    app.backend(record.backend).stop(app.ref(record.id), timeout=limit, signal=signal)
    crash_point("stop.stopped")
    finish(app, record)
    return ActionResult(name=record.name, action="stopped", id=record.id)


def restart(app: App, ref: str, timeout: float | None = None) -> ActionResult:
    """Stop and start. The compute is kept in between, so that nobody can take it (section 10)."""
    record = find(app, ref)
    backend = app.backend(record.backend)
    target = app.ref(record.id)
    with app.allocator.owned_compute(record.id) as grant:
        backend.stop(target, timeout=record.spec.stop_timeout if timeout is None else timeout)
        if grant is not None:
            backend.start(target)
            app.ledger.set_observed(record.id, State.RUNNING)
    if grant is None:
        _start(app, record, backend, target, attached=False)
    app.ledger.set_desired(record.id, Desired.RUNNING)
    return ActionResult(name=record.name, action="restarted", id=record.id)


def kill(app: App, ref: str, signal: str = "SIGKILL") -> ActionResult:
    """Send ``signal`` to the main process. Raises WrongState if the instance does not run."""
    record = find(app, ref)
    if signal in ("SIGKILL", "KILL", "9"):
        app.ledger.set_desired(record.id, Desired.STOPPED)
    with speaking_of(record):
        app.backend(record.backend).kill(app.ref(record.id), signal=signal)
    finish(app, record)
    return ActionResult(name=record.name, action="killed", id=record.id, detail=signal)


def pause(app: App, ref: str) -> ActionResult:
    """Freeze; everything stays claimed. Raises WrongState, Unsupported."""
    record = find(app, ref)
    with speaking_of(record):
        _pausing(app, record).pause(app.ref(record.id))
    app.ledger.set_desired(record.id, Desired.PAUSED)
    app.ledger.set_observed(record.id, State.PAUSED)
    return ActionResult(name=record.name, action="paused", id=record.id)


def resume(app: App, ref: str) -> ActionResult:
    """Let a paused instance go on. Raises WrongState, Unsupported."""
    record = find(app, ref)
    with speaking_of(record):
        _pausing(app, record).resume(app.ref(record.id))
    app.ledger.set_desired(record.id, Desired.RUNNING)
    app.ledger.set_observed(record.id, State.RUNNING)
    return ActionResult(name=record.name, action="resumed", id=record.id)


def rename(app: App, ref: str, new: str) -> ActionResult:
    """Give another name, in any state: bodies are called by id, so only the ledger changes. Raises Conflict."""
    record = find(app, ref)
    app.ledger.rename(record.id, check_name(new))
    return ActionResult(name=new, action="renamed", id=record.id, detail=f"{record.name} -> {new}")


def _pausing(app: App, record: InstanceRecord) -> CanPause:
    backend = app.backend(record.backend)
    if not isinstance(backend, CanPause):
        raise Unsupported(f"{backend.name} cannot pause: {backend.capabilities()[Feature.PAUSE]}")
    return backend
