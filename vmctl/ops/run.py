"""``vmctl run`` and ``vmctl create``: claim first, body second, all or nothing."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from vmctl.app import App
from vmctl.backends.base import Attachment, Backend, Ref, Stdio
from vmctl.crashpoint import crash_point, declare_crash_points
from vmctl.errors import AttachFailed, NotFound
from vmctl.model.ids import new_id
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Exit, State
from vmctl.model.views import ActionResult, View
from vmctl.ops.advice import advise
from vmctl.ops.ending import finish, remove_body
from vmctl.ops.instances import accept, body_for
from vmctl.ops.naming import named
from vmctl.ops.observe import observe
from vmctl.ops.session import attend
from vmctl.undo import UndoStack

if TYPE_CHECKING:
    from vmctl.allocation.grant import Grant

declare_crash_points("run.held", "run.begun", "run.created", "run.started")


class RunResult(View, frozen=True):
    """``exit`` is None when the instance was left running (detached, or the session was cut)."""

    id: str
    name: str
    exit: Exit | None = None


def run(app: App, spec: InstanceSpec, *, detach: bool, stdio: Stdio | None = None) -> RunResult:
    """Create and start an instance; attached (``stdio`` given), forward its streams and return its exit.

    With ``spec.remove`` an attached instance is removed on every way out; if vmctl dies, by the next command.
    Raises NeverFits, DoesNotFitNow, Conflict, Unsupported, NotFound (image) with nothing changed; ProgramNotFound
    and CannotInvoke when the program cannot be started; AttachFailed when the session broke.
    """
    attach = None if detach else stdio
    spec = named(spec)
    with UndoStack() as undo:
        backend, grant, ref = _claim_and_create(app, spec, undo, start=True, session=spec.remove and attach is not None)
        advise(app, backend)
        attachment = backend.start(ref, attach=attach is not None)
        crash_point("run.started")
        app.allocator.confirm(grant)
        app.ledger.set_observed(ref.id, State.RUNNING)
        undo.disarm()
    if attachment is None or attach is None:
        return RunResult(id=ref.id, name=spec.name)
    return RunResult(id=ref.id, name=spec.name, exit=_attended(app, spec, backend, ref, attachment, attach))


def create(app: App, spec: InstanceSpec) -> ActionResult:
    """Make an instance without starting it: only what it keeps while stopped is claimed. Raises as :func:`run`."""
    spec = named(spec)
    with UndoStack() as undo:
        _, grant, ref = _claim_and_create(app, spec, undo, start=False, session=False)
        app.allocator.confirm(grant)
        app.ledger.set_observed(ref.id, State.CREATED)
        undo.disarm()
    return ActionResult(name=spec.name, action="created", id=ref.id)


def _claim_and_create(
    app: App, spec: InstanceSpec, undo: UndoStack, *, start: bool, session: bool
) -> tuple[Backend, Grant, Ref]:
    """Refuse early, claim, then make the body; every step so far is on the undo stack."""
    from vmctl.allocation.policy import demand
    from vmctl.allocation.records import NewInstance

    backend = accept(app, spec)
    digest = app.images.resolve(spec.image) if spec.image is not None else None
    instance_id = new_id()
    ref = app.ref(instance_id)
    new = NewInstance(
        id=instance_id,
        name=spec.name,
        spec=spec,
        kind=spec.kind,
        backend=backend.name,
        project=spec.project,
        image_digest=digest,
    )
    wanted = demand(spec, backend.overhead(spec))
    grant = app.allocator.admit_new(new, wanted, start=start, session=session, observation=observe(app))
    undo.push("claim", lambda: app.allocator.abandon(grant, "not made"))
    crash_point("run.held")
    body = body_for(app, spec, backend, instance_id=ref.id, claim=grant.claim_id())
    with suppress(NotFound):
        backend.inspect(ref)  # a daemon that is down says so while there is no body to undo
    app.allocator.begin(grant)
    undo.push("body", lambda: _unmake(app, backend, grant, ref))
    crash_point("run.begun")
    backend.create(body)
    crash_point("run.created")
    return backend, grant, ref


def _unmake(app: App, backend: Backend, grant: Grant, ref: Ref) -> None:
    """The body goes first, then what it was counted for."""
    app.allocator.abandon(grant, "not made")
    backend.delete(ref)
    app.allocator.released(grant)


def _attended(
    app: App, spec: InstanceSpec, backend: Backend, ref: Ref, attachment: Attachment, stdio: Stdio
) -> Exit | None:
    """Forward the session to its end; then remove the instance, or write down how it ended."""
    end: Exit | None = None
    try:
        end = attend(backend, ref, attachment, stdio, grace=spec.stop_timeout, force=spec.remove)
    except OSError as error:
        raise AttachFailed(f"the session with {spec.name} broke: {error}") from error
    finally:
        if spec.remove:
            remove_body(app, app.ledger.instance(ref.id))
        elif end is not None:
            finish(app, app.ledger.instance(ref.id))
    return end
