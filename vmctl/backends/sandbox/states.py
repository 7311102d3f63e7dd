"""The supervisor's words as vmctl's states."""

from __future__ import annotations

from vmctl.backends.sandbox import cgroup
from vmctl.backends.sandbox.order import End, Order, Status
from vmctl.model.observed import Observed
from vmctl.model.state import Exit, Kind, State

WORDS = {
    "starting": State.STARTING,
    "running": State.RUNNING,
    "stopping": State.STOPPING,
    "stopped": State.STOPPED,
    "failed": State.FAILED,
}
"""Every ``state`` that a supervisor writes."""

_ENDED = (State.STOPPED, State.FAILED)


def state_of(status: Status | None, *, alive: bool, frozen: bool) -> State:
    """``alive``: the supervisor holds its lock. A status of a living one without its process is a failure."""
    if status is None:
        return State.STARTING if alive else State.CREATED
    state = WORDS.get(status["state"], State.UNKNOWN)
    if state in _ENDED:
        return state
    if not alive:
        return State.FAILED
    return State.PAUSED if frozen and state is State.RUNNING else state


def exit_of(end: End | None) -> Exit | None:
    """How the program ended, if it has."""
    if end is None:
        return None
    return Exit(code=end["code"], signal=end["signal"], oom=end["oom"], at=end["at"], error=end["error"])


def observe(order: Order, status: Status | None, *, alive: bool) -> Observed:
    """One instance, with the limits that its group enforces now."""
    group = order["group"]
    state = state_of(status, alive=alive, frozen=alive and cgroup.is_frozen(group))
    end = exit_of(status["end"]) if status else None
    if state is State.FAILED and end is None:
        end = Exit(code=137, signal=9, error="its supervisor ended without a word")
    limits = cgroup.read_limits(group) if alive else cgroup.Limits(None, None, None)
    return Observed(
        id=order["id"],
        ledger=order["ledger"],
        name=order["name"],
        kind=Kind.APP,
        state=state,
        exit=end,
        started_at=status["started_at"] if status else None,
        pid=status["program"] if status and alive else None,
        memory_limit=limits.memory,
        cpu_limit_millis=limits.cpu_millis,
        pids_limit=limits.pids,
        restarts=status["restarts"] if status else 0,
    )
