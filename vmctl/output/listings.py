"""The columns of every table: what people see first."""

from __future__ import annotations

import time

from vmctl.model.event import Event
from vmctl.model.state import State
from vmctl.model.views import (
    ActionResult,
    BackendView,
    ClaimView,
    DiskUsageRow,
    HostResource,
    ImageView,
    InstanceDetail,
    InstanceView,
    StatsRow,
)
from vmctl.output.machine import rfc3339
from vmctl.output.show import Listing
from vmctl.output.tables import Column
from vmctl.units import format_cpus, format_duration, format_size

_UNITS = {"byte": format_size, "bytes": format_size, "millicpu": format_cpus}


def ago(nanoseconds: int | None) -> str:
    """How long ago, for people; empty when it never was."""
    if nanoseconds is None:
        return ""
    return format_duration(max(0.0, time.time() - nanoseconds / 1e9)) + " ago"


def amount(unit: str, value: int | None) -> str:
    """``value`` of a resource in the way people read its unit."""
    if value is None:
        return "-"
    return _UNITS.get(unit, str)(value)


def resource_amount(resource: str, value: int) -> str:
    """``value`` of the resource class called ``resource`` (``mem@pool`` forms included)."""
    name = resource.partition("@")[0]
    unit = "millicpu" if name.startswith("cpu") else "bytes" if name.startswith(("mem", "disk")) else "count"
    return amount(unit, value)


def _state(view: InstanceView) -> str:
    if view.state in (State.STOPPED, State.FAILED) and view.exit_code is not None:
        return f"{view.state.value} ({view.exit_code})"
    return view.state.value


def _pair(one: int | None, two: int | None) -> str:
    return "-" if one is None and two is None else f"{format_size(one or 0)} / {format_size(two or 0)}"


INSTANCES: Listing[InstanceView] = Listing(
    kind="instances",
    view=InstanceView,
    columns=(
        Column("NAME", lambda view: view.name),
        Column("KIND", lambda view: view.kind.value),
        Column("STATE", _state),
        Column("IMAGE", lambda view: view.image or "-", cut=True),
        Column("CPUS", lambda view: format_cpus(view.cpu_millis), right=True),
        Column("MEMORY", lambda view: format_size(view.memory), right=True),
        Column("STARTED", lambda view: ago(view.started_at) or "-"),
        Column("ADDRESS", lambda view: ",".join(view.addresses) or "-", cut=True),
        Column("PORTS", lambda view: ",".join(view.ports) or "-", cut=True),
    ),
    key=lambda view: view.name,
)

DETAILS: Listing[InstanceDetail] = Listing(
    kind="instance-details",
    view=InstanceDetail,
    columns=(),
    key=lambda view: view.instance.name,
)

STATS: Listing[StatsRow] = Listing(
    kind="stats",
    view=StatsRow,
    columns=(
        Column("NAME", lambda row: row.name),
        Column("KIND", lambda row: row.kind.value),
        Column("CPU", lambda row: f"{row.cpu_millis_used / 10:.1f}%", right=True),
        Column("CPUS", lambda row: format_cpus(row.cpu_millis), right=True),
        Column("MEMORY", lambda row: f"{format_size(row.memory_used)} / {format_size(row.memory)}", right=True),
        Column("PIDS", lambda row: "-" if row.pids_used is None else str(row.pids_used), right=True),
        Column("NET RX / TX", lambda row: _pair(row.net_rx, row.net_tx), right=True),
        Column("DISK R / W", lambda row: _pair(row.block_read, row.block_write), right=True),
    ),
    key=lambda row: row.name,
)

EVENTS: Listing[Event] = Listing(
    kind="events",
    view=Event,
    columns=(
        Column("TIME", lambda event: rfc3339(event.at)),
        Column("KIND", lambda event: event.kind or "-"),
        Column("EVENT", lambda event: event.type.value),
        Column("NAME", lambda event: event.name or event.instance_id),
        Column("DETAIL", lambda event: event.detail),
    ),
    key=lambda event: event.name,
)

