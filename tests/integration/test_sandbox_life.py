"""Supervision: restarts, limits, terminals, streams, and what is left when the supervisor is killed."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runner import Vmctl
from tests.support.sandbox import Sandboxes, gone, tree_of
from vmctl.backends.base import Stdio
from vmctl.backends.sandbox import cgroup
from vmctl.backends.sandbox.client import read_order, supervisor_pid
from vmctl.errors import WrongState
from vmctl.model.image import PreparedImage
from vmctl.model.process import DEFAULT_PATH, Process
from vmctl.model.state import RestartPolicy, State

pytestmark = pytest.mark.sandbox

IDLE = ("sleep", "600")


@pytest.fixture
def sandboxes(tmp_path: Path) -> Iterator[Sandboxes]:
    made = Sandboxes(tmp_path)
    yield made
    made.clean()


@pytest.fixture
def tree(tmp_path: Path) -> PreparedImage:
    return tree_of(tmp_path)


def group_folders(group: dict[str, str]) -> list[str]:
    return [folder for folder in group.values() if os.path.exists(folder)]


# -- limits ---------------------------------------------------------------------------------------------------------


def test_limits_are_read_back(sandboxes: Sandboxes) -> None:
    ref = sandboxes.start(*IDLE, memory=64 << 20, cpu_millis=1500, pids=20)
    observed = sandboxes.backend.inspect(ref)
    assert (observed.memory_limit, observed.cpu_limit_millis, observed.pids_limit) == (64 << 20, 1500, 20)


def test_exec_is_in_the_same_group(sandboxes: Sandboxes) -> None:
    ref = sandboxes.start(*IDLE, pids=2)
    assert sandboxes.exec(ref, "echo", "hi").out == b"hi\n"
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 30 & done; wait"
    crowded = sandboxes.start("sh", "-c", script, pids=5)
    sandboxes.until(lambda: b"fork" in sandboxes.log(crowded).lower())
    assert len(cgroup.processes(read_order(crowded.directory)["group"])) <= 5 + cgroup.OWN_PIDS


def test_too_much_memory_is_told_as_such(sandboxes: Sandboxes) -> None:
    script = "x=a; while :; do x=$x$x; done"
    outcome, ref = sandboxes.run("sh", "-c", script, memory=32 << 20)
    end = sandboxes.backend.wait(ref, 20)
    assert (outcome.code, end.code, end.oom) == (137, 137, True)
    assert outcome.exit is not None
    assert outcome.exit.oom


def test_shared_memory_counts_and_is_bounded(sandboxes: Sandboxes) -> None:
    outcome, _ = sandboxes.run("sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=100; dd if=/dev/zero of=/dev/x")
    assert b"No space left" in outcome.err
    assert b"Read-only" in outcome.err


# -- restarts -------------------------------------------------------------------------------------------------------


def test_on_failure_gives_up_after_so_many_tries(sandboxes: Sandboxes) -> None:
    ref = sandboxes.start("sh", "-c", "echo try; exit 3", restart=RestartPolicy.ON_FAILURE, restart_max=2)
    assert sandboxes.backend.wait(ref, 20).code == 3
    observed = sandboxes.backend.inspect(ref)
    assert (observed.restarts, observed.state) == (2, State.STOPPED)
    assert sandboxes.log(ref) == b"try\n" * 3


def test_stop_ends_a_restart_loop(sandboxes: Sandboxes) -> None:
    ref = sandboxes.start("sh", "-c", "echo try; exit 0", restart=RestartPolicy.ALWAYS)
    sandboxes.until(lambda: sandboxes.backend.inspect(ref).restarts >= 2)
    sandboxes.backend.stop(ref, timeout=5)
    assert sandboxes.backend.inspect(ref).state is State.STOPPED
    assert supervisor_pid(ref.directory) is None


# -- a killed supervisor --------------------------------------------------------------------------------------------


def test_killed_supervisor_takes_everything_along(sandboxes: Sandboxes, tree: PreparedImage) -> None:
    ref = sandboxes.start("sh", "-c", "sleep 601 & sleep 602 & wait", image=tree)
    attachment = sandboxes.backend.exec(ref, Process(argv=("sleep", "603"), env={"PATH": DEFAULT_PATH}))
    group = read_order(ref.directory)["group"]
    sandboxes.until(lambda: len(cgroup.processes(group)) >= 6)
    pids = cgroup.processes(group)
    supervisor = supervisor_pid(ref.directory)
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    assert all(gone(pid) for pid in pids)
    attachment.close()
    observed = sandboxes.backend.inspect(ref)
    assert observed.state is State.FAILED
    assert observed.exit is not None
    with pytest.raises(WrongState):
        sandboxes.exec(ref, "true")
    sandboxes.backend.start(ref)
    assert sandboxes.backend.inspect(ref).state is State.RUNNING
    os.kill(supervisor_pid(ref.directory) or 0, signal.SIGKILL)
    sandboxes.backend.delete(ref)
    assert not group_folders(group)
    assert not ref.directory.exists()


def test_delete_while_frozen(sandboxes: Sandboxes) -> None:
    ref = sandboxes.start(*IDLE)
    sandboxes.backend.pause(ref)
    group = read_order(ref.directory)["group"]
    sandboxes.backend.delete(ref)
    assert not group_folders(group)


def test_supervisor_outlives_whoever_started_it(sandboxes: Sandboxes) -> None:
    ref = sandboxes.create("sh", "-c", "sleep 0.5; echo later; exit 9")
    code = (
        "import sys; from pathlib import Path; from vmctl.backends.base import Ref\n"
        "from vmctl.backends.sandbox.adapter import open_backend\n"
        "open_backend(Path(sys.argv[1])).start(Ref(sys.argv[2], Path(sys.argv[3])))"
    )
    command = [sys.executable, "-c", code, str(sandboxes.folder), ref.id, str(ref.directory)]
    subprocess.run(command, check=True, timeout=30, process_group=0)
    assert sandboxes.backend.wait(ref, 10).code == 9
    assert sandboxes.log(ref) == b"later\n"


# -- streams --------------------------------------------------------------------------------------------------------


def test_much_data_passes_unchanged_both_ways(sandboxes: Sandboxes) -> None:
    data = os.urandom(3 << 20)
    outcome, ref = sandboxes.run("cat", stdin=data)
    assert hashlib.sha256(outcome.out).digest() == hashlib.sha256(data).digest()
    assert sandboxes.log(ref) == data
    ref = sandboxes.start(*IDLE)
    assert sandboxes.exec(ref, "cat", stdin=data).out == data


def test_a_client_that_does_not_read_slows_the_program_down(sandboxes: Sandboxes) -> None:
    ref = sandboxes.create("sh", "-c", "dd if=/dev/zero bs=1M count=8; echo done >&2")
    attachment = sandboxes.backend.start(ref, attach=True)
    assert attachment is not None
    time.sleep(0.7)
    assert b"done" not in sandboxes.log(ref)
    with open(os.devnull, "wb") as nowhere:
        end = attachment.pump(Stdio(None, nowhere.fileno(), nowhere.fileno()))
    attachment.close()
    assert end is not None
    assert end.code == 0
    assert b"done" in sandboxes.log(ref)


def test_exec_ends_with_its_session(sandboxes: Sandboxes) -> None:
    ref = sandboxes.start(*IDLE)
    attachment = sandboxes.backend.exec(ref, Process(argv=("sleep", "604"), env={"PATH": DEFAULT_PATH}))
    group = read_order(ref.directory)["group"]
    sandboxes.until(lambda: len(cgroup.processes(group)) == cgroup.OWN_PIDS + 2)
    attachment.close()
    sandboxes.until(lambda: len(cgroup.processes(group)) == cgroup.OWN_PIDS + 1)


# -- terminals ------------------------------------------------------------------------------------------------------


class Terminal:
    """A pty whose slave is the caller's terminal."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.seen = b""

    def until(self, text: bytes) -> None:
        deadline = time.monotonic() + 10
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            self.seen += os.read(self.master, 4096)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)


