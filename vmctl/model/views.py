"""Results of operations: what ``ops`` returns and ``output`` shows. Field names are the machine output's names.

Bytes and millicpu are integers; times are nanoseconds since the epoch here and RFC 3339 UTC in machine output
(every field whose name ends in ``_at``). Additive changes only: the names are a contract.
"""

from __future__ import annotations

import msgspec

from vmctl.model.capability import Feature
from vmctl.model.observed import Health
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Desired, Exit, Kind, State


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything that is shown."""


class InstanceView(View, frozen=True):
    """One row of ``ps``."""

    id: str
    name: str
    kind: Kind
    backend: str
    project: str
    image: str | None
    state: State
    desired: Desired
    exit_code: int | None
    created_at: int
    started_at: int | None
    cpu_millis: int
    memory: int
    disk: int
    pids: int
    addresses: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    labels: dict[str, str] = {}


class ClaimView(View, frozen=True):
    """One claim: ``amounts`` (what is counted, overhead included) and ``overhead`` by resource name."""

    id: str
    instance_id: str | None
    name: str
    project: str
    kind: Kind | None
    backend: str
    part: str   # static | compute
    state: str  # QUEUED HELD REALISING ACTIVE RESIZING RELEASING RELEASED CANCELLED LOST FOREIGN
    claim_class: str  # session | lease | durable
    amounts: dict[str, int]
    overhead: dict[str, int]
    owner_pid: int | None
    owner_alive: bool
    created_at: int
    lease_until_at: int | None = None


class InstanceDetail(View, frozen=True):
    """``inspect``: the row, the whole spec, what is enforced, and what is claimed."""

    instance: InstanceView
    spec: InstanceSpec
    exit: Exit | None
    image_digest: str | None
    restarts: int
    pid: int | None
    enforced: dict[str, int | None]  # memory, cpu_millis, pids as read back
    claims: tuple[ClaimView, ...]
    directory: str


class StatsRow(View, frozen=True):
    """Measured use beside what is reserved; ``cpu_millis_used`` is a rate over the sampling interval."""

    id: str
    name: str
    kind: Kind
    cpu_millis_used: int
    cpu_millis: int
    memory_used: int
    memory: int
    pids_used: int | None
    net_rx: int | None
    net_tx: int | None
    block_read: int | None
    block_write: int | None


class ImageView(View, frozen=True):
    """One image of the store."""

    name: str
    digest: str
    config_digest: str
    architecture: str
    os: str
    size: int
    created_at: int
    layers: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()  # forms prepared already: docker, tree, disk


class HostResource(View, frozen=True):
    """One resource of the host: capacity = (total - reserved) * ratio; ``foreign`` is part of ``claimed``."""

    pool: str
    resource: str
    unit: str
    total: int
    reserved: int
    ratio_ppm: int
    capacity: int
    claimed: int
    foreign: int
    free: int
    used: int | None  # what the host itself measures, where it can
    source: str  # probed | configured


class HostView(View, frozen=True):
    """``host inspect``."""

    hostname: str
    cpus: int
    memory: int
    kernel: str
    ledger: str
    resources: tuple[HostResource, ...]


class BackendView(View, frozen=True):
    """One row of ``backend ls``; ``capabilities`` maps a feature to "" or the reason why not."""

    name: str
    kinds: tuple[Kind, ...]
    health: Health
    version: str
    reason: str
    hint: str
    facts: dict[str, str]
    capabilities: dict[Feature, str]


class Check(View, frozen=True):
    """One line of ``doctor``. ``remedy`` is what to type; ``needed`` false: nice to have, does not fail doctor."""

    part: str
    ok: bool
    detail: str
    remedy: str = ""
    needed: bool = True


class ShortageView(View, frozen=True):
    """One resource that is short."""

    resource: str
    pool: str
    gate: str
    needed: int
    free: int
    capacity: int
    holders: tuple[tuple[str, int], ...]


class Explanation(View, frozen=True):
    """``claim explain``: ``verdict`` is fits | not-now | never."""

    verdict: str
    demand: dict[str, int]
    overhead: dict[str, int]
    shortages: tuple[ShortageView, ...]


class DiskUsageRow(View, frozen=True):
    """One row of ``system df``."""

    what: str
    count: int
    size: int
    reclaimable: int


class ActionResult(View, frozen=True):
    """What a verb did to one instance or image: ``action`` in the past tense (started, removed ...)."""

    name: str
    action: str
    id: str = ""
    detail: str = ""
