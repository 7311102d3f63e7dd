"""``vmctl doctor``: is every part of this host as vmctl needs it, and if not, what to type."""

from __future__ import annotations

import os
from collections.abc import Iterator

from vmctl.app import App
from vmctl.errors import VmctlError
from vmctl.model.views import Check
from vmctl.ops.checks_backends import backend_checks
from vmctl.ops.checks_host import host_checks
from vmctl.ops.checks_images import image_checks


def doctor(app: App) -> Iterator[Check]:
    """The checks, as they are made (some take seconds). A missing kernel is prepared on the way.

    The host is broken when any check is neither ``ok`` nor nice to have (``needed``).
    """
    yield from host_checks(app.paths.state)
    yield from backend_checks(app)
    yield from image_checks(app.paths.state)
    yield ledger(app)


def ledger(app: App) -> Check:
    """Opened, replayed and compared with its tables."""
    part = "ledger"
    path = app.paths.ledger
    if not path.exists() and os.access(next(folder for folder in path.parents if folder.exists()), os.W_OK):
        return Check(part=part, ok=True, detail=f"{path}: none yet, made at first use")
    try:
        problems = app.ledger.fsck()
    except VmctlError as error:
        return Check(part=part, ok=False, detail=error.message, remedy=error.hint)
    if problems:
        return Check(
            part=part,
            ok=False,
            detail=f"{path}: {problems[0]}" + (f" and {len(problems) - 1} more" if problems[1:] else ""),
            remedy=f"keep a copy of {path}, then report the problem",
        )
    return Check(part=part, ok=True, detail=f"{path}: tables and events agree")
