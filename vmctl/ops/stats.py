"""``vmctl stats``: measured use beside what is reserved."""

from __future__ import annotations

import time
from collections import defaultdict
from functools import partial

from vmctl.app import App
from vmctl.backends.base import CanStats
from vmctl.errors import VmctlError
from vmctl.model.observed import Usage
from vmctl.model.state import ALIVE
from vmctl.model.views import StatsRow
from vmctl.ops.instances import find
from vmctl.ops.observe import refresh
from vmctl.ops.parallel import side_by_side


def stats(app: App, refs: list[str], *, interval: float = 1.0) -> list[StatsRow]:
    """One row for each running instance (of ``refs``, or all), rates taken over ``interval`` seconds."""
    named = {find(app, ref).id for ref in refs}
    records = {
        record.id: record
        for record, _ in refresh(app)
        if record.id in named or (not refs and record.state in ALIVE)
    }
    by_backend: dict[str, list[str]] = defaultdict(list)
    for record in records.values():
        by_backend[record.backend].append(record.id)

    def sample() -> dict[str, Usage]:
        def ask(name: str) -> list[Usage]:
            backend = app.backend(name)
            ours = [app.ref(records[instance].id) for instance in by_backend[name]]
            return backend.stats(ours) if isinstance(backend, CanStats) else []

        answers = side_by_side({name: partial(ask, name) for name in by_backend})
        return {usage.id: usage for answer in answers.values() for usage in _usages(answer)}

    first = sample()
    time.sleep(interval if first else 0)
    second = sample() if first else {}
    rows = []
    for instance, now in second.items():
        record = records[instance]
        before = first.get(instance, now)
        elapsed = max(now.at - before.at, 1)
        rows.append(
            StatsRow(
                id=instance,
                name=record.name,
                kind=record.kind,
                cpu_millis_used=max(now.cpu_ns - before.cpu_ns, 0) * 1000 // elapsed,
                cpu_millis=record.spec.cpu_millis,
                memory_used=now.memory,
                memory=record.spec.memory,
                pids_used=now.pids,
                net_rx=now.net_rx,
                net_tx=now.net_tx,
                block_read=now.block_read,
                block_write=now.block_write,
            )
        )
    return sorted(rows, key=lambda row: row.name)


def _usages(answer: list[Usage] | VmctlError) -> list[Usage]:
    if isinstance(answer, VmctlError):
        raise answer
    return answer
