"""``vmctl doctor``: what images are made with, and what image machines boot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vmctl.errors import VmctlError
from vmctl.images.tools import find_tool
from vmctl.model.views import Check

_TOOLS = {
    "mkfs.erofs": "file systems for image machines",
    "umoci": "image trees for applications",
    "busybox": "images from busybox, and every image machine",
    "mmdebstrap": "images from Debian and Ubuntu",
}


def image_checks(state: Path) -> Iterator[Check]:
    """The programs that the image store leaves work to, and the kernel of image machines."""
    for name, purpose in _TOOLS.items():
        yield _tool(name, purpose)
    yield _kernel(state)


def _tool(name: str, purpose: str) -> Check:
    try:
        path = find_tool(name)
    except VmctlError as error:
        return Check(part=name, ok=False, detail=f"{error.message}; needed for {purpose}", remedy=error.hint)
    return Check(part=name, ok=True, detail=path)


def _kernel(state: Path) -> Check:
    """Prepared now if it was not yet: the proof that it can be."""
    from vmctl.images.kernel import KernelStore

    part = "machine kernel"
    try:
        kernel = KernelStore(state).ensure()
    except VmctlError as error:
        return Check(part=part, ok=False, detail=error.message, remedy=error.hint)
    return Check(part=part, ok=True, detail=f"{kernel.version}, with its init")
