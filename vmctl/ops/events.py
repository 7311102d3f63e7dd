"""``vmctl events``: what happens to instances, from the ledger and from every backend."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from vmctl.app import App
from vmctl.backends.base import CanEvents
from vmctl.backends.registry import backend_names
from vmctl.errors import VmctlError
from vmctl.model.event import Event, EventType
from vmctl.ops.sweep import sweep_once

if TYPE_CHECKING:
    from vmctl.ledger.records import EventRecord

_POLL_SECONDS = 0.25
_TYPES = frozenset(member.value for member in EventType)


def events(app: App, *, since_ns: int | None = None, follow: bool = True) -> Iterator[Event]:
    """The ledger's events since ``since_ns`` (None: from now on), then, with ``follow``, all that happens.

    Backends report what happens to bodies by themselves (an end, a kill by another tool); the ledger reports what
    vmctl did and how claims moved. A backend that is down is left out.
    """
    sweep_once(app)
    last = app.ledger.last_seq() if since_ns is None else 0
    start = since_ns or 0
    incoming: queue.Queue[Event] = queue.Queue()
    done = threading.Event()
    threads = _listen(app, incoming, done) if follow else []
    try:
        while True:
            for record in app.ledger.events(since_seq=last):
                last = record.seq
                if record.at >= start and (event := _from_ledger(record)):
                    yield event
            if not follow:
                return
            yield from _drain(app, incoming)
    finally:
        done.set()
        for thread in threads:
            thread.join(timeout=2)


def _from_ledger(record: EventRecord) -> Event | None:
    """A row of the audit trail as an event; None for rows that concern no instance (inventory changes)."""
    if record.type not in _TYPES:
        return None
    move = f"{record.from_state}->{record.to_state}" if record.to_state else ""
    return Event(
        at=record.at,
        type=EventType(record.type),
        instance_id=record.instance_id,
        name=record.name,
        kind=record.kind,
        detail=" ".join(filter(None, (move, record.detail))),
    )


def _drain(app: App, incoming: queue.Queue[Event]) -> Iterator[Event]:
    """What has arrived within one poll period, with the names that users gave."""
    deadline = time.monotonic() + _POLL_SECONDS
    names: dict[str, str] | None = None
    while (left := deadline - time.monotonic()) > 0:
        try:
            event = incoming.get(timeout=left)
        except queue.Empty:
            return
        if names is None:
            names = {record.id: record.name for record in app.ledger.instances()}
        yield msgspec.structs.replace(event, name=names.get(event.instance_id, event.name))


def _listen(app: App, incoming: queue.Queue[Event], done: threading.Event) -> list[threading.Thread]:
    def listen(backend: CanEvents) -> None:
        try:
            backend.events(incoming.put, done.is_set)
        except VmctlError:
            return  # down: nothing of its bodies will happen that it could tell

    threads = []
    for name in backend_names():
        backend = app.backend(name)
        if isinstance(backend, CanEvents):
            threads.append(threading.Thread(target=listen, args=(backend,), daemon=True))
            threads[-1].start()
    return threads
