"""What containers use: samples of ours, and the commitments of foreign ones."""

from __future__ import annotations

import time

from vmctl.backends.docker import states
from vmctl.backends.docker.cgroup import Cgroup, network_bytes
from vmctl.backends.docker.native import Container
from vmctl.model.observed import Foreign, Usage
from vmctl.model.state import ALIVE, Kind

_HEADROOM_PERCENT = 110  # a container without limit may take a little more than it has now (allocation, section 12)


def usage(container: Container) -> Usage | None:
    """A sample of ours; None if it does not run."""
    pid = container.state.pid
    used = Cgroup(pid, container.id).used() if pid else None
    if used is None:
        return None
    received, sent = network_bytes(pid)
    return Usage(
        id=container.labels.get(states.LABEL_ID, ""),
        at=time.time_ns(),
        cpu_ns=used.cpu_ns,
        memory=used.memory,
        memory_limit=container.host_config.memory or None,
        pids=used.pids,
        net_rx=received,
        net_tx=sent,
        block_read=used.block_read,
        block_write=used.block_write,
    )


def foreign(container: Container) -> Foreign:
    """A container of somebody else: its limits, or what it uses (CPU as the mean since its start)."""
    used = Cgroup(container.state.pid, container.id).used() if container.state.pid else None
    resident = used.memory if used else 0
    cpu = states.cpu_limit(container)
    if cpu is None:
        age = time.time_ns() - (states.nanoseconds(container.state.started_at) or 0)
        cpu = used.cpu_ns * 1000 // max(1, age) if used else 0
    return Foreign(
        backend="docker",
        native_name=container.name.lstrip("/") or container.id[:12],
        kind=Kind.CONTAINER,
        running=states.state_of(container.state) in ALIVE,
        cpu_millis=cpu,
        memory=container.host_config.memory or resident * _HEADROOM_PERCENT // 100,
        resident=resident,
    )
