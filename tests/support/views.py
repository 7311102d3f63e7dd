"""Views with sensible fields, for tests of what is shown."""

from __future__ import annotations

from typing import Any

from vmctl.model.state import Desired, Kind, State
from vmctl.model.views import InstanceView

SOME_ID = "01jd0000000000000000000000"


def instance(**changes: Any) -> InstanceView:
    """A running container called ``web``, with ``changes``."""
    fields: dict[str, Any] = {
        "id": SOME_ID,
        "name": "web",
        "kind": Kind.CONTAINER,
        "backend": "docker",
        "project": "default",
        "image": "busybox",
        "state": State.RUNNING,
        "desired": Desired.RUNNING,
        "exit_code": None,
        "created_at": 0,
        "started_at": None,
        "cpu_millis": 1000,
        "memory": 512 << 20,
        "disk": 1 << 30,
        "pids": 1024,
        "addresses": ("10.0.0.2",),
    }
    return InstanceView(**(fields | changes))
