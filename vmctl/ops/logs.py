"""``vmctl logs``."""

from __future__ import annotations

from collections.abc import Iterator

from vmctl.app import App
from vmctl.model.event import LogRecord
from vmctl.ops.instances import find


def logs(
    app: App, ref: str, *, follow: bool = False, tail: int | None = None, since_ns: int | None = None
) -> Iterator[LogRecord]:
    """What the instance has written, oldest first. ``tail`` counts lines; ``since_ns`` is nanoseconds since 1970."""
    record = find(app, ref)
    backend = app.backend(record.backend)
    for entry in backend.logs(app.ref(record.id), follow=follow, tail=tail):
        if since_ns is None or entry.at >= since_ns:
            yield entry
