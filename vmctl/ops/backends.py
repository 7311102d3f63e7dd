"""``vmctl backend ls``."""

from __future__ import annotations

from functools import partial

from vmctl.app import App
from vmctl.backends.registry import backend_names
from vmctl.errors import VmctlError
from vmctl.model.views import BackendView
from vmctl.ops.parallel import side_by_side


def list_backends(app: App) -> list[BackendView]:
    """Every backend with its health and what it can do, asked side by side."""
    answers = side_by_side({name: partial(_view, app, name) for name in backend_names()})
    views = []
    for answer in answers.values():
        if isinstance(answer, VmctlError):
            raise answer
        views.append(answer)
    return views


def _view(app: App, name: str) -> BackendView:
    backend = app.backend(name)
    probe = backend.probe()
    return BackendView(
        name=name,
        kinds=tuple(sorted(backend.kinds)),
        health=probe.health,
        version=probe.version,
        reason=probe.reason,
        hint=probe.hint,
        facts=probe.facts,
        capabilities=dict(backend.capabilities()),
    )
