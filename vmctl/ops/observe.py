"""Asks the backends what is there and brings the ledger up to date with the answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from vmctl.app import App
from vmctl.backends.base import CanStats, Ref
from vmctl.backends.registry import shared_names
from vmctl.errors import VmctlError
from vmctl.model.observed import Foreign, Observed
from vmctl.model.state import ALIVE, State
from vmctl.ops.ending import note_state, settle
from vmctl.ops.parallel import side_by_side
from vmctl.ops.sweep import sweep_once

if TYPE_CHECKING:
    from vmctl.allocation.records import Observation
    from vmctl.ledger.records import InstanceRecord


class _Answer(NamedTuple):
    bodies: list[Observed]
    foreign: list[Foreign]


def refresh(app: App) -> list[tuple[InstanceRecord, Observed | None]]:
    """Every instance with its body as it is now. Only backends that have instances are asked, side by side.

    Compute of bodies that ended by themselves is released. An instance whose backend is down is UNKNOWN.
    """
    sweep_once(app)
    names = {record.backend for record in app.ledger.instances()}
    bodies = _settle(app, _ask(app, names, with_foreign=False))
    return [(record, bodies.get(record.id)) for record in app.ledger.instances()]


def observe(app: App) -> Observation:
    """What admission needs to know: our bodies, and those of others wherever others can have any."""
    from vmctl.allocation.records import Observation

    sweep_once(app)
    names = {*shared_names(), *(record.backend for record in app.ledger.instances())}
    answers = _ask(app, names, with_foreign=True)
    _settle(app, answers)
    served = {name: answer for name, answer in answers.items() if not isinstance(answer, VmctlError)}
    foreign = [item for answer in served.values() for item in answer.foreign]
    for name, answer in served.items():
        foreign += [_as_foreign(name, body) for body in answer.bodies if body.ledger != app.ledger.uuid]
    return Observation(foreign=foreign, backends=frozenset(served), residents=lambda: _residents(app))


def count_foreign(app: App) -> None:
    """Observe, and write the workloads of others into the ledger, for those who only look at it."""
    seen = observe(app)
    app.allocator.observe_foreign(seen.foreign or [], seen.backends)


def _residents(app: App) -> dict[str, int]:
    """Bytes of memory that our running instances use, by id: for the second gate, asked only when it matters."""
    running: dict[str, list[Ref]] = defaultdict(list)
    for record in app.allocator.compute_holders():
        running[record.backend].append(app.ref(record.id))
    used: dict[str, int] = {}
    for name, refs in running.items():
        backend = app.backend(name)
        if isinstance(backend, CanStats):
            used |= {usage.id: usage.memory for usage in backend.stats(refs)}
    return used


def _ask(app: App, names: Iterable[str], *, with_foreign: bool) -> dict[str, _Answer | VmctlError]:
    def ask(name: str) -> _Answer:
        backend = app.backend(name)
        return _Answer(backend.instances(), backend.foreign() if with_foreign else [])

    return side_by_side({name: partial(ask, name) for name in names})


def _settle(app: App, answers: dict[str, _Answer | VmctlError]) -> dict[str, Observed]:
    """Write down what was seen; our bodies by id.

    The bodies were listed first, so every body that is meant to live has its row, and its compute claim, by now.
    """
    records = {record.id: record for record in app.ledger.instances()}
    entitled = {claim.instance_id for claim in app.allocator.claim_views() if claim.part == "compute"}
    bodies: dict[str, Observed] = {}
    for name, answer in answers.items():
        if isinstance(answer, VmctlError):
            continue
        for body in answer.bodies:
            if body.ledger != app.ledger.uuid:
                continue
            if body.id not in records:
                _remove_stray(app, name, body.id)
                continue
            bodies[body.id] = body
            if body.state in ALIVE and body.id not in entitled:
                bodies[body.id] = _end_unclaimed(app, records[body.id])
    for record in records.values():
        asked = answers.get(record.backend)
        if asked is None:
            continue
        if isinstance(asked, VmctlError):
            note_state(app, record, State.UNKNOWN)
        else:
            settle(app, record, bodies.get(record.id))
    return bodies


def _as_foreign(backend: str, body: Observed) -> Foreign:
    """A body that another ledger made takes from the same host as anybody else's."""
    return Foreign(
        backend=backend,
        native_name=body.name,
        kind=body.kind,
        running=body.state in ALIVE,
        cpu_millis=body.cpu_limit_millis or 0,
        memory=body.memory_limit or 0,
    )


def _end_unclaimed(app: App, record: InstanceRecord) -> Observed:
    """A body that runs on nobody's account: a start that its daemon carried out late (section 10, P7)."""
    backend, ref = app.backend(record.backend), app.ref(record.id)
    backend.stop(ref, timeout=0)
    app.notice(f"stopped {record.name}: it ran without a claim")
    return backend.inspect(ref)


def _remove_stray(app: App, backend: str, instance_id: str) -> None:
    """A body with our ledger's mark and no row: a daemon carried out a dead client's request (section 10, P7)."""
    app.backend(backend).delete(app.ref(instance_id))
    app.notice(f"removed a stray {backend} body without a claim: {instance_id}")
