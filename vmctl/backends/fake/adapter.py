"""The fake's adapter: the contract over what :mod:`vmctl.backends.fake.store` remembers."""

from __future__ import annotations

import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Concatenate, ParamSpec, TypeVar

import msgspec

from vmctl.backends.base import Attachment, Body, NativePlan, Ref
from vmctl.backends.fake import files, life, program
from vmctl.backends.fake.session import ExecTarget, FakeSession
from vmctl.backends.fake.store import FakeBody, Memory, Running, Store
from vmctl.errors import Conflict, NotFound, TimedOut, Unsupported, UsageError, VmctlError, WrongState
from vmctl.model.capability import Capabilities, Feature
from vmctl.model.event import Event, EventType, LogRecord
from vmctl.model.image import ImageForm
from vmctl.model.observed import Foreign, Health, Observed, Overhead, Probe, Usage
from vmctl.model.process import Process
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import ALIVE, Exit, Kind, State

_TICK = 0.01
_NO_READ_ONLY = "its programs write no files anyway"

P = ParamSpec("P")
R = TypeVar("R")


def _step(method: Callable[Concatenate[FakeBackend, P], R]) -> Callable[Concatenate[FakeBackend, P], R]:
    """The method waits and fails as the environment says (see the package's docstring)."""

    def misbehaving(self: FakeBackend, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if delay := _wish("VMCTL_FAKE_DELAY", method.__name__):
            time.sleep(float(delay))
        if code := _wish("VMCTL_FAKE_FAIL", method.__name__):
            raise _error(code)(f"the fake was told to fail at '{method.__name__}'", hint="unset VMCTL_FAKE_FAIL")
        return method(self, *args, **kwargs)

    functools.update_wrapper(misbehaving, method)
    return misbehaving


class FakeBackend:
    """Keeps its bodies in ``file``; in memory, for this object alone, without one."""

    name = "fake"
    kinds = frozenset(Kind)
    image_form: ImageForm | None = None

    def __init__(self, file: Path | None = None) -> None:
        self._store = Store(file)

    def probe(self) -> Probe:
        return Probe(health=Health.HEALTHY, version="1", facts={"bodies": "imaginary"})

    def capabilities(self) -> Capabilities:
        return dict.fromkeys(Feature, "") | {Feature.READ_ONLY: _NO_READ_ONLY}

    def overhead(self, spec: InstanceSpec) -> Overhead:
        return Overhead()

    def validate(self, spec: InstanceSpec) -> None:
        if spec.memory < 1 or spec.cpu_millis < 1 or spec.pids < 1:
            raise UsageError("even a fake instance needs some memory, CPU and a process")
        if spec.read_only:
            raise Unsupported(f"no read-only root: {_NO_READ_ONLY}", hint="another backend: 'vmctl backend ls'")

    def plan(self, body: Body) -> NativePlan:
        text = msgspec.json.format(msgspec.json.encode(self._made(body), order="sorted"), indent=2).decode()
        return NativePlan("application/json", text + "\n")

    # -- life cycle ---------------------------------------------------------------------------------------------

    @_step
    def create(self, body: Body) -> None:
        self.validate(body.spec)
        try:
            body.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VmctlError(f"cannot make the folder {body.directory}: {error.strerror}") from error
        with self._settled() as memory:
            if body.id not in memory.bodies:
                memory.bodies[body.id] = made = self._made(body)
                life.tell(memory, made, EventType.CREATE, time.time_ns())

    @_step
    def start(self, ref: Ref, *, attach: bool = False) -> Attachment | None:
        with self._settled() as memory:
            body = _find(memory, ref)
            state = life.state_of(body)
            if state is State.PAUSED:
                raise WrongState("the instance is paused", hint="resume it")
            fresh = state not in ALIVE
            if fresh:
                _check_ports(memory, body)
                life.start(memory, body, time.time_ns())
            return self._session(body, seen=0 if fresh else None) if attach else None

    @_step
    def stop(self, ref: Ref, *, timeout: float, signal: str | None = None) -> None:
        deadline = time.monotonic() + timeout
        with self._settled() as memory:
            body = _find(memory, ref)
            wanted = signal or body.spec.stop_signal or "SIGTERM"
            life.unpause(memory, body, time.time_ns())
            life.signal(memory, body, wanted, time.time_ns(), final=True)
        while True:
            with self._settled() as memory:
                if (body := _find(memory, ref)).main is None or life.exit_of(body):
                    return
                if time.monotonic() >= deadline:
                    life.signal(memory, body, "SIGKILL", time.time_ns(), final=True)
                    return
            time.sleep(_TICK)

    @_step
    def kill(self, ref: Ref, *, signal: str = "SIGKILL") -> None:
        with self._settled() as memory:
            body = _find(memory, ref)
            if life.state_of(body) not in ALIVE:
                raise WrongState("the instance does not run")
            number = program.signal_number(signal)
            life.signal(memory, body, signal, time.time_ns(), final=number == program.signal_number("SIGKILL"))

    @_step
    def delete(self, ref: Ref) -> None:
        with self._settled() as memory:
            if body := memory.bodies.pop(ref.id, None):
                life.tell(memory, body, EventType.REMOVE, time.time_ns())
        shutil.rmtree(ref.directory, ignore_errors=True)

    @_step
    def pause(self, ref: Ref) -> None:
        with self._settled() as memory:
            body = _find(memory, ref)
            if life.state_of(body) not in (State.RUNNING, State.PAUSED):
                raise WrongState("the instance does not run")
            life.pause(memory, body, time.time_ns())

    @_step
    def resume(self, ref: Ref) -> None:
        with self._settled() as memory:
            body = _find(memory, ref)
            if life.state_of(body) not in (State.RUNNING, State.PAUSED):
                raise WrongState("the instance is not paused")
            life.unpause(memory, body, time.time_ns())

    # -- looking ------------------------------------------------------------------------------------------------

    @_step
    def inspect(self, ref: Ref) -> Observed:
        with self._settled() as memory:
            return life.observed(_find(memory, ref))

    @_step
    def instances(self) -> list[Observed]:
        with self._settled() as memory:
            return [life.observed(body) for body in memory.bodies.values()]

    @_step
    def foreign(self) -> list[Foreign]:
        with self._store.open() as memory:
            return list(memory.foreign)

    def set_foreign(self, workloads: list[Foreign]) -> None:
        """From now on these are the workloads of others."""
        with self._store.open() as memory:
            memory.foreign = workloads

    @_step
    def stats(self, refs: list[Ref]) -> list[Usage]:
        with self._settled() as memory:
            bodies = [memory.bodies[ref.id] for ref in refs if ref.id in memory.bodies]
            return [life.usage(body, time.time_ns()) for body in bodies if life.state_of(body) in ALIVE]

    @_step
    def wait(self, ref: Ref, timeout: float | None = None) -> Exit:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._settled() as memory:
                if end := life.exit_of(_find(memory, ref)):
                    return end
            if deadline is not None and time.monotonic() >= deadline:
                raise TimedOut(f"the instance did not end within {timeout:g} s")
            time.sleep(_TICK)

    @_step
    def logs(self, ref: Ref, *, follow: bool = False, tail: int | None = None) -> Iterator[LogRecord]:
        records, over = self._output(ref)
        seen = len(records)

        def stream() -> Iterator[LogRecord]:
            nonlocal over, seen
            yield from records if tail is None else records[max(0, seen - tail) :]
            while follow and not over:
                time.sleep(_TICK)
                try:
                    more, over = self._output(ref)
                except NotFound:
                    return
                yield from more[seen:]
                seen = len(more)

        return stream()

    @_step
    def events(self, callback: Callable[[Event], None], stop: Callable[[], bool]) -> None:
        seen: int | None = None
        while not stop():
            with self._settled() as memory:
                told = memory.events_dropped + len(memory.events)
                fresh = memory.events[len(memory.events) - (told - (told if seen is None else seen)) :]
            seen = told
            for event in fresh:
                callback(event)
            time.sleep(_TICK)

    # -- sessions and files -------------------------------------------------------------------------------------

    @_step
    def attach(self, ref: Ref) -> Attachment:
        with self._settled() as memory:
            return self._session(_running(memory, ref), seen=None)

    @_step
    def console(self, ref: Ref) -> Attachment:
        return self.attach(ref)

    @_step
    def exec(self, ref: Ref, process: Process) -> Attachment:
        with self._settled() as memory:
            body = _running(memory, ref)
            if life.state_of(body) is State.PAUSED:
                raise WrongState("the instance is paused", hint="resume it")
            read = files.reader(body)
            program.check_place(process, read)
            steps = program.work_out(process, life.hostname(body), read)
        running = Running(steps=steps, due=time.time_ns(), stdin=process.stdin)
        return FakeSession(ExecTarget(running, functools.partial(self._alive, ref)), tty=process.tty)

    @_step
    def copy_in(self, ref: Ref, path: str, archive: BinaryIO) -> None:
        with self._settled() as memory:
            files.unpack(_find(memory, ref), path, archive)

    @_step
    def copy_out(self, ref: Ref, path: str, archive: BinaryIO) -> None:
        with self._settled() as memory:
            files.pack(_find(memory, ref), path, archive)

    def close(self) -> None:
        """Nothing is held."""

    # -- steps --------------------------------------------------------------------------------------------------

    def _settled(self) -> life.Settled:
        return life.Settled(self._store)

    def _made(self, body: Body) -> FakeBody:
        return FakeBody(
            id=body.id,
            ledger=body.ledger,
            claim=body.claim,
            name=body.name,
            spec=body.spec,
            process=body.process,
            files=files.root(),
        )

    def _session(self, body: FakeBody, *, seen: int | None) -> FakeSession:
        """Connected to the main process; ``seen`` None leaves out what it has written up to now."""
        target = life.MainTarget(self._store, body.id, body.started_at)
        written = len(body.main.log) if body.main else 0
        return FakeSession(target, tty=bool(body.process and body.process.tty), seen=written if seen is None else seen)

    def _output(self, ref: Ref) -> tuple[list[LogRecord], bool]:
        """Everything it has written, and whether that is all."""
        with self._settled() as memory:
            body = _find(memory, ref)
            written = [*body.log, *(body.main.log if body.main else [])]
            return [LogRecord(item.at, item.stream, item.data) for item in written], life.state_of(body) not in ALIVE

    def _alive(self, ref: Ref) -> bool:
        with self._settled() as memory:
            return ref.id in memory.bodies and life.state_of(memory.bodies[ref.id]) in ALIVE


def open_backend(state: Path) -> FakeBackend:
    """The BackendFactory: bodies are kept below ``state``, so that they outlive the process."""
    return FakeBackend(state / "fake" / "bodies.json")


def _find(memory: Memory, ref: Ref) -> FakeBody:
    try:
        return memory.bodies[ref.id]
    except KeyError:
        raise NotFound(f"the fake has no instance {ref.id}") from None


def _running(memory: Memory, ref: Ref) -> FakeBody:
    body = _find(memory, ref)
    if life.state_of(body) not in (State.RUNNING, State.PAUSED):
        raise WrongState("the instance does not run", hint="start it first")
    return body


def _check_ports(memory: Memory, body: FakeBody) -> None:
    wanted = {(port.host_address, port.host_port) for port in body.spec.ports if port.host_port}
    for other in memory.bodies.values():
        if other.id != body.id and life.state_of(other) in ALIVE:
            taken = wanted & {(port.host_address, port.host_port) for port in other.spec.ports}
            for address, number in sorted(taken):
                raise Conflict(f"port {address}:{number} is taken by '{other.name}'", hint="choose another host port")


def _wish(variable: str, step: str) -> str:
    """What the environment wants of ``step``; empty for nothing."""
    wishes = (wish.partition(":") for wish in os.environ.get(variable, "").split(",") if wish)
    return next((value for name, _, value in wishes if name == step), "")


def _error(code: str) -> type[VmctlError]:
    """The error class of that code. Raises UsageError for a code that no class owns."""
    found: list[type[VmctlError]] = [VmctlError]
    for kind in found:
        found += kind.__subclasses__()
    for kind in found:
        if kind.code == code:
            return kind
    raise UsageError(f"no error has the code '{code}'", hint="see VMCTL_FAKE_FAIL in vmctl.backends.fake")
