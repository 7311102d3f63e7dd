"""What is behind a session: a container's main process, or one that exec started in it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from vmctl.backends.base import Ref
from vmctl.backends.docker import errors, plan, states
from vmctl.backends.docker.cgroup import Cgroup
from vmctl.backends.docker.client import Client, container_path, with_query
from vmctl.backends.docker.native import Container, ExecCreated, ExecState, Waited
from vmctl.backends.docker.session import Session
from vmctl.backends.docker.transport import Reply
from vmctl.errors import Conflict, NotFound, VmctlError, WrongState
from vmctl.model.process import Process
from vmctl.model.state import Exit


class MainProcess:
    """Its end comes over a second connection, on which the daemon answers when the container has ended."""

    def __init__(self, client: Client, ref: Ref, condition: str) -> None:
        self._client = client
        self._ref = ref
        path = with_query(container_path(ref.id, "wait"), condition=condition)
        self._waiting: Reply = client.stream("POST", path)
        self._exit: Exit | None = None

    @property
    def ended_fd(self) -> int | None:
        return None if self._exit else self._waiting.connection.socket.fileno()

    def resize(self, rows: int, columns: int) -> None:
        with suppress(VmctlError):  # it may just have ended
            self._client.send("POST", with_query(container_path(self._ref.id, "resize"), h=rows, w=columns))

    def signal(self, number: int) -> None:
        with suppress(Conflict, NotFound):  # ended, or removed
            self._client.send("POST", with_query(container_path(self._ref.id, "kill"), signal=number))

    def take_error(self, data: bytes) -> bool:
        return False

    def result(self) -> Exit | None:
        """The daemon's answer to the wait, with what only inspection tells."""
        if self._exit is None and self._waiting.connection.ready():
            self._exit = self._ended(self._client.rest(Waited, self._waiting).status_code)
        return self._exit

    def close(self) -> None:
        self._waiting.connection.close()

    def _ended(self, code: int) -> Exit:
        try:
            state = self._client.call(Container, "GET", container_path(self._ref.id)).state
        except NotFound:
            return Exit(code=code)
        end = states.exit_of(state)
        return end if end and end.code == code else Exit(code=code, oom=state.oom_killed)


class ExecProcess:
    """The API can neither signal an exec's process nor say how it ended before it has: both need its pid here."""

    ended_fd: int | None = None

    def __init__(self, client: Client, exec_id: str) -> None:
        self._client = client
        self._id = exec_id
        self._complaint = ""
        self._spoke = False

    def resize(self, rows: int, columns: int) -> None:
        with suppress(VmctlError):
            self._client.send("POST", with_query(f"/exec/{self._id}/resize", h=rows, w=columns))

    def signal(self, number: int) -> None:
        """Straight to the process: possible for root, with the daemon in this pid namespace; else without effect."""
        state = self._state()
        if state.running and state.pid and Cgroup(state.pid, state.container_id):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(state.pid, number)

    def take_error(self, data: bytes) -> bool:
        """The daemon writes its complaint where the process's stdout was expected: at once, if there is no process."""
        if self._spoke:
            return False
        self._spoke = True
        state = self._state()
        if not state.running and not state.pid:
            self._complaint = data.decode(errors="replace").strip()
        return bool(self._complaint)

    def result(self) -> Exit | None:
        state = self._state()
        if state.running or state.exit_code is None:
            return None
        if self._complaint:
            raise errors.exec_failure(self._complaint)
        return Exit(code=state.exit_code)

    def close(self) -> None:
        with suppress(VmctlError):
            self.signal(signal.SIGKILL)

    def _state(self) -> ExecState:
        return self._client.call(ExecState, "GET", f"/exec/{self._id}/json")


def attach(client: Client, ref: Ref, container: Container, *, condition: str) -> Session:
    """Connect to the main process's streams. ``condition``: next-exit (before a start) or not-running."""
    peer = MainProcess(client, ref, condition)
    try:
        options = {"stream": 1, "stdout": 1, "stderr": 1, "stdin": int(container.config.open_stdin)}
        reply = client.stream("POST", with_query(container_path(ref.id, "attach"), **options), upgrade=True)
    except BaseException:
        peer.close()
        raise
    early = reply.connection.take_buffered()
    return Session(reply.connection, peer, tty=container.config.tty, early=early)


def execute(client: Client, ref: Ref, process: Process) -> Session:
    """Start ``process`` in the container and connect to it. Raises WrongState."""
    try:
        body = plan.exec_body(process)
        created = client.call(ExecCreated, "POST", container_path(ref.id, "exec"), body)
        start = {"Detach": False, "Tty": process.tty}
        reply = client.stream("POST", f"/exec/{created.id}/start", start, upgrade=True)
    except Conflict as error:
        raise WrongState("the container does not run", hint="start or resume it first") from error
    early = reply.connection.take_buffered()
    return Session(reply.connection, ExecProcess(client, created.id), tty=process.tty, early=early)