@pytest.mark.parametrize("by_exec", [False, True])
def test_terminal_has_job_control_size_and_interrupt(sandboxes: Sandboxes, tree: PreparedImage, by_exec: bool) -> None:
    terminal = Terminal()
    import fcntl
    import struct
    import termios
    import tty

    tty.setraw(terminal.slave)
    fcntl.ioctl(terminal.slave, termios.TIOCSWINSZ, struct.pack("4H", 33, 99, 0, 0))
    script = "trap 'echo int$((1+1))' INT; test -t 0 && test -t 1 && echo is-tty; read x; stty size; sleep 5; exit 4"
    if by_exec:
        ref = sandboxes.start(*IDLE, image=tree)
        process = Process(argv=("sh", "-c", script), env={"PATH": DEFAULT_PATH}, tty=True, stdin=True)
        attachment = sandboxes.backend.exec(ref, process)
    else:
        ref = sandboxes.create("sh", "-c", script, image=tree, tty=True, stdin=True)
        started = sandboxes.backend.start(ref, attach=True)
        assert started is not None
        attachment = started
    ends = []
    streams = Stdio(terminal.slave, terminal.slave, terminal.slave, tty=True)
    pumping = threading.Thread(target=lambda: ends.append(attachment.pump(streams)))
    pumping.start()
    terminal.until(b"is-tty")
    terminal.type(b"go\r")
    terminal.until(b"33 99")
    time.sleep(0.2)
    terminal.type(b"\x03")
    terminal.until(b"int2")
    pumping.join(10)
    attachment.close()
    assert ends
    assert ends[0] is not None
    assert ends[0].code == 4


