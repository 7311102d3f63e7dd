"""``vmctl host inspect|set``."""

from __future__ import annotations

import os

from vmctl.app import App
from vmctl.model.resources import Resource
from vmctl.model.views import HostResource, HostView
from vmctl.ops.observe import count_foreign


def inspect_host(app: App) -> HostView:
    """The host's resources: what there is, what is claimed (by whom it may be), what is free."""
    count_foreign(app)
    resources = app.allocator.host_resources()
    totals = {row.resource: row.total for row in resources}
    machine = os.uname()
    return HostView(
        hostname=machine.nodename,
        cpus=totals[Resource.CPU_SHARED] // 1000,
        memory=totals[Resource.MEM],
        kernel=machine.release,
        ledger=app.ledger.uuid,
        resources=tuple(resources),
    )


def set_host(
    app: App, resource: str, *, total: int | None = None, reserved: int | None = None, ratio_ppm: int | None = None
) -> HostResource:
    """Set what may be used of one resource, in its unit; None keeps what is set. Raises UsageError."""
    app.allocator.set_resource(resource, total=total, reserved=reserved, ratio_ppm=ratio_ppm)
    return _row(app, resource)


def reset_host(app: App, resource: str) -> HostResource:
    """Back to what is found on the host. Raises UsageError for an unknown resource."""
    app.allocator.reset_resource(resource)
    return _row(app, resource)


def _row(app: App, resource: str) -> HostResource:
    """``resource`` may name its pool: ``disk.virt@storage:default``."""
    return next(row for row in app.allocator.host_resources() if row.resource == resource.partition("@")[0])
