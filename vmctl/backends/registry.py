"""Finds backends by name, without importing more than the one asked for.

Third parties add backends through the entry point group ``vmctl.backends`` (a ``BackendFactory`` each).
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

from vmctl.backends.base import Backend, BackendFactory
from vmctl.errors import UsageError
from vmctl.model.state import Kind

_SHIPPED = {
    "libvirt": "vmctl.backends.libvirt.adapter",
    "docker": "vmctl.backends.docker.adapter",
    "sandbox": "vmctl.backends.sandbox.adapter",
    "fake": "vmctl.backends.fake",
}
_SHARED = ("libvirt", "docker")
_DEFAULTS = {Kind.VM: "libvirt", Kind.CONTAINER: "docker", Kind.APP: "sandbox"}


def default_backend(kind: Kind) -> str:
    """The backend that serves ``kind`` unless the user names one."""
    return _DEFAULTS[kind]


def shared_names() -> list[str]:
    """Backends whose manager serves others, too: every admission asks them, even if vmctl has nothing there."""
    return list(_SHARED)


def backend_names() -> list[str]:
    """Shipped backends first, then those of third parties. The fake is for tests: selectable, not listed.

    Finding third parties costs 20 ms: not on the way of ``run`` and ``ps``.
    """
    return [name for name in _SHIPPED if name != "fake"] + sorted(_third_party())


def open_backend(name: str, state: Path) -> Backend:
    """Make the backend called ``name``. Every shipped adapter module has a ``BackendFactory`` called ``open_backend``.

    Raises UsageError for an unknown name.
    """
    if name in _SHIPPED:
        factory = importlib.import_module(_SHIPPED[name]).open_backend
    elif name in (others := _third_party()):
        factory = others[name]
    else:
        raise UsageError(f"no backend called '{name}'", hint="known backends: " + ", ".join(backend_names()))
    return cast(BackendFactory, factory)(state)


def _third_party() -> dict[str, BackendFactory]:
    from importlib.metadata import entry_points

    return {point.name: point.load() for point in entry_points(group="vmctl.backends")}
