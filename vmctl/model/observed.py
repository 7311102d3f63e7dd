"""What backends report: our instances, the workloads of others, measurements, and their own health."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from vmctl.model.state import Exit, Kind, State


class Health(StrEnum):
    """UNDETECTED: not installed. UNHEALTHY: installed, does not serve."""

    UNDETECTED = "undetected"
    UNHEALTHY = "unhealthy"
    HEALTHY = "healthy"


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """The health of a backend; ``reason`` and ``hint`` MUST be set unless healthy. ``facts`` are for people."""

    health: Health
    version: str = ""
    reason: str = ""
    hint: str = ""
    facts: dict[str, str] = {}


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """One of our instances as its backend sees it. Times are nanoseconds since the epoch.

    ``ledger`` is the uuid of the ledger that made it: bodies of other ledgers are foreign to this one.
    The limits are those read back from where they are enforced; None: not enforced or not running.
    """

    id: str
    ledger: str
    name: str
    kind: Kind
    state: State
    exit: Exit | None = None
    started_at: int | None = None
    pid: int | None = None
    addresses: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()  # "127.0.0.1:8080->80/tcp"
    memory_limit: int | None = None
    cpu_limit_millis: int | None = None
    pids_limit: int | None = None
    restarts: int = 0


class Foreign(msgspec.Struct, frozen=True, kw_only=True):
    """A workload that vmctl did not start, with what it can take (allocation design, section 12)."""

    backend: str
    native_name: str
    kind: Kind
    running: bool
    cpu_millis: int
    memory: int
    resident: int = 0  # bytes of `memory` that are in use already (for the second gate)


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """One sample of a running instance. ``cpu_ns`` is cumulative CPU time; rates are the caller's business."""

    id: str
    at: int
    cpu_ns: int
    memory: int
    memory_limit: int | None = None
    pids: int | None = None
    net_rx: int | None = None
    net_tx: int | None = None
    block_read: int | None = None
    block_write: int | None = None


class Overhead(msgspec.Struct, frozen=True, kw_only=True):
    """What a body costs beyond what its workload asked for, measured; bytes and millicpu."""

    memory: int = 0
    cpu_millis: int = 0
    pids: int = 0
    measured: bool = True
