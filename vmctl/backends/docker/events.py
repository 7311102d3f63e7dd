"""The engine's events of our containers, in vmctl's words."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol

import msgspec

from vmctl.backends.docker import states
from vmctl.backends.docker.client import Client
from vmctl.errors import BackendUnavailable
from vmctl.model.event import Event, EventType
from vmctl.model.state import Kind

_TYPES = {
    "create": EventType.CREATE,
    "start": EventType.START,
    "pause": EventType.PAUSE,
    "unpause": EventType.RESUME,
    "die": EventType.STOP,
    "oom": EventType.OOM,
    "destroy": EventType.REMOVE,
}
_ASK_STOP = 0.25


class _Actor(msgspec.Struct, frozen=True, rename="pascal"):
    attributes: dict[str, str] = {}


class _Native(msgspec.Struct, frozen=True, kw_only=True):
    """One message of ``GET /events``; the labels are among the actor's attributes."""

    action: str = msgspec.field(name="Action", default="")
    actor: _Actor = msgspec.field(name="Actor", default=_Actor())
    at: int = msgspec.field(name="timeNano", default=0)


class _Stream(Protocol):
    """What the SDK calls a CancellableStream."""

    def __iter__(self) -> Iterator[object]: ...

    def close(self) -> None: ...


def follow(client: Client, callback: Callable[[Event], None], stop: Callable[[], bool]) -> None:
    """Until ``stop()``. A thread reads, since the SDK's stream can only block; closing the stream ends it.

    Raises BackendUnavailable when the daemon goes away.
    """
    filters = {"type": "container", "label": states.LABEL_ID}
    with client.sdk_errors() as sdk:
        stream: _Stream = sdk.events(filters=filters, decode=True)
    arrived: queue.SimpleQueue[object] = queue.SimpleQueue()

    def read() -> None:
        with suppress(Exception):  # whatever ends the stream, the reader is told that it has ended
            for item in stream:
                arrived.put(item)
        arrived.put(None)

    reader = threading.Thread(target=read, name="docker-events", daemon=True)
    reader.start()
    try:
        while not stop():
            with suppress(queue.Empty):
                item = arrived.get(timeout=_ASK_STOP)
                if item is None:
                    raise BackendUnavailable("Docker ended the stream of events")
                if event := translate(msgspec.convert(item, _Native)):
                    callback(event)
    finally:
        with suppress(Exception):
            stream.close()
        reader.join(1.0)


def translate(native: _Native) -> Event | None:
    """Our event; None for actions that say nothing about an instance's state (exec, resize, attach ...)."""
    kind = _TYPES.get(native.action)
    if kind is None:
        return None
    attributes = native.actor.attributes
    detail = f"exit={attributes['exitCode']}" if "exitCode" in attributes else ""
    return Event(
        at=native.at,
        type=kind,
        instance_id=attributes.get(states.LABEL_ID, ""),
        name=attributes.get(states.LABEL_NAME, ""),
        kind=Kind.CONTAINER,
        detail=detail,
    )
