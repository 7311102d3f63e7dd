"""The processes that clients have the supervisor start beside the program, one for each session."""

from __future__ import annotations

import os
import signal

from vmctl.backends.sandbox import cgroup
from vmctl.backends.sandbox.enter import Command, enter
from vmctl.backends.sandbox.order import Order
from vmctl.backends.sandbox.peer import Session
from vmctl.backends.sandbox.processes import drain, exit_pairs, send_signal
from vmctl.backends.sandbox.task import Task
from vmctl.backends.wire.frames import FrameType


class Execs:
    """``tasks`` are those that run; ``reports`` are descriptors of helpers that have not said how it went."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.tasks: dict[Session, Task] = {}
        self.reports: dict[int, Session] = {}

    def start(self, session: Session, pairs: list[tuple[str, str]], inside: int | None) -> None:
        """EXEC: start it beside host pid ``inside`` (None: the program does not run), or answer ERROR."""
        single = dict(pairs)
        argv = [value for key, value in pairs if key == "argv"]
        if inside is None:
            _refuse(session, "no-process", "the program does not run")
        elif cgroup.is_frozen(self._order["group"]):
            _refuse(session, "no-process", "the instance is paused")
        elif not argv or session in self.tasks:
            _refuse(session, "bad-request", "one command for each session")
        else:
            environment = dict(value.split("=", 1) for key, value in pairs if key == "env" and "=" in value)
            tty = single.get("tty") == "1"
            command = Command(argv, environment, single.get("cwd") or "/", single.get("user", ""), tty)
            task = Task(tty=tty, stdin=single.get("stdin") == "1", owner=self._order["id_base"])
            task.sessions = [session]
            if single.get("rows", "").isdecimal() and single.get("cols", "").isdecimal():
                task.resize(b"".join(min(65535, int(single[key])).to_bytes(2) for key in ("rows", "cols")))
            self.tasks[session] = task
            self.reports[enter(self._order, inside, command, task.streams)] = session
            task.close_streams()

    def read_report(self, report: int) -> None:
        """The helper has spoken: the process runs, or it could not be started."""
        session = self.reports.pop(report)
        words = drain(report, until_end=True).decode("utf-8", "replace")
        os.close(report)
        task = self.tasks.get(session)
        lines = dict(line.partition(" ")[::2] for line in words.splitlines())
        pid = int(lines.get("pid", "0"))
        if "error" in lines:
            code, _, message = lines["error"].partition(" ")
            _refuse(session, code, message)
            self._drop(session)
        elif task is None:  # the client left meanwhile
            send_signal(pid, signal.SIGKILL)
        elif not pid:
            _refuse(session, "failed", "the sandbox could not be entered")
            self._drop(session)
        else:
            task.pid = pid
            session.pairs(FrameType.STARTED, ("pid", str(pid)))

    def ended(self, pid: int, status: int) -> bool:
        """A child has ended: whether it was one of ours, whose client then knows."""
        for session, task in list(self.tasks.items()):
            if task.pid == pid:
                for fd in list(task.outputs):
                    while data := task.take(fd):
                        session.output(*data)
                code = os.waitstatus_to_exitcode(status)
                pairs = exit_pairs(128 - code, -code) if code < 0 else exit_pairs(code, None)
                session.pairs(FrameType.EXIT, *pairs)
                self._drop(session)
                return True
        return False

    def leave(self, session: Session) -> None:
        """The client has left: its process ends with it."""
        task = self.tasks.get(session)
        if task is not None:
            if task.pid is not None:
                send_signal(task.pid, signal.SIGKILL)
            self._drop(session)

    def _drop(self, session: Session) -> None:
        if task := self.tasks.pop(session, None):
            task.close()


def _refuse(session: Session, code: str, message: str) -> None:
    session.pairs(FrameType.ERROR, ("code", code), ("message", message))