# -- an ordinary user -----------------------------------------------------------------------------------------------

SCENARIO = """
import json, sys, tempfile
from pathlib import Path
from tests.support.sandbox import Sandboxes, tree_of
from vmctl.model.capability import Feature
folder = Path(sys.argv[1])
made, tree = Sandboxes(folder), tree_of(folder)
told = {}
try:
    told["host"] = made.run("sh", "-c", "id -u; exit 7")[0].out.decode()
    outcome, ref = made.run("sh", "-c", "id -u; echo x >/etc/x; cat /etc/x; exit 8", image=tree)
    told["image"], told["code"] = outcome.out.decode(), outcome.code
    ref = made.start("sleep", "600", image=tree)
    told["exec"] = made.exec(ref, "cat", "/proc/self/status").out.decode()
    told["stopped"] = made.backend.stop(ref, timeout=0.2) or made.backend.inspect(ref).state
    crowd = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 30 & done; echo all"
    told["crowd"] = made.run("sh", "-c", crowd, image=tree, pids=6)[0].err.decode()
    told["reason"] = made.backend.capabilities()[Feature.LIMIT_MEMORY]
finally:
    made.clean()
told["left"] = [str(path) for path in folder.glob("instances/*")]
print(json.dumps(told))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_as_an_ordinary_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    import tempfile

    repository = str(Path(__file__).parents[2])
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="vu-") as folder:
        os.chown(folder, 65534, 65534)
        command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-c", SCENARIO]
        result = subprocess.run([*command, folder], cwd=repository, capture_output=True, text=True, timeout=60,
                                check=False, env={"PATH": DEFAULT_PATH, "HOME": folder, "PYTHONPATH": repository})
        assert result.returncode == 0, result.stderr
        told = json.loads(result.stdout)
    assert (told["host"], told["image"], told["code"]) == ("0\n", "0\nx\n", 8)
    lines = dict(line.split(":\t", 1) for line in told["exec"].splitlines() if ":\t" in line)
    assert (lines["Seccomp"], lines["NoNewPrivs"], lines["CapEff"]) == ("2", "1", "0" * 16)
    assert told["stopped"] == "stopped"
    assert "fork" in told["crowd"]
    assert told["left"] == []


def test_runs_where_no_process_has_number_2(vmctl: Vmctl) -> None:
    """As in a container: what bwrap looks up by the numbers of its own pid namespace, the caller's /proc lacks."""
    script = f"/bin/true; /bin/true; /bin/true; {sys.executable} -m vmctl run --rm --app -- echo inside"
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", f"{script}; exit $?"],
        env=vmctl.environment(), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"inside\n"), done.stderr
