"""Events of applications, found by looking at their status files: there is no daemon that could send them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from vmctl.model.event import Event, EventType
from vmctl.model.observed import Observed
from vmctl.model.state import State

_POLL = 0.1
_RUNS = (State.RUNNING, State.PAUSED, State.STOPPING)
_ENDED = (State.STOPPED, State.FAILED)


def watch(
    instances: Callable[[], list[Observed]], callback: Callable[[Event], None], stop: Callable[[], bool]
) -> None:
    """Compare what is with what was, ten times a second, until ``stop()``."""
    before = {observed.id: observed for observed in instances()}
    while not stop():
        time.sleep(_POLL)
        now = {observed.id: observed for observed in instances()}
        for identity, observed in now.items():
            for kind, detail in changes(before.get(identity), observed):
                callback(_event(kind, observed, detail))
        for identity, observed in before.items():
            if identity not in now:
                callback(_event(EventType.REMOVE, observed, ""))
        before = now


def changes(before: Observed | None, now: Observed) -> Iterator[tuple[EventType, str]]:
    """What happened between two looks, also when something began and ended in between."""
    if before is None:
        yield EventType.CREATE, ""
    if now.started_at is not None and (before is None or before.started_at != now.started_at):
        yield EventType.START, ""
    was = before.state if before else None
    if now.state is State.PAUSED and was is not State.PAUSED:
        yield EventType.PAUSE, ""
    if was is State.PAUSED and now.state is State.RUNNING:
        yield EventType.RESUME, ""
    known = before.exit if before else None
    if now.exit is not None and now.exit != known:
        if now.exit.oom:
            yield EventType.OOM, ""
        yield EventType.STOP, f"exit={now.exit.code}"


def _event(kind: EventType, observed: Observed, detail: str) -> Event:
    return Event(
        at=time.time_ns(),
        type=kind,
        instance_id=observed.id,
        name=observed.name,
        kind=observed.kind.value,
        detail=detail,
    )
