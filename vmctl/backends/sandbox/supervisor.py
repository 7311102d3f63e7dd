"""One small process per running instance: owns its exit status, its log, its restarts and its clients.

It has one thread (bwrap dies with the *thread* that started it), outlives vmctl, and ends when the program has ended
for good. Whoever finds LOCK locked has found it alive. Nothing heavy is imported: it is part of every start.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time

from vmctl.backends.sandbox import cgroup, linux
from vmctl.backends.sandbox.enter import Command, enter
from vmctl.backends.sandbox.launch import launch
from vmctl.backends.sandbox.logwriter import STDERR, STDOUT, LogWriter
from vmctl.backends.sandbox.order import LOCK, LOG, ORDER, SOCKET, STATUS, End, Order, Status, write_json
from vmctl.backends.sandbox.peer import Session
from vmctl.backends.sandbox.rootfs import LaunchError
from vmctl.backends.sandbox.task import Task
from vmctl.backends.wire.frames import Frame, FrameError, FrameType, decode_pairs

_LOOK_AGAIN = 0.001  # seconds between two looks whether bwrap has become the program
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 60.0
_STEADY = 10.0  # seconds of running after which the pauses between restarts start anew
_LINGER = 5.0  # seconds for clients that do not take the rest
_DEFAULT_GRACE = 10.0
_COMPLAINT_LIMIT = 600


class Supervisor:
    """``phase`` is waiting | starting | running | pausing (between restarts) | over."""

    def __init__(self, directory: str, report: int, client: socket.socket | None) -> None:
        self._directory = directory
        self._report: int | None = report
        with open(f"{directory}/{ORDER}") as stream:
            self._order: Order = json.load(stream)
        self._log = LogWriter(f"{directory}/{LOG}")
        self._sessions: list[Session] = []
        self._tasks: dict[Session, Task] = {}  # the processes started by exec
        self._reports: dict[int, Session] = {}  # of exec helpers that have not said how it went
        self._ended: dict[int, int] = {}  # wait statuses of children not asked about yet
        self._main: Task | None = None
        self._outermost = 0
        self._bwrap_status = -1
        self._inside: int | None = None  # process 1 inside
        self._phase = "waiting"
        self._stopping = False
        self._deadline: float | None = None
        self._restarts = 0
        self._failures = 0
        self._oom_kills = 0
        self._end: End | None = None
        self._started_at: int | None = None
        self._begun = 0.0
        self._bwrap_file = os.stat(self._order["bwrap"])
        self._wake = self._catch_signals()
        self._listener = self._listen()
        self._waiting = client is not None
        if client is not None:
            self._sessions.append(Session(client))

    # -- setting up -----------------------------------------------------------------------------------------------

    def _catch_signals(self) -> int:
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        linux.become_subreaper()
        return wake_read

    def _listen(self) -> socket.socket:
        folder = os.open(self._directory, os.O_PATH | os.O_DIRECTORY)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        path = f"/proc/self/fd/{folder}/{SOCKET}"  # short enough for a socket's address wherever the folder is
        if os.path.exists(path):
            os.unlink(path)
        listener.bind(path)
        listener.listen(16)
        os.close(folder)
        return listener

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until the program has ended for good and its clients know."""
        if not self._waiting:
            self._start()
        while self._phase != "over":
            self._turn(self._timeout())
            self._advance()
        self._say_goodbye()

    def _turn(self, timeout: float | None) -> None:
        poller = select.poll()
        wanted = {self._wake: select.POLLIN, self._listener.fileno(): select.POLLIN}
        for session in self._sessions:
            wanted[session.sock.fileno()] = select.POLLIN | (select.POLLOUT if session.unsent else 0)
        for task in self._all_tasks():
            if task.flows and not (task is self._main and self._phase == "starting"):
                wanted.update((fd, select.POLLIN) for fd in task.outputs)
            if task.has_input and task.input is not None:
                wanted[task.input] = select.POLLOUT
        wanted.update((fd, select.POLLIN) for fd in self._reports)
        for fd, events in wanted.items():
            poller.register(fd, events)
        ready = dict(poller.poll(None if timeout is None else timeout * 1000))
        for fd in list(self._reports):
            if fd in ready:
                self._read_report(fd)
        for task in self._all_tasks():
            if task.input in ready:
                task.write()
            for fd in [fd for fd in task.outputs if fd in ready]:
                self._forward(task, fd)
        for session in list(self._sessions):
            if ready.get(session.sock.fileno()):
                self._serve(session)
        if self._listener.fileno() in ready:
            self._sessions.append(Session(self._listener.accept()[0]))
        if self._wake in ready:
            self._take_signals()

    def _all_tasks(self) -> list[Task]:
        return [*([] if self._main is None else [self._main]), *self._tasks.values()]

    def _timeout(self) -> float | None:
        if self._phase == "starting":
            return _LOOK_AGAIN
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _advance(self) -> None:
        """What time brings about."""
        if self._phase == "starting":
            self._look_for_program()
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._deadline = None
            if self._phase == "pausing":
                self._restarts += 1
                self._start()
            else:
                self._kill_everything()

    def _take_signals(self) -> None:
        numbers = os.read(self._wake, 512)
        if signal.SIGTERM in numbers:
            self._stop(_DEFAULT_GRACE, self._order["stop_signal"])
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
        if self._main is not None and self._outermost in self._ended:
            self._main_ended(self._ended.pop(self._outermost))
        for session, task in list(self._tasks.items()):
            if task.pid in self._ended and task.pid is not None:
                self._exec_ended(session, task, self._ended.pop(task.pid))
        if not self._reports:
            self._ended.clear()

    # -- the program ----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        order = self._order
        self._phase, self._begun = "starting", time.monotonic()
        try:
            asked = cgroup.Limits(order["memory"], order["cpu_millis"], order["pids"])
            if order["group"]:
                _check_limits(asked, cgroup.make(order["group"], asked))
            self._oom_kills = cgroup.oom_kills(order["group"])
            self._main = Task(tty=order["tty"], stdin=order["stdin"], owner=order["id_base"])
            self._main.sessions = [session for session in self._sessions if session.attached]
            launched = launch(order, self._directory, self._main.streams)
        except (OSError, LaunchError) as error:
            if isinstance(error, OSError):
                self._fail("failed", f"cannot set the sandbox up: {error.filename}: {error.strerror}")
            else:
                self._fail(error.code, str(error))
            return
        self._main.close_streams()
        self._outermost, self._bwrap_status = launched
        self._write_status("starting")

    def _look_for_program(self) -> None:
        """bwrap's process 1 has one child; once that is no longer bwrap, it is the program."""
        inside = _children(self._outermost)
        programs = _children(inside[0]) if inside else []
        if not programs or self._main is None:
            return
        try:
            file = os.stat(f"/proc/{programs[0]}/exe")
        except OSError:
            return
        if (file.st_dev, file.st_ino) != (self._bwrap_file.st_dev, self._bwrap_file.st_ino):
            self._inside, self._main.pid = inside[0], programs[0]
            self._now_running()

    def _now_running(self) -> None:
        self._phase, self._started_at = "running", time.time_ns()
        self._write_status("stopping" if self._stopping else "running")
        self._answer("ok")
        if self._main is not None:
            for session in self._main.sessions:
                session.pairs(FrameType.STARTED, ("pid", str(self._main.pid or 0)))

    def _main_ended(self, status: int) -> None:
        main = self._main
        if main is None:
            return
        ran = self._phase == "running" or b"exit-code" in _drain(self._bwrap_status) or os.WIFSIGNALED(status)
        os.close(self._bwrap_status)
        if not ran:
            complaint = b"".join(main.read(fd) for fd in list(main.outputs))
            self._fail(*_reason(complaint.decode("utf-8", "replace"), self._order["argv"][0]))
            return
        if self._phase == "starting":
            self._now_running()
        self._finish_exec_tasks()
        for fd in list(main.outputs):
            while fd in main.outputs and self._forward(main, fd):
                pass
        self._end = self._end_of(status)
        code, number, oom = self._end["code"], self._end["signal"], self._end["oom"]
        pairs = [("code", str(code)), ("oom", str(int(oom)))] + ([] if number is None else [("signal", str(number))])
        self._log.exit(self._end["at"], pairs)
        main.close()
        self._main, self._inside = None, None
        self._deadline = None
        revive = self._revives(code)
        if not revive:
            self._phase = "over"
            cgroup.destroy(self._order["group"])
        self._write_status("starting" if revive else "stopped")
        for session in main.sessions:
            session.attached = False
            session.pairs(FrameType.EXIT, *pairs)
        if revive:
            self._pause_before_restart()

    def _end_of(self, status: int) -> End:
        code = os.waitstatus_to_exitcode(status)
        code = 128 - code if code < 0 else code
        number = code - 128 if 128 < code <= 192 else None
        oom = cgroup.oom_kills(self._order["group"]) > self._oom_kills
        return {"code": code, "signal": number, "oom": oom, "at": time.time_ns(), "error": ""}

    def _revives(self, code: int) -> bool:
        if self._stopping or self._order["restart"] == "no":
            return False
        if self._order["restart"] != "on-failure":
            return True
        limit = self._order["restart_max"]
        return code != 0 and (limit == 0 or self._restarts < limit)

    def _pause_before_restart(self) -> None:
        if time.monotonic() - self._begun > _STEADY:
            self._failures = 0
        self._phase = "pausing"
        self._deadline = time.monotonic() + min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**self._failures)
        self._failures += 1

    def _fail(self, code: str, message: str) -> None:
        """It could not be started: say so to everybody, and give up."""
        shell_code = {"not-found": 127, "cannot-invoke": 126}.get(code, 125)
        self._end = {"code": shell_code, "signal": None, "oom": False, "at": time.time_ns(), "error": message}
        self._phase = "over"
        if self._main is not None:
            self._main.close()
        for session in self._sessions:
            session.pairs(FrameType.ERROR, ("code", code), ("message", message))
        self._main = None
        cgroup.destroy(self._order["group"])
        self._write_status("failed")
        self._answer(f"error {code} {message}")

    def _stop(self, grace: float, number: int) -> None:
        """End the program: ask, and after ``grace`` seconds do not ask any more."""
        self._stopping = True
        if self._phase in ("waiting", "pausing"):
            self._phase = "over"
            cgroup.destroy(self._order["group"])
            self._write_status("stopped")
            return
        self._write_status("stopping")
        self._deadline = time.monotonic() + grace
        if number == signal.SIGKILL or self._main is None or self._main.pid is None:
            self._kill_everything()
        else:
            _send(self._main.pid, number)
            self._thaw()

    def _kill_everything(self) -> None:
        self._stopping = True
        self._thaw()
        _send(self._outermost, signal.SIGKILL)

    def _thaw(self) -> None:
        if cgroup.can_freeze(self._order["group"]):
            cgroup.freeze(self._order["group"], frozen=False)

    # -- streams --------------------------------------------------------------------------------------------------

    def _forward(self, task: Task, fd: int) -> bool:
        """One piece of output to the log and the clients; whether there was one."""
        kind = task.outputs[fd]
        data = task.read(fd)
        if data and task is self._main:
            self._log.output(STDERR if kind == FrameType.STDERR else STDOUT, data)
        if data:
            for session in task.sessions:
                session.output(kind, data)
        return bool(data)

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
        if session in self._sessions:
            self._sessions.remove(session)
        session.sock.close()
        task = self._tasks.pop(session, None)
        if task is not None:
            if task.pid is not None:
                _send(task.pid, signal.SIGKILL)
            task.close()
        if self._main is not None and session in self._main.sessions:
            self._main.sessions.remove(session)
        if self._phase == "waiting":  # whoever ordered the start left before it: nothing has happened
            self._phase = "over"

    def _handle(self, session: Session, frame: Frame) -> None:
        task = self._tasks.get(session, self._main)
        match frame.type:
            case FrameType.SYNC:
                session.send(FrameType.SYNC, frame.payload)
                state = {"waiting": "waiting", "over": "ended"}.get(self._phase, "running")
                pid = self._main.pid if self._main is not None else None
                session.pairs(FrameType.READY, ("version", "1"), ("state", state), ("pid", str(pid or 0)))
            case FrameType.PING:
                session.send(FrameType.PONG, frame.payload)
            case FrameType.ATTACH:
                self._attach(session)
            case FrameType.EXEC:
                self._exec(session, decode_pairs(frame.payload))
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
                pass

    def _attach(self, session: Session) -> None:
        session.attached = True
        if self._phase == "waiting":
            self._start()
        elif self._main is None:
            session.attached = False
            session.pairs(FrameType.ERROR, ("code", "no-process"), ("message", "the program does not run"))
        elif session not in self._main.sessions:
            self._main.sessions.append(session)

    def _signal(self, session: Session, task: Task | None, number: int) -> None:
        if task is None or task.pid is None:
            session.pairs(FrameType.ERROR, ("code", "no-process"), ("message", "the program does not run"))
        elif task is self._main and number == signal.SIGKILL:
            self._kill_everything()
        else:
            _send(task.pid, number)

    def _power_off(self, pairs: dict[str, str]) -> None:
        timeout, number = pairs.get("timeout", ""), pairs.get("signal", "")
        grace = int(timeout) / 1000 if timeout.isdecimal() else _DEFAULT_GRACE
        self._stop(grace, int(number) if number.isdecimal() else self._order["stop_signal"])

    # -- exec -----------------------------------------------------------------------------------------------------

    def _exec(self, session: Session, pairs: list[tuple[str, str]]) -> None:
        single = dict(pairs)
        argv = [value for key, value in pairs if key == "argv"]
        refusal = ""
        if self._inside is None:
            refusal = "the program does not run"
        elif cgroup.is_frozen(self._order["group"]):
            refusal = "the instance is paused"
        if refusal or not argv or self._inside is None or session in self._tasks:
            code = "no-process" if refusal else "bad-request"
            session.pairs(FrameType.ERROR, ("code", code), ("message", refusal or "no command"))
            return
        environment = dict(value.split("=", 1) for key, value in pairs if key == "env" and "=" in value)
        tty = single.get("tty") == "1"
        command = Command(argv, environment, single.get("cwd") or "/", single.get("user", ""), tty)
        task = Task(tty=tty, stdin=single.get("stdin") == "1", owner=self._order["id_base"])
        task.sessions = [session]
        if tty and single.get("rows", "").isdecimal() and single.get("cols", "").isdecimal():
            task.resize(b"".join(min(65535, int(single[key])).to_bytes(2) for key in ("rows", "cols")))
        self._tasks[session] = task
        _, report = enter(self._order, self._inside, command, task.streams)
        task.close_streams()
        self._reports[report] = session

    def _read_report(self, report: int) -> None:
        session = self._reports.pop(report)
        task = self._tasks.get(session)
        words = _drain(report, until_end=True).decode("utf-8", "replace")
        os.close(report)
        pid = 0
        for line in words.splitlines():
            what, _, rest = line.partition(" ")
            if what == "pid":
                pid = int(rest)
            elif what == "error":
                code, _, message = rest.partition(" ")
                session.pairs(FrameType.ERROR, ("code", code), ("message", message))
                self._drop_exec(session)
                return
        if task is None:  # the client left meanwhile
            _send(pid, signal.SIGKILL)
        elif not pid:
            session.pairs(FrameType.ERROR, ("code", "failed"), ("message", "the sandbox could not be entered"))
            self._drop_exec(session)
        else:
            task.pid = pid
            session.pairs(FrameType.STARTED, ("pid", str(pid)))
            self._judge_ended()

    def _drop_exec(self, session: Session) -> None:
        task = self._tasks.pop(session, None)
        if task is not None:
            task.close()

    def _exec_ended(self, session: Session, task: Task, status: int) -> None:
        for fd in list(task.outputs):
            while fd in task.outputs and self._forward(task, fd):
                pass
        code = os.waitstatus_to_exitcode(status)
        pairs = [("code", str(128 - code if code < 0 else code))] + ([("signal", str(-code))] if code < 0 else [])
        session.pairs(FrameType.EXIT, *pairs)
        self._drop_exec(session)

    def _finish_exec_tasks(self) -> None:
        """The program took every other process inside along: collect how they ended."""
        deadline = time.monotonic() + 1
        while any(task.pid is not None for task in self._tasks.values()) and time.monotonic() < deadline:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            self._ended[pid] = status
            for session, task in list(self._tasks.items()):
                if task.pid == pid:
                    self._exec_ended(session, task, self._ended.pop(pid))
            if not pid:
                time.sleep(0.001)

    # -- reporting ------------------------------------------------------------------------------------------------

    def _write_status(self, state: str) -> None:
        status: Status = {
            "state": state,
            "supervisor": os.getpid(),
            "program": self._main.pid if self._main is not None else None,
            "started_at": self._started_at,
            "end": self._end if state in ("stopped", "failed", "starting") else None,
            "restarts": self._restarts,
        }
        write_json(f"{self._directory}/{STATUS}", status)

    def _answer(self, line: str) -> None:
        """To whoever ordered the start; once."""
        if self._report is not None:
            with contextlib.suppress(OSError):  # it may not wait any more
                os.write(self._report, f"{line}\n".encode())
            os.close(self._report)
            self._report = None

    def _say_goodbye(self) -> None:
        """Let clients take what is left for them; nobody new is served."""
        self._answer("ok")
        os.unlink(f"{self._directory}/{SOCKET}")
        self._listener.close()
        deadline = time.monotonic() + _LINGER
        while any(not session.idle for session in self._sessions):
            poller = select.poll()
            for session in self._sessions:
                poller.register(session.sock, select.POLLIN | (select.POLLOUT if session.unsent else 0))
            if self._stopping and time.monotonic() > deadline:
                break
            poller.poll(100)
            for session in list(self._sessions):
                self._serve(session)


def _check_limits(asked: cgroup.Limits, enforced: cgroup.Limits) -> None:
    """A limit that the kernel did not take over is an error, not a detail."""
    for name, wanted, got in zip(cgroup.Limits._fields, asked, enforced, strict=True):
        if wanted is not None and (got is None or got > wanted):
            raise LaunchError(f"the kernel does not enforce the limit {name} of {wanted}")


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as stream:
            return [int(word) for word in stream.read().split()]
    except OSError:
        return []


def _send(pid: int, number: int) -> None:
    """Signal one of our children or their program; nothing happens if it is gone, or the number is none."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, ValueError, OSError):
        return


def _drain(fd: int, *, until_end: bool = False) -> bytes:
    os.set_blocking(fd, until_end)
    data = b""
    try:
        while chunk := os.read(fd, 4096):
            data += chunk
    except BlockingIOError:
        pass
    return data


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
