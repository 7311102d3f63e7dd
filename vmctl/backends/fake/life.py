"""The life of fake bodies: what the passing of time, requests and signals do to them."""

from __future__ import annotations

import time
import zlib
from types import TracebackType

from vmctl.backends.fake import files, program
from vmctl.backends.fake.store import SECOND, FakeBody, Memory, Running, Store
from vmctl.errors import CannotInvoke, ProgramNotFound
from vmctl.model.event import Event, EventType
from vmctl.model.observed import Observed, Usage
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import ALIVE, Exit, RestartPolicy, State

_FIRST_DELAY = SECOND // 10
_LONGEST_DELAY = 60 * SECOND
_MEMORY_IN_USE = 1 << 20
_FIRST_PORT = 49152


class Settled:
    """``with Settled(store) as memory``: the store, open, with everything done that time has brought."""

    def __init__(self, store: Store) -> None:
        self._opened = store.open()

    def __enter__(self) -> Memory:
        memory = self._opened.__enter__()
        now = time.time_ns()
        for body in memory.bodies.values():
            settle(memory, body, now)
        return memory

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)


class MainTarget:
    """A session's view of the main process, in the run that began at ``started_at``."""

    def __init__(self, store: Store, body_id: str, started_at: int | None) -> None:
        self._store = store
        self._id = body_id
        self._started_at = started_at

    def look(self) -> tuple[Running | None, bool]:
        with Settled(self._store) as memory:
            body = memory.bodies.get(self._id)
            if body is None or body.main is None or body.started_at != self._started_at:
                return None, True
            return body.main, body.main.exit is not None

    def feed(self, data: bytes) -> None:
        with Settled(self._store) as memory:
            body = memory.bodies.get(self._id)
            if body and body.main and body.main.reads:
                body.main.feed(data, time.time_ns())

    def signal(self, number: int) -> None:
        with Settled(self._store) as memory:
            if body := memory.bodies.get(self._id):
                signal(memory, body, str(number), time.time_ns(), final=False)

    def close(self) -> None:
        """The main process lives on."""


def state_of(body: FakeBody) -> State:
    if body.failure:
        return State.FAILED
    if body.main is None:
        return State.CREATED
    if body.paused_at is not None:
        return State.PAUSED
    if body.main.exit is None:
        return State.RUNNING
    return State.STOPPED if body.restart_at is None else State.STARTING


def exit_of(body: FakeBody) -> Exit | None:
    """How it ended for good; None if it lives, or has never run."""
    return body.main.exit if body.main and state_of(body) not in ALIVE else None


def start(memory: Memory, body: FakeBody, now: int, *, restarts: int = 0) -> None:
    """Begin a run, the ``restarts``th by its restart policy. Raises ProgramNotFound, CannotInvoke."""
    try:
        steps = list(program.MACHINE)
        if body.process is not None:
            steps = program.work_out(body.process, hostname(body), files.reader(body))
    except (ProgramNotFound, CannotInvoke) as error:
        body.failure = error.message
        raise
    if body.main is not None:
        body.log += body.main.log
    body.main = Running(steps=steps, due=now, stdin=bool(body.process and body.process.stdin))
    body.started_at, body.restart_at, body.stopped, body.failure = now, None, False, ""
    body.restarts = restarts
    tell(memory, body, EventType.START, now)
    settle(memory, body, now)


def settle(memory: Memory, body: FakeBody, now: int) -> None:
    """Bring the body up to ``now``: steps that are due, its end, restarts."""
    while body.main is not None and body.paused_at is None:
        if body.main.exit is None:
            end = body.main.advance(now)
            if end is None:
                return
            _ended(memory, body, end)
        if body.restart_at is None or body.restart_at > now:
            return
        start(memory, body, body.restart_at, restarts=body.restarts + 1)


def signal(memory: Memory, body: FakeBody, name: str, now: int, *, final: bool) -> None:
    """Send a signal; ``final``: whatever ends the body now, or has ended it, no restart follows."""
    number = program.signal_number(name)
    if final:
        body.stopped = True
        body.restart_at = None
    if body.main is None or body.main.exit is not None:
        return
    if end := body.main.signal(number, now):
        body.paused_at = None
        _ended(memory, body, end)


def pause(memory: Memory, body: FakeBody, now: int) -> None:
    if body.paused_at is None:
        body.paused_at = now
        tell(memory, body, EventType.PAUSE, now)


def unpause(memory: Memory, body: FakeBody, now: int) -> None:
    """What was still to come is later by the length of the pause."""
    if body.paused_at is not None and body.main is not None:
        body.main.due += now - body.paused_at
        body.paused_at = None
        tell(memory, body, EventType.RESUME, now)


def tell(memory: Memory, body: FakeBody, kind: EventType, at: int, detail: str = "") -> None:
    event = Event(at=at, type=kind, instance_id=body.id, name=body.name, kind=body.spec.kind, detail=detail)
    memory.tell(event)


def observed(body: FakeBody) -> Observed:
    state, spec = state_of(body), body.spec
    alive = state in ALIVE
    end = Exit(code=127, error=body.failure) if body.failure else exit_of(body)
    return Observed(
        id=body.id,
        ledger=body.ledger,
        name=body.name,
        kind=spec.kind,
        state=state,
        exit=end,
        started_at=body.started_at,
        addresses=(_address(body.id),) if alive and spec.network not in ("none", "host") else (),
        ports=_ports(spec) if alive else (),
        memory_limit=spec.memory if alive else None,
        cpu_limit_millis=spec.cpu_millis if alive else None,
        pids_limit=spec.pids if alive else None,
        restarts=body.restarts,
    )


def usage(body: FakeBody, now: int) -> Usage:
    """A tenth of a CPU, since it started; a mebibyte."""
    return Usage(
        id=body.id,
        at=now,
        cpu_ns=max(0, now - (body.started_at or now)) // 10,
        memory=min(_MEMORY_IN_USE, body.spec.memory),
        memory_limit=body.spec.memory,
        pids=1,
        net_rx=0,
        net_tx=0,
        block_read=0,
        block_write=0,
    )


def hostname(body: FakeBody) -> str:
    return body.spec.hostname or body.name


def _ended(memory: Memory, body: FakeBody, end: Exit) -> None:
    at = end.at or time.time_ns()
    tell(memory, body, EventType.STOP, at, f"exit={end.code}")
    spec = body.spec
    again = {
        RestartPolicy.NO: False,
        RestartPolicy.ON_FAILURE: end.code != 0 and (not spec.restart_max or body.restarts < spec.restart_max),
        RestartPolicy.ALWAYS: True,
        RestartPolicy.UNLESS_STOPPED: True,
    }[spec.restart]
    if again and not body.stopped:
        body.restart_at = at + min(_FIRST_DELAY << min(body.restarts, 10), _LONGEST_DELAY)


def _address(body_id: str) -> str:
    """Of the block for documentation, the same for the same body."""
    return f"192.0.2.{zlib.crc32(body_id.encode()) % 254 + 1}"


def _ports(spec: InstanceSpec) -> tuple[str, ...]:
    return tuple(
        f"{port.host_address}:{port.host_port or _FIRST_PORT + index}->{port.port}/{port.protocol}"
        for index, port in enumerate(spec.ports)
    )
