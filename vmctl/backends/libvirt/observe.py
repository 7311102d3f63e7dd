"""What a domain looks like to vmctl: one XML document and one state a domain, and nothing kept between calls."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec

from vmctl.backends.libvirt import folder
from vmctl.backends.libvirt.accel import KVM, TCG
from vmctl.backends.libvirt.addresses import noted_in
from vmctl.backends.libvirt.client import Domain, DomainStats
from vmctl.backends.libvirt.plan import Owner, owner_of
from vmctl.backends.libvirt.states import DomainState, ShutoffReason, state_of
from vmctl.model.ids import native_name
from vmctl.model.observed import Observed, Usage
from vmctl.model.state import ALIVE, Exit, Kind, RestartPolicy, State

_KIB = 1024


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """A domain's XML, read. ``cpu_millis`` is what libvirt was told to enforce."""

    owner: Owner | None
    memory: int
    vcpus: int
    cpu_millis: int
    accel: str
    macs: tuple[str, ...]
    network: str
    address: str


def describe(xml: str) -> Description:
    """Read a domain's XML as libvirt gives it (libvirt is trusted; the XML is its own)."""
    root = ET.fromstring(xml)  # noqa: S314
    vcpus = int(root.findtext("vcpu", "1"))
    quota, period = root.findtext("cputune/quota"), root.findtext("cputune/period")
    limited = quota is not None and period is not None and int(quota) > 0
    per_vcpu = int(quota or 0) * 1000 / int(period or 1) if limited else 1000
    return Description(
        owner=owner_of(root),
        memory=int(root.findtext("memory", "0")) * _KIB,
        vcpus=vcpus,
        cpu_millis=round(per_vcpu * vcpus),
        accel=KVM if root.get("type") == "kvm" else TCG,
        macs=tuple(mac.get("address", "").lower() for mac in root.iterfind("devices/interface/mac")),
        network=source.get("network", "") if (source := root.find("devices/interface/source")) is not None else "",
        address=noted_in(root),
    )


def describe_safely(domain: Domain) -> Description | None:
    """The same of a listed domain; None if it is gone meanwhile. Other errors of libvirt pass."""
    import libvirt

    try:
        return describe(domain.XMLDesc())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def enforced_cpu(domain: Domain, described: Description) -> int:
    """Millicpu as the cgroup has it, for a running machine of the system's libvirt."""
    parameters = domain.schedulerParameters()
    period, quota = parameters.get("vcpu_period", 0), parameters.get("vcpu_quota", -1)
    return round(quota * 1000 / period * described.vcpus) if quota > 0 and period > 0 else described.vcpus * 1000


def ending(directory: Path, native: int, reason: int) -> tuple[State, Exit | None]:
    """State and end of one of ours, from libvirt's state and what its folder says.

    A machine with our init that is off without having said how its main process ended has FAILED, unless somebody
    switched it off.
    """
    marks = folder.load_marks(directory)
    state = state_of(native, reason, ever_started=marks.started_at is not None)
    if marks.started_at is None:
        return state, None
    order = folder.find_order(directory)
    init = order is not None and order.process is not None
    end = folder.recorded_exit(directory, marks.started_at) if init else None
    if state in ALIVE:
        if state is State.RUNNING and init and not marks.booted:
            return State.STARTING, None
        if end is not None and order is not None and order.restart is RestartPolicy.NO:
            return State.STOPPING, end  # without a policy there is only one end: the machine is going down
        return state, None
    if marks.forced is not None and marks.forced.error:
        return State.FAILED, marks.forced
    end = end or marks.forced
    if end is None and native == DomainState.SHUTOFF and reason == ShutoffReason.DESTROYED:
        end = Exit(code=folder.FORCED, signal=9)
    if end is not None:
        return State.STOPPED, end
    if init:
        return State.FAILED, Exit(code=125, error="the machine ended before its main process did")
    return state, Exit(code=0) if state is State.STOPPED else None


def restarts(directory: Path, *, alive: bool) -> int:
    """How often the init has started the main process again."""
    marks, order = folder.load_marks(directory), folder.find_order(directory)
    if marks.started_at is None or order is None or order.process is None or order.restart is RestartPolicy.NO:
        return 0
    ends = folder.recorded_exits(directory, marks.started_at)
    return ends if alive else max(0, ends - 1)


def observed(
    owner: Owner,
    described: Description,
    native: tuple[int, int],
    *,
    system: bool,
    addresses: tuple[str, ...] = (),
    cpu_millis: int | None = None,
) -> Observed:
    """One of ours. ``cpu_millis``: as read back from the cgroup, where somebody did."""
    state, end = ending(owner.directory, *native)
    alive = state in ALIVE
    return Observed(
        id=owner.id,
        ledger=owner.ledger,
        name=owner.name,
        kind=Kind.VM,
        state=state,
        exit=end,
        started_at=folder.load_marks(owner.directory).started_at,
        pid=pid_of(owner.id, system=system) if alive else None,
        addresses=addresses if alive else (),
        memory_limit=described.memory if alive else None,
        cpu_limit_millis=(described.cpu_millis if cpu_millis is None else cpu_millis) if alive else None,
        restarts=restarts(owner.directory, alive=alive),
    )


def pid_of(instance_id: str, *, system: bool) -> int | None:
    """QEMU's pid, from the file that libvirt keeps it in; None where that is not ours to read."""
    runtime = Path("/run") if system else Path(os.environ.get("XDG_RUNTIME_DIR") or Path.home() / ".cache")
    folder_ = runtime / "libvirt/qemu" if system else runtime / "libvirt/qemu/run"
    with contextlib.suppress(OSError, ValueError):
        return int((folder_ / f"{native_name(instance_id)}.pid").read_text())
    return None


def usage_of(instance_id: str, stats: dict[str, int]) -> Usage:
    """One sample from libvirt's statistics. ``memory`` is what QEMU holds of the host, its own included."""
    return Usage(
        id=instance_id,
        at=time.time_ns(),
        cpu_ns=stats.get("cpu.time", 0),
        memory=stats.get("balloon.rss", 0) * _KIB,
        memory_limit=stats.get("balloon.maximum", 0) * _KIB or None,
        net_rx=_sum(stats, "net", "rx.bytes"),
        net_tx=_sum(stats, "net", "tx.bytes"),
        block_read=_sum(stats, "block", "rd.bytes"),
        block_write=_sum(stats, "block", "wr.bytes"),
    )


def _sum(stats: dict[str, int], group: str, counter: str) -> int | None:
    """The counter over all devices of a group; None where libvirt says nothing of the group."""
    if f"{group}.count" not in stats:
        return None
    return sum(stats.get(f"{group}.{index}.{counter}", 0) for index in range(stats[f"{group}.count"]))


def native_state(stats: DomainStats) -> tuple[int, int]:
    """libvirt's state and reason from bulk statistics."""
    return stats[1].get("state.state", 0), stats[1].get("state.reason", 0)
