"""Docker's states and times become vmctl's."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum

from vmctl.backends.docker.native import Container, ContainerState, NetworkSettings
from vmctl.model.observed import Observed
from vmctl.model.state import ALIVE, Exit, Kind, State

LABEL_ID = "vmctl.id"
LABEL_LEDGER = "vmctl.ledger"
LABEL_CLAIM = "vmctl.claim"
LABEL_NAME = "vmctl.name"
LABEL_SPEC = "vmctl.spec"

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
_UNLIMITED_PIDS = (None, 0, -1)


class Status(StrEnum):
    """Docker's whole enumeration (moby, container/state.go: State.StateString)."""

    CREATED = "created"
    RESTARTING = "restarting"
    RUNNING = "running"
    REMOVING = "removing"
    PAUSED = "paused"
    EXITED = "exited"
    DEAD = "dead"


STATES = {
    Status.CREATED: State.CREATED,
    Status.RESTARTING: State.STARTING,  # its restart policy waits to start it again: the claim stays
    Status.RUNNING: State.RUNNING,
    Status.REMOVING: State.STOPPING,
    Status.PAUSED: State.PAUSED,
    Status.EXITED: State.STOPPED,
    Status.DEAD: State.FAILED,  # half removed: the daemon could not free its files
}


def state_of(native: ContainerState) -> State:
    """The state; FAILED also when the last start did not succeed. UNKNOWN for a word that Docker does not document."""
    try:
        state = STATES[Status(native.status)]
    except ValueError:
        return State.UNKNOWN
    could_not_start = bool(native.error) and state in (State.CREATED, State.STOPPED)
    return State.FAILED if could_not_start else state


def exit_of(native: ContainerState) -> Exit | None:
    """How it last ended; None if it lives or has never run.

    Docker does not tell "exit 137" from "killed by signal 9": ``signal`` is set only for an OOM kill.
    """
    never_ran = native.status == Status.CREATED and not native.error
    if never_ran or native.running or state_of(native) in ALIVE:
        return None
    return Exit(
        code=native.exit_code,
        signal=9 if native.oom_killed and native.exit_code == 137 else None,
        oom=native.oom_killed,
        at=nanoseconds(native.finished_at),
        error=native.error,
    )


def observed(container: Container) -> Observed:
    """One of our containers as the ledger wants to know it."""
    state = state_of(container.state)
    host, alive = container.host_config, state in ALIVE
    labels = container.labels
    return Observed(
        id=labels.get(LABEL_ID, ""),
        ledger=labels.get(LABEL_LEDGER, ""),
        name=labels.get(LABEL_NAME, ""),
        kind=Kind.CONTAINER,
        state=state,
        exit=exit_of(container.state),
        started_at=nanoseconds(container.state.started_at),
        pid=container.state.pid or None,
        addresses=_addresses(container.network_settings),
        ports=_ports(container.network_settings),
        memory_limit=host.memory or None if alive else None,
        cpu_limit_millis=cpu_limit(container) if alive else None,
        pids_limit=None if not alive or host.pids_limit in _UNLIMITED_PIDS else host.pids_limit,
        restarts=container.restart_count,
    )


def cpu_limit(container: Container) -> int | None:
    """Millicpu; None if not limited."""
    host = container.host_config
    if host.nano_cpus:
        return host.nano_cpus // 1_000_000
    if host.cpu_quota > 0:
        return host.cpu_quota * 1000 // (host.cpu_period or 100_000)
    return None


def nanoseconds(text: str) -> int | None:
    """Nanoseconds since the epoch from Docker's RFC 3339 times; None for its zero time and for nonsense."""
    match = _TIME.fullmatch(text)
    if not match or text.startswith("0001-"):
        return None
    zone = "+00:00" if match[3] == "Z" else match[3]
    seconds = int(datetime.fromisoformat(match[1] + zone).astimezone(UTC).timestamp())
    return seconds * 1_000_000_000 + int((match[2] or "0").ljust(9, "0"))


def _addresses(settings: NetworkSettings) -> tuple[str, ...]:
    endpoints = [endpoint for endpoint in (settings.networks or {}).values() if endpoint]
    both = [address for end in endpoints for address in (end.ip_address, end.global_ipv6_address)]
    return tuple(address for address in both if address)


def _ports(settings: NetworkSettings) -> tuple[str, ...]:
    return tuple(
        f"{f'[{binding.host_ip}]' if ':' in binding.host_ip else binding.host_ip}:{binding.host_port}->{inside}"
        for inside, bindings in sorted((settings.ports or {}).items())
        for binding in bindings or ()
    )
