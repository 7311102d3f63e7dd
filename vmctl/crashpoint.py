"""Places at which tests kill the process, as kill -9 or a power cut would.

``VMCTL_CRASH_AT=<name>`` makes :func:`crash_point` with that name end the process by SIGKILL, so that nothing (no
``finally``, no ``atexit``, no flush) runs after it. Modules declare their points when imported; a test iterates
:func:`crash_points`, so a point that is forgotten by the tests cannot exist.
"""

from __future__ import annotations

import os
import signal

_VARIABLE = "VMCTL_CRASH_AT"
_points: set[str] = set()


def declare_crash_points(*names: str) -> None:
    """Register the names of the points that the calling module passes through."""
    _points.update(names)


def crash_points() -> list[str]:
    """All declared names, sorted."""
    return sorted(_points)


def crash_point(name: str) -> None:
    """Die here if the environment says so. ``name`` MUST have been declared."""
    if os.environ.get(_VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
