"""One small process per running instance: owns its exit status, its log, its restarts and its clients.

It has one thread (bwrap dies with the *thread* that started it), outlives vmctl, and ends when the program has ended
for good. Whoever finds LOCK locked has found it alive. Nothing heavy is imported: it is part of every start.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys
import time

from vmctl.backends.sandbox import linux
from vmctl.backends.sandbox.execs import Execs
from vmctl.backends.sandbox.order import LOCK, ORDER, SOCKET, Order
from vmctl.backends.sandbox.peer import Session
from vmctl.backends.sandbox.processes import send_signal
from vmctl.backends.sandbox.program import Program
from vmctl.backends.sandbox.task import Task
from vmctl.backends.wire.frames import Frame, FrameError, FrameType, decode_pairs

_LINGER = 5.0  # seconds for clients that do not take the rest of a stopped program's output
_DEFAULT_GRACE = 10.0


class Supervisor:
    """The loop around the program, the processes started by exec, and the clients of both."""

    def __init__(self, directory: str, report: int, client: socket.socket | None) -> None:
        with open(f"{directory}/{ORDER}") as stream:
            self._order: Order = json.load(stream)
        self._directory = directory
        self._program = Program(self._order, directory, report)
        self._execs = Execs(self._order)
        self._sessions: list[Session] = []
        self._starter = None if client is None else Session(client)
        self._ended: dict[int, int] = {}  # wait statuses of children that nobody has asked about
        self._wake = _catch_signals()
        self._listener = _listen(directory)
        if self._starter is None:
            self._program.start()
        else:
            self._sessions.append(self._starter)

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until the program has ended for good and its clients know."""
        while self._program.phase != "over":
            self._turn(self._program.timeout())
            self._program.advance()
        self._say_goodbye()

    def _turn(self, timeout: float | None) -> None:
        ready = self._poll(timeout)
        for fd in list(self._execs.reports):
            if fd in ready:
                self._execs.read_report(fd)
                self._judge_ended()
        for task in self._tasks():
            if task.input in ready:
                task.write()
            for fd in [fd for fd in task.outputs if fd in ready]:
                self._forward(task, fd)
        for session in list(self._sessions):
            if session.sock.fileno() in ready:
                self._serve(session)
        if self._listener.fileno() in ready:
            self._sessions.append(Session(self._listener.accept()[0]))
        if self._wake in ready:
            self._take_signals()

    def _poll(self, timeout: float | None) -> dict[int, int]:
        wanted = {self._wake: select.POLLIN, self._listener.fileno(): select.POLLIN}
        wanted.update((fd, select.POLLIN) for fd in self._execs.reports)
        for session in self._sessions:
            wanted[session.sock.fileno()] = select.POLLIN | (select.POLLOUT if session.unsent else 0)
        for task in self._tasks():
            # What bwrap says while it sets the sandbox up is not the program's: it stays in the pipe until then.
            if task.flows and not (task is self._program.task and self._program.phase == "starting"):
                wanted.update((fd, select.POLLIN) for fd in task.outputs)
            if task.has_input and task.input is not None:
                wanted[task.input] = select.POLLOUT
        poller = select.poll()
        for fd, events in wanted.items():
            poller.register(fd, events)
        return dict(poller.poll(None if timeout is None else timeout * 1000))

    def _tasks(self) -> list[Task]:
        return [*([] if self._program.task is None else [self._program.task]), *self._execs.tasks.values()]

    def _forward(self, task: Task, fd: int) -> None:
        if task is self._program.task:
            self._program.forward(fd)
        elif piece := task.take(fd):
            for session in task.sessions:
                session.output(*piece)

    def _say_goodbye(self) -> None:
        """Let clients take what is left for them; nobody new is served."""
        self._program.answer("ok")
        os.unlink(f"{self._directory}/{SOCKET}")
        self._listener.close()
        deadline = time.monotonic() + _LINGER
        while any(not session.idle for session in self._sessions):
            if self._program.stopping and time.monotonic() > deadline:
                break
            poller = select.poll()
            for session in self._sessions:
                poller.register(session.sock, select.POLLIN | (select.POLLOUT if session.unsent else 0))
            poller.poll(100)
            for session in list(self._sessions):
                self._serve(session)

    # -- children -------------------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        numbers = os.read(self._wake, 512)
        if signal.SIGTERM in numbers:
            self._program.stop(_DEFAULT_GRACE, self._order["stop_signal"])
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            self._ended[pid] = status
        self._judge_ended()

    def _judge_ended(self) -> None:
        """Orphans from inside end here too: nobody asks about them, once no exec waits to learn its process's pid."""
        if self._program.outermost in self._ended:
            self._collect_execs()
            self._program.ended(self._ended.pop(self._program.outermost))
        for pid in list(self._ended):
            if self._execs.ended(pid, self._ended[pid]) or not self._execs.reports:
                del self._ended[pid]

    def _collect_execs(self) -> None:
        """The program took every other process inside along: tell their clients how they ended."""
        for pid in list(self._ended):
            self._execs.ended(pid, self._ended[pid])
        deadline = time.monotonic() + 1
        while any(task.pid for task in self._execs.tasks.values()) and time.monotonic() < deadline:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid:
                self._execs.ended(pid, status)
            else:
                time.sleep(0.001)

    # -- clients --------------------------------------------------------------------------------------------------

    def _serve(self, session: Session) -> None:
        session.flush()
        try:
            for frame in session.receive():
                self._handle(session, frame)
        except FrameError:
            session.gone = True
        if session.gone:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        self._sessions.remove(session)
        session.sock.close()
        self._execs.leave(session)
        if session in self._program.clients:
            self._program.clients.remove(session)
        if self._program.phase == "waiting" and session is self._starter:  # it left before the start: nothing happened
            self._program.phase = "over"

    def _handle(self, session: Session, frame: Frame) -> None:
        task = self._execs.tasks.get(session, self._program.task)
        match frame.type:
            case FrameType.SYNC:
                session.send(FrameType.SYNC, frame.payload)
                state = {"waiting": "waiting", "over": "ended"}.get(self._program.phase, "running")
                pid = self._program.task.pid if self._program.task is not None else None
                session.pairs(FrameType.READY, ("version", "1"), ("state", state), ("pid", str(pid or 0)))
            case FrameType.PING:
                session.send(FrameType.PONG, frame.payload)
            case FrameType.ATTACH:
                self._attach(session)
            case FrameType.EXEC:
                self._execs.start(session, decode_pairs(frame.payload), self._program.inside)
            case FrameType.WINDOW:
                session.grant(frame.payload)
            case FrameType.STDIN if task is None:
                session.took_stdin(len(frame.payload))
            case FrameType.STDIN if task is not None:
                task.feed(session, frame.payload)
            case FrameType.STDIN_EOF if task is not None:
                task.end_input()
            case FrameType.WINCH if task is not None:
                task.resize(frame.payload)
            case FrameType.SIGNAL if len(frame.payload) == 1:
                self._signal(session, task, frame.payload[0])
            case FrameType.POWEROFF:
                self._power_off(dict(decode_pairs(frame.payload)))
            case _:
                pass  # unknown types are ignored, as the protocol asks

    def _attach(self, session: Session) -> None:
        waiting = self._program.phase == "waiting"
        if not waiting and self._program.task is None:
            session.pairs(FrameType.ERROR, ("code", "no-process"), ("message", "the program does not run"))
        elif session not in self._program.clients:
            self._program.clients.append(session)
        if waiting:
            self._program.start()

    def _signal(self, session: Session, task: Task | None, number: int) -> None:
        if task is None or task.pid is None:
            session.pairs(FrameType.ERROR, ("code", "no-process"), ("message", "the program does not run"))
        elif task is self._program.task and number == signal.SIGKILL:
            self._program.kill_everything()
        else:
            send_signal(task.pid, number)

    def _power_off(self, pairs: dict[str, str]) -> None:
        timeout, number = pairs.get("timeout", ""), pairs.get("signal", "")
        grace = int(timeout) / 1000 if timeout.isdecimal() else _DEFAULT_GRACE
        self._program.stop(grace, int(number) if number.isdecimal() else self._order["stop_signal"])


def _catch_signals() -> int:
    """A descriptor that tells of SIGCHLD and SIGTERM; children of children come to us."""
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    linux.become_subreaper()
    return wake_read


def _listen(directory: str) -> socket.socket:
    """By way of a descriptor: short enough for a socket's address wherever the folder is."""
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    path = f"/proc/self/fd/{folder}/{SOCKET}"
    if os.path.exists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.bind(path)
    listener.listen(16)
    os.close(folder)
    return listener


def main() -> None:
    """``argv``: the instance's folder, the descriptor to report to, that of the client to wait for or -1."""
    directory, report, client = sys.argv[-3], int(sys.argv[-2]), int(sys.argv[-1])
    for fd in (report, client):
        if fd >= 0:
            os.set_inheritable(fd, False)
    lock = os.open(f"{directory}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.write(report, b"error busy it is being started already\n")
        return
    Supervisor(directory, report, None if client < 0 else socket.socket(fileno=client)).run()
