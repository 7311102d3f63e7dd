"""Turns a decision into the error that the user sees: one line that names each short resource, one line of hint."""

from __future__ import annotations

from vmctl.allocation.records import Decision, Verdict
from vmctl.errors import DoesNotFitNow, NeverFits
from vmctl.model.resources import Resource, Shortage
from vmctl.units import format_cpus, format_size

_WORDS = {
    Resource.CPU_SHARED: "CPU",
    Resource.MEM: "memory",
    Resource.PIDS: "process count",
    Resource.INST: "instance count",
    Resource.DISK_VIRT: "disk",
    Resource.DISK_PHYS: "disk space",
}
_SIZES = {Resource.MEM, Resource.DISK_VIRT, Resource.DISK_PHYS}


def human(resource: str, amount: int) -> str:
    """An amount in the words of the command line."""
    if resource in _SIZES:
        return format_size(amount)
    return format_cpus(amount) if resource == Resource.CPU_SHARED else str(amount)


def refusal(name: str, decision: Decision) -> NeverFits | DoesNotFitNow:
    """The error for a decision that is not FITS; ``details`` carries the shortages for machines."""
    what = "; ".join(_sentence(shortage, decision.verdict) for shortage in decision.shortages)
    details = {"verdict": decision.verdict.value, "shortages": [shortage_details(one) for one in decision.shortages]}
    if decision.verdict is Verdict.NEVER:
        return NeverFits(
            f"'{name}' can never fit on this host: {what}",
            hint="ask for less, or see 'vmctl host inspect' for what there is",
            details=details,
        )
    return DoesNotFitNow(f"'{name}' does not fit now: {what}", hint=_cure(decision), details=details)


def shortage_details(shortage: Shortage) -> dict[str, object]:
    """The machine form of a shortage: names, integers in the resource's unit."""
    return {
        "resource": shortage.key.resource,
        "pool": shortage.key.pool,
        "gate": shortage.gate,
        "needed": shortage.needed,
        "free": shortage.free,
        "capacity": shortage.capacity,
        "holders": [{"name": name, "amount": amount} for name, amount in shortage.holders],
    }


def _sentence(shortage: Shortage, verdict: Verdict) -> str:
    resource = shortage.key.resource
    word = _WORDS.get(Resource(resource), resource) if resource in set(Resource) else resource
    needed, free = human(resource, shortage.needed), human(resource, shortage.free)
    capacity = human(resource, shortage.capacity)
    if shortage.gate == "pressure":
        needed, capacity = f"{shortage.needed / 100:.1f} %", f"{shortage.capacity / 100:.0f} %"
        return f"the host is short of memory already (pressure {needed}, limit {capacity})"
    if shortage.gate == "watermark":
        return f"the storage pool is filled to {needed}, new disks stop at {capacity}"
    if shortage.gate == "single":
        return f"{word} needs {needed}, one instance can get {capacity} at most"
    if shortage.gate == "unit":
        return f"{word} of {needed} is not a possible amount"
    if verdict is Verdict.NEVER:
        return f"{word} needs {needed}, the host can give {capacity}"
    text = f"{word} needs {needed}, free {free}"
    if shortage.gate == "available":
        text += " (really available)"
    if shortage.holders:
        held = ", ".join(f"{name} {human(resource, amount)}" for name, amount in shortage.holders)
        text += f", most held by {held}"
    return text


def _cure(decision: Decision) -> str:
    gates = {shortage.gate for shortage in decision.shortages}
    if "watermark" in gates:
        return "free some disk space, for example with 'vmctl system prune'"
    if "capacity" in gates:
        return "stop or remove one of the holders (vmctl claim ls), or ask for less"
    return "wait until the host has memory to spare, or ask for less"
