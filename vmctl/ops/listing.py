"""``vmctl ps`` and ``vmctl inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmctl.app import App
from vmctl.errors import NotFound, UsageError
from vmctl.model.observed import Observed
from vmctl.model.state import ALIVE, State
from vmctl.model.views import InstanceDetail, InstanceView
from vmctl.ops.instances import find
from vmctl.ops.observe import refresh

if TYPE_CHECKING:
    from vmctl.ledger.records import InstanceRecord

FILTERS = ("name", "kind", "state", "backend", "project", "image", "label")
"""What ``--filter KEY=VALUE`` can look at; ``label`` takes ``key`` or ``key=value``."""


def list_instances(app: App, *, all: bool = False, filters: dict[str, str] | None = None) -> list[InstanceView]:
    """Instances as they are now, the oldest first; without ``all`` only those that use compute, are lost or unknown."""
    wanted = filters or {}
    if unknown := sorted(set(wanted) - set(FILTERS)):
        raise UsageError(f"cannot filter by '{unknown[0]}'", hint="filters: " + ", ".join(FILTERS))
    shown = ALIVE | {State.LOST, State.UNKNOWN, State.PENDING}
    views = [view(record, body) for record, body in refresh(app) if all or wanted or record.state in shown]
    return [row for row in views if all_match(row, wanted)]


def inspect(app: App, ref: str) -> InstanceDetail:
    """Everything known of one instance. Raises NotFound."""
    record = find(app, ref)
    target = app.ref(record.id)
    try:
        body = app.backend(record.backend).inspect(target)
    except NotFound:
        body = None
    return InstanceDetail(
        instance=view(record, body),
        spec=record.spec,
        exit=body.exit if body else record.exit,
        image_digest=record.image_digest,
        restarts=body.restarts if body else record.restarts,
        pid=body.pid if body else None,
        enforced={
            "memory": body.memory_limit if body else None,
            "cpu_millis": body.cpu_limit_millis if body else None,
            "pids": body.pids_limit if body else None,
        },
        claims=tuple(claim for claim in app.allocator.claim_views() if claim.instance_id == record.id),
        directory=str(target.directory),
    )


def view(record: InstanceRecord, body: Observed | None) -> InstanceView:
    """One row: the ledger's word for what is wanted, the backend's for what is."""
    end = body.exit if body else record.exit
    return InstanceView(
        id=record.id,
        name=record.name,
        kind=record.kind,
        backend=record.backend,
        project=record.project,
        image=record.spec.image,
        state=body.state if body else record.state,
        desired=record.desired,
        exit_code=end.code if end else None,
        created_at=record.created_at,
        started_at=body.started_at if body else record.started_at,
        cpu_millis=record.spec.cpu_millis,
        memory=record.spec.memory,
        disk=record.spec.disk,
        pids=record.spec.pids,
        addresses=body.addresses if body else (),
        ports=body.ports if body else (),
        command=record.spec.command,
        labels=record.spec.labels,
    )


def all_match(row: InstanceView, wanted: dict[str, str]) -> bool:
    """Whether ``row`` passes every filter; names match by substring, the rest exactly."""
    return all(_matches(row, key, value) for key, value in wanted.items())


def _matches(row: InstanceView, key: str, value: str) -> bool:
    if key == "label":
        label, equals, content = value.partition("=")
        return label in row.labels and (not equals or row.labels[label] == content)
    if key == "name":
        return value in row.name
    return str(getattr(row, key) or "") == value
