"""What a user should hear once about a backend on this host: why machines are slow, which limits are weak."""

from __future__ import annotations

import zlib

from vmctl.app import App
from vmctl.backends.base import Advises, Backend


def advise(app: App, backend: Backend) -> None:
    """Say the backend's advice, unless it has been said on this host before."""
    text = backend.advice() if isinstance(backend, Advises) else ""
    if not text:
        return
    said = app.paths.cache / f"advice-{zlib.crc32(text.encode()):08x}"
    if said.exists():
        return
    app.notice(text)
    said.touch()
