"""``vmctl rm``."""

from __future__ import annotations

from vmctl.app import App
from vmctl.errors import NotFound, WrongState
from vmctl.model.state import ALIVE
from vmctl.model.views import ActionResult
from vmctl.ops.ending import remove_body
from vmctl.ops.instances import find


def remove(app: App, ref: str, *, force: bool = False) -> ActionResult:
    """Remove an instance with all that was made for it. Raises WrongState for a running one without ``force``."""
    record = find(app, ref)
    if not force:
        try:
            state = app.backend(record.backend).inspect(app.ref(record.id)).state
        except NotFound:
            state = record.state
        if state in ALIVE:
            hint = f"vmctl stop {record.name}, or vmctl rm -f {record.name}"
            raise WrongState(f"{record.name} is {state}", hint=hint)
    remove_body(app, record)
    return ActionResult(name=record.name, action="removed", id=record.id)
