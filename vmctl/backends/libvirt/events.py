"""libvirt's lifecycle events as ours, for the commands that watch."""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from vmctl.backends.libvirt.client import Domain, open_for_events
from vmctl.backends.libvirt.errors import START_HINT, translated
from vmctl.errors import BackendUnavailable
from vmctl.model.event import Event, EventType
from vmctl.model.ids import instance_id_of
from vmctl.model.state import Kind

_ASK_AGAIN = 0.2

_TYPES: dict[tuple[str, str | None], EventType] = {
    ("DEFINED", "ADDED"): EventType.CREATE,
    ("STARTED", None): EventType.START,
    ("SUSPENDED", "PAUSED"): EventType.PAUSE,
    ("RESUMED", "UNPAUSED"): EventType.RESUME,
    ("STOPPED", None): EventType.STOP,
    ("UNDEFINED", "REMOVED"): EventType.REMOVE,
}
"""By the names after VIR_DOMAIN_EVENT_; a detail of None stands for any. The rest is libvirt's own business."""


def event_table() -> dict[tuple[int, int | None], EventType]:
    """``_TYPES`` in libvirt's numbers."""
    import libvirt

    def number(*parts: str) -> int:
        return int(getattr(libvirt, "_".join(("VIR_DOMAIN_EVENT", *parts))))

    return {
        (number(event), None if detail is None else number(event, detail)): kind
        for (event, detail), kind in _TYPES.items()
    }


def watch(
    uri: str, callback: Callable[[Event], None], stop: Callable[[], bool], ending: Callable[[str], str]
) -> None:
    """Call back for events of our machines until ``stop()``; ``ending(id)`` gives the detail of a STOP.

    Raises BackendUnavailable, also when the connection is lost meanwhile.
    """
    import libvirt

    table = event_table()
    arrived: SimpleQueue[Event] = SimpleQueue()
    paused: set[str] = set()  # every start resumes, too: only what was paused counts

    def receive(_connection: object, domain: Domain, event: int, detail: int, _opaque: object) -> None:
        kind = table.get((event, detail)) or table.get((event, None))
        instance_id = instance_id_of(domain.name())
        if kind is None or instance_id is None or (kind is EventType.RESUME and instance_id not in paused):
            return
        (paused.add if kind is EventType.PAUSE else paused.discard)(instance_id)
        arrived.put(Event(at=time.time_ns(), type=kind, instance_id=instance_id, kind=Kind.VM.value))

    connection = open_for_events(uri)
    try:
        with translated("cannot watch machines"):
            for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_PAUSED):
                paused.add(instance_id_of(domain.name()) or "")
            number = connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, receive, None)
        while not stop():
            try:
                event = arrived.get(timeout=_ASK_AGAIN)
            except Empty:
                if not connection.isAlive():
                    raise BackendUnavailable("the connection to libvirt is lost", hint=START_HINT) from None
                continue
            if event.type is EventType.STOP:
                event = Event(
                    at=event.at,
                    type=event.type,
                    instance_id=event.instance_id,
                    kind=event.kind,
                    detail=ending(event.instance_id),
                )
            callback(event)
        with translated("cannot watch machines"):
            connection.domainEventDeregisterAny(number)
    finally:
        connection.close()
