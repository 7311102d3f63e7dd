"""``vmctl wait``."""

from __future__ import annotations

from vmctl.app import App
from vmctl.model.state import Exit
from vmctl.ops.ending import finish
from vmctl.ops.instances import find


def wait(app: App, ref: str, timeout: float | None = None) -> Exit:
    """Block until the main process has ended for good; how it ended.

    Raises TimedOut after ``timeout`` seconds.
    """
    record = find(app, ref)
    end = app.backend(record.backend).wait(app.ref(record.id), timeout)
    finish(app, record)
    return end
