"""Kinds, states and ends of instances."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """The level of isolation: a machine of its own, a shared kernel, or a confined process."""

    VM = "vm"
    CONTAINER = "container"
    APP = "app"


class State(StrEnum):
    """What an instance's body is doing. Adapters map native states onto these, totally and without loss."""

    PENDING = "pending"    # claimed, no body yet
    QUEUED = "queued"      # waits for capacity
    CREATED = "created"    # body exists and has never run
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"    # ran and ended (by request or by itself); `exit` says how
    FAILED = "failed"      # could not start, or its monitor or hypervisor died under it
    LOST = "lost"          # the ledger has it, the backend does not
    UNKNOWN = "unknown"    # the backend cannot be asked now


ALIVE = frozenset({State.STARTING, State.RUNNING, State.PAUSED, State.STOPPING})
"""States in which a body uses compute (CPU, memory, pids)."""


class Desired(StrEnum):
    """What the user last asked for; the ledger keeps it apart from what is observed."""

    STOPPED = "stopped"
    RUNNING = "running"
    PAUSED = "paused"
    REMOVED = "removed"


class RestartPolicy(StrEnum):
    """Docker's words and meaning. `unless-stopped` differs from `always` only across a daemon's restart."""

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"
    UNLESS_STOPPED = "unless-stopped"


class Exit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the main process, or one started by exec, ended.

    ``code`` is what a shell would see: the exit status, or 128 + ``signal``. ``at`` is nanoseconds since the epoch.
    """

    code: int
    signal: int | None = None
    oom: bool = False
    at: int | None = None
    error: str = ""
