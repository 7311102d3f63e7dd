"""The ledger's rows as values."""

from __future__ import annotations

import functools
import os
from enum import StrEnum
from pathlib import Path

import msgspec

from vmctl.model.resources import HOST_POOL, PPM, ResourceKey
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Desired, Exit, Kind, State


class ClaimState(StrEnum):
    """States of a claim (allocation design, section 10)."""

    QUEUED = "QUEUED"
    HELD = "HELD"            # counted; no side effect outside the ledger is possible yet
    REALISING = "REALISING"  # a backend may have been asked to make or start the body
    ACTIVE = "ACTIVE"
    RESIZING = "RESIZING"
    RELEASING = "RELEASING"  # the body is going; still counted
    RELEASED = "RELEASED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"
    FOREIGN = "FOREIGN"      # observed, never owned


COUNTED = frozenset(ClaimState) - {ClaimState.QUEUED, ClaimState.RELEASED, ClaimState.CANCELLED}
"""States in which a claim's amounts are part of the counters."""

IN_MOTION = frozenset({ClaimState.HELD, ClaimState.REALISING, ClaimState.RESIZING, ClaimState.RELEASING})
"""Counted states that somebody must carry on: a living owner, or the recovery sweep."""

MOVES: frozenset[tuple[ClaimState, ClaimState]] = frozenset(
    {
        (ClaimState.HELD, ClaimState.REALISING),
        (ClaimState.HELD, ClaimState.RELEASED),
        (ClaimState.REALISING, ClaimState.ACTIVE),
        (ClaimState.REALISING, ClaimState.RELEASING),
        (ClaimState.ACTIVE, ClaimState.RELEASING),
        (ClaimState.RELEASING, ClaimState.RELEASED),
        (ClaimState.FOREIGN, ClaimState.RELEASED),
    }
)
"""The arrows of the diagram that exist today; everything else is refused by the ledger itself."""


class Part(StrEnum):
    """STATIC: disk, instance count and name, from create to rm. COMPUTE: CPU, memory, pids, from start to the end."""

    STATIC = "static"
    COMPUTE = "compute"


class ClaimClass(StrEnum):
    """SESSION claims die with their owner; LEASE claims at a time; DURABLE ones when released."""

    SESSION = "session"
    LEASE = "lease"
    DURABLE = "durable"


@functools.cache
def boot_id() -> str:
    """Names this boot of the host; empty where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def process_starttime(pid: int) -> int | None:
    """Clock ticks since boot at which ``pid`` started (with the pid a name that is not reused); None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(stat.rpartition(b")")[2].split()[19])


class Owner(msgspec.Struct, frozen=True):
    """The process in charge of a claim, for display; the owner lock decides whether it lives."""

    pid: int
    starttime: int
    boot_id: str

    @classmethod
    def me(cls) -> Owner:
        pid = os.getpid()
        return cls(pid, process_starttime(pid) or 0, boot_id())

    def alive(self) -> bool:
        return self.boot_id == boot_id() and process_starttime(self.pid) == self.starttime


class InstanceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One instance. ``state`` and ``exit`` are what was observed last; times are nanoseconds since the epoch."""

    id: str
    name: str
    project: str
    kind: Kind
    backend: str
    spec: InstanceSpec
    image_digest: str | None
    desired: Desired
    state: State
    exit: Exit | None
    created_at: int
    started_at: int | None
    restarts: int


class ClaimRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One claim. ``amounts`` is what is counted, ``overhead`` the part of it that nobody asked for by name.

    ``instance_id`` is None for foreign workloads only. ``lease_until`` is nanoseconds since the epoch.
    """

    id: str
    instance_id: str | None
    part: Part
    state: ClaimState
    claim_class: ClaimClass
    name: str
    project: str
    kind: Kind | None
    backend: str
    amounts: dict[ResourceKey, int]
    overhead: dict[ResourceKey, int]
    owner: Owner | None
    created_at: int
    lease_until: int | None = None
    generation: int = 0


class InventoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One resource of one pool: what there is, what is kept back, what is claimed of it."""

    key: ResourceKey
    total: int
    reserved: int
    ratio_ppm: int
    used: int = 0
    min_unit: int = 1
    max_unit: int | None = None
    step: int = 1
    source: str = "probed"

    @property
    def capacity(self) -> int:
        """(total - reserved) * ratio, rounded down: for display; checks use the exact products."""
        return (self.total - self.reserved) * self.ratio_ppm // PPM


class EventRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the audit trail. ``type`` is an EventType's value, or ``refuse`` or ``inventory``.

    ``delta`` is what was added to the counters, by ``str(ResourceKey)``; ``mono`` is the monotonic clock in ns.
    """

    seq: int
    at: int
    mono: int
    boot_id: str
    uid: int
    pid: int
    type: str
    instance_id: str
    name: str
    kind: str
    claim_id: str
    from_state: str
    to_state: str
    delta: dict[str, int]
    detail: str
    hash: str


def parse_key(text: str) -> ResourceKey:
    """The inverse of ``str(ResourceKey)``."""
    resource, _, pool = text.partition("@")
    return ResourceKey(pool or HOST_POOL, resource)
