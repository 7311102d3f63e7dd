"""The program of an instance through its life: start, restarts, end; told to its clients, its log and its status file.

``phase`` is waiting (for the order to start) | starting | running | pausing (between restarts) | over.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from vmctl.backends.sandbox import cgroup
from vmctl.backends.sandbox.launch import launch
from vmctl.backends.sandbox.logwriter import STDERR, STDOUT, LogWriter
from vmctl.backends.sandbox.order import LOG, STATUS, End, Order, Status, write_json
from vmctl.backends.sandbox.peer import Session
from vmctl.backends.sandbox.processes import children, drain, exit_pairs, send_signal
from vmctl.backends.sandbox.rootfs import LaunchError
from vmctl.backends.sandbox.task import Task
from vmctl.backends.wire.frames import FrameType

_LOOK_AGAIN = 0.001  # seconds between two looks whether bwrap has become the program
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 60.0
_STEADY = 10.0  # seconds of running after which the pauses between restarts start anew
_COMPLAINT_LIMIT = 600


class Program:
    """``report`` is the descriptor on which whoever ordered the start waits for one line."""

    def __init__(self, order: Order, directory: str, report: int) -> None:
        self._order = order
        self._directory = directory
        self._report: int | None = report
        self._log = LogWriter(f"{directory}/{LOG}")
        self._bwrap_file = os.stat(order["bwrap"])
        self.phase = "waiting"
        self.task: Task | None = None
        self.clients: list[Session] = []
        self.outermost = 0  # the pid of our child: process 1 of the outer pid namespace
        self.inside: int | None = None  # the host's pid of process 1 inside
        self.stopping = False
        self._bwrap_status = -1
        self._deadline: float | None = None
        self._restarts = 0
        self._failures = 0
        self._oom_kills = 0
        self._end: End | None = None
        self._started_at: int | None = None
        self._begun = 0.0

    # -- beginning ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Launch it; whether that worked shows later, or ends in phase "over" at once."""
        order = self._order
        self.phase, self._begun = "starting", time.monotonic()
        try:
            asked = cgroup.Limits(order["memory"], order["cpu_millis"], order["pids"])
            if order["group"]:
                _check_limits(asked, cgroup.make(order["group"], asked))
            self._oom_kills = cgroup.oom_kills(order["group"])
            self.task = Task(tty=order["tty"], stdin=order["stdin"], owner=order["id_base"])
            self.task.sessions = self.clients
            launched = launch(order, self._directory, self.task.streams)
        except LaunchError as error:
            self._fail(error.code, str(error))
            return
        except OSError as error:
            self._fail("failed", f"cannot set the sandbox up: {error.filename}: {error.strerror}")
            return
        self.task.close_streams()
        self.outermost, self._bwrap_status = launched
        self._write_status("starting")

    def timeout(self) -> float | None:
        """Seconds until ``advance`` wants to be called, if nothing else happens."""
        if self.phase == "starting":
            return _LOOK_AGAIN
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def advance(self) -> None:
        """Do what the time has come for."""
        if self.phase == "starting":
            self._look_for_program()
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._deadline = None
            if self.phase == "pausing":
                self._restarts += 1
                self.start()
            else:
                self.kill_everything()

    def _look_for_program(self) -> None:
        """bwrap's process 1 has one child; once that is no longer bwrap, it is the program."""
        inside = children(self.outermost)
        programs = children(inside[0]) if inside else []
        if not programs or self.task is None:
            return
        try:
            file = os.stat(f"/proc/{programs[0]}/exe")
        except OSError:
            return
        if (file.st_dev, file.st_ino) != (self._bwrap_file.st_dev, self._bwrap_file.st_ino):
            self.inside, self.task.pid = inside[0], programs[0]
            self._now_running()

    def _now_running(self) -> None:
        self.phase, self._started_at = "running", time.time_ns()
        self._write_status("stopping" if self.stopping else "running")
        self.answer("ok")
        for session in self.clients:
            session.pairs(FrameType.STARTED, ("pid", str(self.task.pid or 0 if self.task else 0)))

    def forward(self, fd: int) -> bool:
        """One piece of its output to the log and the clients; whether there was one."""
        piece = self.task.take(fd) if self.task else None
        if piece is None:
            return False
        kind, data = piece
        self._log.output(STDERR if kind == FrameType.STDERR else STDOUT, data)
        for session in self.clients:
            session.output(kind, data)
        return True

    # -- ending ---------------------------------------------------------------------------------------------------

    def ended(self, status: int) -> None:
        """Our child has ended with this wait status."""
        task = self.task
        if task is None:
            return
        ran = self.phase == "running" or b"exit-code" in drain(self._bwrap_status) or os.WIFSIGNALED(status)
        os.close(self._bwrap_status)
        if not ran:
            complaint = b"".join(task.read(fd) for fd in list(task.outputs))
            self._fail(*_reason(complaint.decode("utf-8", "replace"), self._order["argv"][0]))
            return
        if self.phase == "starting":
            self._now_running()
        for fd in list(task.outputs):
            while self.forward(fd):
                pass
        self._end = self._end_of(status)
        pairs = exit_pairs(self._end["code"], self._end["signal"], self._end["oom"])
        self._log.exit(self._end["at"], pairs)
        task.close()
        self.task, self.inside, self._deadline = None, None, None
        revive = self._revives(self._end["code"])
        self.phase = "pausing" if revive else "over"
        if not revive:
            cgroup.destroy(self._order["group"])
        self._write_status("starting" if revive else "stopped")
        for session in self.clients:
            session.pairs(FrameType.EXIT, *pairs)
        self.clients.clear()
        if revive:
            self._pause_before_restart()

    def _end_of(self, status: int) -> End:
        code = os.waitstatus_to_exitcode(status)
        code = 128 - code if code < 0 else code
        number = code - 128 if 128 < code <= 192 else None
        oom = cgroup.oom_kills(self._order["group"]) > self._oom_kills
        return {"code": code, "signal": number, "oom": oom, "at": time.time_ns(), "error": ""}

    def _revives(self, code: int) -> bool:
        if self.stopping or self._order["restart"] == "no":
            return False
        if self._order["restart"] != "on-failure":
            return True
        limit = self._order["restart_max"]
        return code != 0 and (limit == 0 or self._restarts < limit)

    def _pause_before_restart(self) -> None:
        if time.monotonic() - self._begun > _STEADY:
            self._failures = 0
        self._deadline = time.monotonic() + min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**self._failures)
        self._failures += 1

    def _fail(self, code: str, message: str) -> None:
        """It could not be started: say so to everybody, and give up."""
        shell_code = {"not-found": 127, "cannot-invoke": 126}.get(code, 125)
        self._end = {"code": shell_code, "signal": None, "oom": False, "at": time.time_ns(), "error": message}
        self.phase = "over"
        if self.task is not None:
            self.task.close()
        self.task = None
        for session in self.clients:
            session.pairs(FrameType.ERROR, ("code", code), ("message", message))
        cgroup.destroy(self._order["group"])
        self._write_status("failed")
        self.answer(f"error {code} {message}")

    def stop(self, grace: float, number: int) -> None:
        """End it for good: ask, and after ``grace`` seconds do not ask any more."""
        self.stopping = True
        if self.phase in ("waiting", "pausing"):
            self.phase = "over"
            cgroup.destroy(self._order["group"])
            self._write_status("stopped")
        elif number == signal.SIGKILL or self.task is None or self.task.pid is None:
            self.kill_everything()
        else:
            self._write_status("stopping")
            self._deadline = time.monotonic() + grace
            send_signal(self.task.pid, number)
            self._thaw()

    def kill_everything(self) -> None:
        """The death of our child is that of everything in its pid namespace."""
        self.stopping = True
        self._thaw()
        send_signal(self.outermost, signal.SIGKILL)

    def _thaw(self) -> None:
        if cgroup.can_freeze(self._order["group"]):
            cgroup.freeze(self._order["group"], frozen=False)

    # -- reporting ------------------------------------------------------------------------------------------------

    def _write_status(self, state: str) -> None:
        status: Status = {
            "state": state,
            "supervisor": os.getpid(),
            "program": self.task.pid if self.task is not None else None,
            "started_at": self._started_at,
            "end": self._end if state in ("stopped", "failed", "starting") else None,
            "restarts": self._restarts,
        }
        write_json(f"{self._directory}/{STATUS}", status)

    def answer(self, line: str) -> None:
        """To whoever ordered the start; once."""
        if self._report is not None:
            with contextlib.suppress(OSError):  # it may not wait any more
                os.write(self._report, f"{line}\n".encode())
            os.close(self._report)
            self._report = None


def _check_limits(asked: cgroup.Limits, enforced: cgroup.Limits) -> None:
    """A limit that the kernel did not take over is an error, not a detail."""
    for name, wanted, got in zip(cgroup.Limits._fields, asked, enforced, strict=True):
        if wanted is not None and (got is None or got > wanted):
            raise LaunchError(f"the kernel does not enforce the limit {name} of {wanted}")


def _reason(complaint: str, program: str) -> tuple[str, str]:
    """The code and text of a start that failed, from what bwrap or its predecessor wrote."""
    text = " ".join(complaint.split())[:_COMPLAINT_LIMIT]
    if f"execvp {program}: No such file" in text:
        return "not-found", f"{program}: no such program inside"
    if f"execvp {program}: " in text:
        return "cannot-invoke", f"cannot execute {program}: {text.rpartition(': ')[2]}"
    if "Can't chdir to" in text:
        return "cannot-invoke", f"cannot enter the working folder: {text.rpartition(': ')[2]}"
    return "failed", f"cannot set the sandbox up: {text or 'it ended without a word'}"
