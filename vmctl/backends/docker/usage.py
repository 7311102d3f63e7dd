"""What containers use: samples of ours, and the commitments of foreign ones."""

from __future__ import annotations

import time

from vmctl.backends.docker import limits, states
from vmctl.backends.docker.native import Container, Stats
from vmctl.model.observed import Foreign, Usage
from vmctl.model.state import ALIVE, Kind

_HEADROOM_PERCENT = 110  # a container without limit may take a little more than it has now (allocation, section 12)


def usage(instance_id: str, sample: Stats) -> Usage | None:
    """A sample of ours; None if the container did not run."""
    at = states.nanoseconds(sample.read)
    if at is None:
        return None
    networks = (sample.networks or {}).values()
    limit = sample.memory_stats.limit
    return Usage(
        id=instance_id,
        at=at,
        cpu_ns=sample.cpu_stats.cpu_usage.total_usage,
        memory=sample.memory_stats.working_set,
        memory_limit=limit if 0 < limit < limits.UNLIMITED else None,
        pids=sample.pids_stats.current,
        net_rx=sum(network.rx_bytes for network in networks),
        net_tx=sum(network.tx_bytes for network in networks),
        block_read=sample.blkio_stats.total("read"),
        block_write=sample.blkio_stats.total("write"),
    )


def foreign(container: Container) -> Foreign:
    """A container of somebody else: its limits, or what it uses (CPU as the mean since its start)."""
    resident = limits.memory_in_use(container.state.pid) or 0
    cpu = states.cpu_limit(container)
    return Foreign(
        backend="docker",
        native_name=container.name.lstrip("/") or container.id[:12],
        kind=Kind.CONTAINER,
        running=states.state_of(container.state) in ALIVE,
        cpu_millis=_mean_cpu_millis(container) if cpu is None else cpu,
        memory=container.host_config.memory or resident * _HEADROOM_PERCENT // 100,
        resident=resident,
    )


def _mean_cpu_millis(container: Container) -> int:
    used = limits.cpu_time(container.state.pid)
    started = states.nanoseconds(container.state.started_at)
    if used is None or started is None:
        return 0
    return used * 1000 // max(1, time.time_ns() - started)