IMAGES: Listing[ImageView] = Listing(
    kind="images",
    view=ImageView,
    columns=(
        Column("NAME", lambda image: image.name, cut=True),
        Column("DIGEST", lambda image: image.digest.removeprefix("sha256:")[:12]),
        Column("SIZE", lambda image: format_size(image.size), right=True),
        Column("ARCH", lambda image: image.architecture),
        Column("CREATED", lambda image: ago(image.created_at)),
        Column("READY FOR", lambda image: ",".join(image.forms) or "-"),
    ),
    key=lambda image: image.name,
)

CLAIMS: Listing[ClaimView] = Listing(
    kind="claims",
    view=ClaimView,
    columns=(
        Column("NAME", lambda claim: claim.name),
        Column("KIND", lambda claim: claim.kind.value if claim.kind else "-"),
        Column("PART", lambda claim: claim.part),
        Column("STATE", lambda claim: claim.state),
        Column("CLASS", lambda claim: claim.claim_class),
        Column("AMOUNTS", lambda claim: _amounts(claim.amounts), cut=True),
        Column("OVERHEAD", lambda claim: _amounts(claim.overhead) or "-", cut=True),
        Column("AGE", lambda claim: ago(claim.created_at).removesuffix(" ago")),
    ),
    key=lambda claim: claim.id,
)

HOST: Listing[HostResource] = Listing(
    kind="host-resources",
    view=HostResource,
    columns=(
        Column("RESOURCE", lambda row: row.resource if row.pool == "host" else f"{row.resource}@{row.pool}"),
        Column("TOTAL", lambda row: amount(row.unit, row.total), right=True),
        Column("RESERVED", lambda row: amount(row.unit, row.reserved), right=True),
        Column("RATIO", lambda row: f"{row.ratio_ppm / 1_000_000:g}", right=True),
        Column("CAPACITY", lambda row: amount(row.unit, row.capacity), right=True),
        Column("CLAIMED", lambda row: amount(row.unit, row.claimed), right=True),
        Column("FOREIGN", lambda row: amount(row.unit, row.foreign), right=True),
        Column("FREE", lambda row: amount(row.unit, row.free), right=True),
        Column("USED", lambda row: amount(row.unit, row.used), right=True),
        Column("SOURCE", lambda row: row.source),
    ),
    key=lambda row: row.resource,
)

BACKENDS: Listing[BackendView] = Listing(
    kind="backends",
    view=BackendView,
    columns=(
        Column("NAME", lambda backend: backend.name),
        Column("KINDS", lambda backend: ",".join(backend.kinds)),
        Column("HEALTH", lambda backend: backend.health.value),
        Column("VERSION", lambda backend: backend.version or "-"),
        Column("REASON", lambda backend: backend.reason or "-", cut=True),
    ),
    key=lambda backend: backend.name,
)

DISK_USAGE: Listing[DiskUsageRow] = Listing(
    kind="disk-usage",
    view=DiskUsageRow,
    columns=(
        Column("WHAT", lambda row: row.what),
        Column("COUNT", lambda row: str(row.count), right=True),
        Column("SIZE", lambda row: format_size(row.size), right=True),
        Column("RECLAIMABLE", lambda row: format_size(row.reclaimable), right=True),
    ),
    key=lambda row: row.what,
)

ACTIONS: Listing[ActionResult] = Listing(
    kind="actions",
    view=ActionResult,
    columns=(
        Column("NAME", lambda result: result.name),
        Column("ACTION", lambda result: result.action),
        Column("DETAIL", lambda result: result.detail or "-", cut=True),
    ),
    key=lambda result: result.name,
)


def _amounts(amounts: dict[str, int]) -> str:
    return " ".join(f"{resource}={resource_amount(resource, value)}" for resource, value in sorted(amounts.items()))
