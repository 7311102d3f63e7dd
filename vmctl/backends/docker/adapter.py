"""Containers through Docker's engine on this host."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from vmctl.backends.base import Attachment, Body, NativePlan, Ref
from vmctl.backends.docker import errors, images, limits, peers, plan, states
from vmctl.backends.docker.cgroup import Cgroup
from vmctl.backends.docker.client import Client, container_path, with_query
from vmctl.backends.docker.native import Container, Created, Listed, RestartPolicy
from vmctl.backends.docker.plan import Json
from vmctl.backends.docker.streams import log_records
from vmctl.backends.docker.usage import foreign, usage
from vmctl.errors import Conflict, NotFound, PermissionDenied, TimedOut, VmctlError, WrongState
from vmctl.model.capability import Capabilities, Feature
from vmctl.model.event import Event, LogRecord
from vmctl.model.ids import native_name
from vmctl.model.image import ImageForm
from vmctl.model.observed import Foreign, Observed, Overhead, Probe, Usage
from vmctl.model.process import Process
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import ALIVE, Exit, Kind, State
from vmctl.undo import UndoStack

_CAPABILITIES: Capabilities = dict.fromkeys(Feature, "") | {
    Feature.CONSOLE: "a container has no serial console",
    Feature.HOST_COMMAND: "a container runs programs of its image only",
    Feature.DISK_BOOT: "a container has no disk to boot from",
}


_OURS = msgspec.json.encode({"label": [states.LABEL_ID]}).decode()
_LOOK_AGAIN = 10.0


class DockerBackend:
    """The contract of ``vmctl.backends.base.Backend`` over Docker's engine."""

    name = "docker"
    kinds = frozenset({Kind.CONTAINER})
    image_form: ImageForm | None = ImageForm.DOCKER

    def __init__(self) -> None:
        self._client = Client()

    def probe(self) -> Probe:
        from vmctl.backends.docker.health import probe

        return probe(self._client)

    def capabilities(self) -> Capabilities:
        return _CAPABILITIES

    def overhead(self, spec: InstanceSpec) -> Overhead:
        return plan.overhead(spec)

    def validate(self, spec: InstanceSpec) -> None:
        plan.validate(spec)

    def plan(self, body: Body) -> NativePlan:
        return NativePlan("application/vnd.docker.container-create+json", plan.encode(plan.create_body(body)))

    # -- life cycle ---------------------------------------------------------------------------------------------

    def create(self, body: Body) -> None:
        """See the contract. Raises Unsupported if the engine does not take over a limit, NotFound without image."""
        self.validate(body.spec)
        order = plan.create_body(body)
        with UndoStack() as undo:
            if not body.directory.exists():
                undo.push("remove the folder", lambda: shutil.rmtree(body.directory, ignore_errors=True))
                _make_folder(body.directory)
            if self._create(body, order):
                undo.push("remove the container", lambda: self.delete(Ref(body.id, body.directory)))
            limits.check(limits.asked(body.spec), limits.recorded(self._container(body.id)))
            undo.disarm()

    def start(self, ref: Ref, *, attach: bool = False) -> Attachment | None:
        """See the contract. Raises Unsupported, with the body removed, if the kernel does not enforce a limit."""
        container = self._container(ref.id)
        match states.state_of(container.state):
            case State.PAUSED:
                raise WrongState("the container is paused", hint="resume it")
            case State.RUNNING | State.STARTING:
                return self.attach(ref) if attach else None
        session = peers.attach(self._client, ref, container, condition="next-exit") if attach else None
        try:
            self._start(ref)
            self._check_enforced(ref)
        except BaseException:
            if session:
                session.close()
            raise
        return session

    def stop(self, ref: Ref, *, timeout: float, signal: str | None = None) -> None:
        if signal is not None:
            self._signal_and_wait(ref, signal, timeout)
            timeout = 0
        path = with_query(container_path(ref.id, "stop"), t=math.ceil(timeout))
        with _about(ref):
            self._client.send("POST", path, timeout=timeout + 60)

    def kill(self, ref: Ref, *, signal: str = "SIGKILL") -> None:
        try:
            with _about(ref):
                self._client.send("POST", with_query(container_path(ref.id, "kill"), signal=signal))
        except Conflict as error:
            raise WrongState("the container does not run") from error
        if signal in ("SIGKILL", "KILL", "9"):
            self._wait_answer(ref, "not-running", 10.0)

    def delete(self, ref: Ref) -> None:
        """See the contract. Anonymous volumes (the image's) go with the container, named ones stay."""
        path = f"/containers/{native_name(ref.id)}"
        try:
            self._client.send("DELETE", with_query(path, force=1, v=1))
        except NotFound:
            pass
        except Conflict:  # somebody else removes it
            with suppress(NotFound):
                self._wait_answer(ref, "removed", 60.0)
        shutil.rmtree(ref.directory, ignore_errors=True)

    def pause(self, ref: Ref) -> None:
        self._freeze(ref, "pause", State.PAUSED)

    def resume(self, ref: Ref) -> None:
        self._freeze(ref, "unpause", State.RUNNING)

    # -- looking ------------------------------------------------------------------------------------------------

    def inspect(self, ref: Ref) -> Observed:
        return states.observed(self._container(ref.id))

    def instances(self) -> list[Observed]:
        """One listing, then all inspections over one connection at once: 2 ms for ten running containers (measured)."""
        listed = self._client.call(list[Listed], "GET", with_query("/containers/json", all=1, filters=_OURS))
        containers = self._client.get_many(Container, [f"/containers/{item.id}/json" for item in listed])
        return [states.observed(container) for container in containers if container]

    def foreign(self) -> list[Foreign]:
        listed = self._client.call(list[Listed], "GET", "/containers/json")
        paths = [f"/containers/{item.id}/json" for item in listed if states.LABEL_ID not in (item.labels or {})]
        return [foreign(container) for container in self._client.get_many(Container, paths) if container]

    def stats(self, refs: list[Ref]) -> list[Usage]:
        containers = self._client.get_many(Container, [container_path(ref.id) for ref in refs])
        samples = [usage(container) for container in containers if container]
        return [sample for sample in samples if sample]

    def wait(self, ref: Ref, timeout: float | None = None) -> Exit:
        return self._until_ended(ref, timeout)

    def logs(self, ref: Ref, *, follow: bool = False, tail: int | None = None) -> Iterator[LogRecord]:
        tty = self._container(ref.id).config.tty
        options = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(follow)}
        options |= {} if tail is None else {"tail": max(0, tail)}
        reply = self._client.stream("GET", with_query(container_path(ref.id, "logs"), **options))

        def records() -> Iterator[LogRecord]:
            with reply.connection, self._client.reached():
                yield from log_records(reply.chunks(), tty=tty)

        return records()

    def events(self, callback: Callable[[Event], None], stop: Callable[[], bool]) -> None:
        from vmctl.backends.docker import events

        events.follow(self._client, callback, stop)

    # -- sessions and files -------------------------------------------------------------------------------------

    def attach(self, ref: Ref) -> Attachment:
        container = self._container(ref.id)
        session = peers.attach(self._client, ref, container, condition="not-running")
        if states.state_of(self._container(ref.id).state) not in ALIVE:
            session.close()
            raise WrongState("the container does not run", hint="start it first")
        return session

    def exec(self, ref: Ref, process: Process) -> Attachment:
        with _about(ref):
            return peers.execute(self._client, ref, process)

    def copy_in(self, ref: Ref, path: str, archive: BinaryIO) -> None:
        self._container(ref.id)
        with self._client.sdk_errors() as sdk:
            sdk.put_archive(native_name(ref.id), path, archive)

    def copy_out(self, ref: Ref, path: str, archive: BinaryIO) -> None:
        self._container(ref.id)
        with self._client.sdk_errors() as sdk:
            chunks, _ = sdk.get_archive(native_name(ref.id), path)
            for chunk in chunks:
                archive.write(chunk)

    # -- images -------------------------------------------------------------------------------------------------

    def has_image(self, config_digest: str) -> bool:
        return images.find(self._client, config_digest) is not None

    def load_image(self, archive: Iterator[bytes]) -> None:
        images.load(self._client, archive)

    def save_image(self, reference: str) -> Iterator[bytes]:
        return images.save(self._client, reference)

    def drop_image(self, config_digest: str) -> None:
        images.drop(self._client, config_digest)

    def close(self) -> None:
        self._client.close()

    # -- steps --------------------------------------------------------------------------------------------------

    def _container(self, instance_id: str) -> Container:
        try:
            return self._client.call(Container, "GET", container_path(instance_id))
        except NotFound as error:
            raise NotFound(f"Docker has no container of instance {instance_id}") from error

    def _create(self, body: Body, order: Json) -> bool:
        """Whether it was made now; False if it was there."""
        path = with_query("/containers/create", name=native_name(body.id))
        try:
            self._client.call(Created, "POST", path, order)
        except Conflict:
            if self._container(body.id).labels.get(states.LABEL_ID) != body.id:
                raise
            return False
        except NotFound as error:
            hint = "the image store loads it before a run; 'vmctl image ls' shows what there is"
            raise NotFound(f"Docker does not have the image '{body.spec.image}'", hint=hint) from error
        return True

    def _start(self, ref: Ref) -> None:
        try:
            self._client.send("POST", container_path(ref.id, "start"))
        except VmctlError as error:
            raise errors.program_failure(error.message) or error from error

    def _check_enforced(self, ref: Ref) -> None:
        container = self._container(ref.id)
        try:
            if container.state.pid:
                limits.check(limits.recorded(container), Cgroup(container.state.pid, container.id).limits())
        except VmctlError:
            self.delete(ref)
            raise

    def _freeze(self, ref: Ref, action: str, goal: State) -> None:
        try:
            self._client.send("POST", container_path(ref.id, action))
        except VmctlError as error:
            state = states.state_of(self._container(ref.id).state)
            if state is goal:
                return
            if isinstance(error, Conflict) or state not in ALIVE:
                raise WrongState(f"the container is {state}") from error
            raise

    def _signal_and_wait(self, ref: Ref, signal: str, timeout: float) -> None:
        """Docker's own stop knows no other signal before API 1.42, and any other signal leaves restarts in force."""
        container = self._container(ref.id)
        if states.state_of(container.state) not in ALIVE:
            return
        policy = container.host_config.restart_policy
        with self._no_restart(ref, policy) if policy.name not in ("", "no") else nullcontext(), suppress(TimedOut):
            with suppress(WrongState):
                self.kill(ref, signal=signal)
            if container.state.paused:
                self.resume(ref)
            self._until_ended(ref, timeout)

    @contextmanager
    def _no_restart(self, ref: Ref, policy: RestartPolicy) -> Iterator[None]:
        path = container_path(ref.id, "update")
        self._client.send("POST", path, {"RestartPolicy": {"Name": "no"}})
        try:
            yield
        finally:
            before = {"Name": policy.name, "MaximumRetryCount": policy.maximum_retry_count}
            self._client.send("POST", path, {"RestartPolicy": before})

    def _until_ended(self, ref: Ref, timeout: float | None) -> Exit:
        """Wait until it has ended and no restart is pending. Raises TimedOut, NotFound."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            state = self._container(ref.id).state
            if end := states.exit_of(state):
                return end
            if (left := deadline - time.monotonic()) <= 0:
                raise TimedOut(f"the container did not end within {timeout:g} s")
            condition = {states.Status.CREATED: "next-exit", states.Status.REMOVING: "removed"}.get(
                states.Status(state.status), "not-running"
            )
            self._wait_answer(ref, condition, min(left, _LOOK_AGAIN))

    def _wait_answer(self, ref: Ref, condition: str, timeout: float) -> None:
        """Until the daemon says that ``condition`` holds, or ``timeout`` seconds have passed."""
        with _about(ref):
            reply = self._client.stream("POST", with_query(container_path(ref.id, "wait"), condition=condition))
        with reply.connection, self._client.reached():
            if reply.connection.ready(timeout):
                reply.body()


def open_backend(state: Path) -> DockerBackend:
    """The BackendFactory: nothing is connected, nothing is kept below ``state``."""
    return DockerBackend()


@contextmanager
def _about(ref: Ref) -> Iterator[None]:
    """Inside, NotFound speaks of the instance."""
    try:
        yield
    except NotFound as error:
        raise NotFound(f"Docker has no container of instance {ref.id}") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except PermissionError as error:
        raise PermissionDenied(f"cannot make the folder {folder}") from error
    except OSError as error:
        raise VmctlError(f"cannot make the folder {folder}: {error.strerror}") from error
