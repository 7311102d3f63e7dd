"""``vmctl console``: a machine's serial console."""

from __future__ import annotations

from vmctl.app import App
from vmctl.backends.base import CanConsole, Stdio
from vmctl.errors import Unsupported
from vmctl.model.capability import Feature
from vmctl.model.state import Exit
from vmctl.ops.instances import find


def console(app: App, ref: str, stdio: Stdio) -> Exit | None:
    """Forward both ways until the machine ends (its Exit) or the console is left (None).

    Raises NotFound, WrongState, Unsupported, Conflict (somebody else has it).
    """
    record = find(app, ref)
    backend = app.backend(record.backend)
    if not isinstance(backend, CanConsole):
        raise Unsupported(f"{backend.name} has no consoles: {backend.capabilities()[Feature.CONSOLE]}")
    attachment = backend.console(app.ref(record.id))
    try:
        return attachment.pump(stdio)
    finally:
        attachment.close()
