"""One image, three levels of isolation: the same command gives the same result, and nothing is left."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.leftovers import assert_nothing_left
from tests.support.runner import Vmctl

KINDS = [
    pytest.param("container", marks=pytest.mark.docker),
    pytest.param("app", marks=pytest.mark.sandbox),
    pytest.param("vm", marks=pytest.mark.libvirt),
]
kinds = pytest.mark.parametrize("kind", KINDS)


def run_args(kind: str, *command: str, flags: tuple[str, ...] = ()) -> tuple[str, ...]:
    return ("run", "--rm", "--kind", kind, "--memory", "128M", *flags, "busybox", "--", *command)


@kinds
def test_streams_apart_exit_code_and_nothing_left(vmctl_with_image: Vmctl, kind: str) -> None:
    result = vmctl_with_image(*run_args(kind, "sh", "-c", "echo out; echo err >&2; exit 42"))
    result.expect(42)
    assert result.stdout == b"out\n"
    assert [line for line in result.err.splitlines() if not line.startswith("note:")] == ["err"]
    assert vmctl_with_image.json("ps", "-a") == []
    assert_nothing_left(vmctl_with_image.state_dir)


@kinds
@pytest.mark.parametrize(
    ("command", "code"),
    [(("nosuchprogram",), 127), (("/etc/passwd",), 126), (("sh", "-c", "sh -c 'kill -9 $$'; exit $?"), 137)],
    ids=["not-found", "not-executable", "killed"],
)
def test_codes_that_shells_know(vmctl_with_image: Vmctl, kind: str, command: tuple[str, ...], code: int) -> None:
    vmctl_with_image(*run_args(kind, *command)).expect(code)
    assert_nothing_left(vmctl_with_image.state_dir)


@kinds
def test_stdin_reaches_the_workload_and_ends(vmctl_with_image: Vmctl, kind: str) -> None:
    data = os.urandom(1 << 20)
    result = vmctl_with_image(*run_args(kind, "cat", flags=("-i",)), stdin=data).expect()
    assert result.stdout == data


@kinds
def test_environment_folder_user_and_host_name(vmctl_with_image: Vmctl, kind: str) -> None:
    flags = ("-e", "COLOUR=blue green", "-w", "/tmp", "--hostname", "there", "-u", "1000:1000")
    script = 'echo "$COLOUR"; pwd; hostname; id -u; id -g'
    result = vmctl_with_image(*run_args(kind, "sh", "-c", script, flags=flags)).expect()
    assert result.out.split("\n") == ["blue green", "/tmp", "there", "1000", "1000", ""]


@kinds
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_workload_and_it_is_removed(vmctl_with_image: Vmctl, kind: str, number: int) -> None:
    script = "trap 'exit 7' INT TERM HUP; echo ready; while :; do sleep 0.1; done"
    process = vmctl_with_image.start(*run_args(kind, "sh", "-c", script))
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 7, errors
    assert_nothing_left(vmctl_with_image.state_dir)


@kinds
def test_a_workload_deaf_to_sigterm_is_removed_all_the_same(vmctl_with_image: Vmctl, kind: str) -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    process = vmctl_with_image.start(*run_args(kind, "sh", "-c", script, flags=("--stop-timeout", "1s")))
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 137
    assert_nothing_left(vmctl_with_image.state_dir)


@kinds
def test_killed_vmctl_leaves_nothing_after_the_next_command(vmctl_with_image: Vmctl, kind: str) -> None:
    process = vmctl_with_image.start(*run_args(kind, "sh", "-c", "echo ready; sleep 600"))
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.communicate()
    assert vmctl_with_image.json("ps", "-a") == []
    assert_nothing_left(vmctl_with_image.state_dir)


@kinds
def test_terminal_has_the_callers_size_and_follows_it(vmctl_with_image: Vmctl, kind: str) -> None:
    leader, follower = pty.openpty()
    set_size(follower, 33, 101)
    # As with docker, the size arrives just after the start.
    script = """
        until size=$(stty size 2>/dev/null); [ "$size" ]; do sleep 0.1; done
        echo $size; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.1; done
    """
    process = vmctl_with_image.start(
        *run_args(kind, "sh", "-c", script, flags=("-i", "-t")), stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    seen = read_until(leader, b"ready")
    assert b"33 101" in seen
    set_size(leader, 44, 123)
    process.send_signal(signal.SIGWINCH)
    assert b"44 123" in read_until(leader, b"44 123")
    assert process.wait(timeout=30) == 3
    os.close(leader)


def set_size(descriptor: int, rows: int, columns: int) -> None:
    import fcntl
    import struct
    import termios

    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def read_until(descriptor: int, wanted: bytes, timeout: float = 30) -> bytes:
    seen = b""
    deadline = time.monotonic() + timeout
    while wanted not in seen and time.monotonic() < deadline:
        if select.select([descriptor], [], [], 0.5)[0]:
            try:
                seen += os.read(descriptor, 4096)
            except OSError:
                break
    assert wanted in seen, seen
    return seen


@pytest.mark.docker
@pytest.mark.sandbox
@pytest.mark.libvirt
def test_a_life_of_each_kind_side_by_side(vmctl_with_image: Vmctl) -> None:
    vmctl = vmctl_with_image
    for kind in ("container", "app", "vm"):
        script = "echo begun; trap 'echo ended; exit 0' TERM; while :; do sleep 0.1; done"
        flags = ("--kind", kind, "--name", f"my-{kind}", "-m", "128M")
        vmctl("run", "-d", *flags, "busybox", "--", "sh", "-c", script).expect()
    names = ["my-app", "my-container", "my-vm"]
    original = Path("/etc/debian_version").read_bytes()
    rows = vmctl.json("ps")
    assert sorted((row["name"], row["kind"], row["state"]) for row in rows) == sorted(
        (name, name.removeprefix("my-"), "running") for name in names
    )
    for name in names:
        done = vmctl("exec", name, "--", "sh", "-c", "hostname; echo oops >&2; exit 9")
        assert (done.code, done.out, done.err) == (9, f"{name}\n", "oops\n")
        vmctl("pause", name).expect()
        assert vmctl.json("inspect", name)[0]["instance"]["state"] == "paused"
        vmctl("start", name).expect(4)
        vmctl("resume", name).expect()
        vmctl("cp", "/etc/debian_version", f"{name}:/tmp/copied").expect()
        assert vmctl("exec", name, "--", "cat", "/tmp/copied").expect().stdout == original
        back = vmctl.state_dir / "tmp" / name
        vmctl("cp", f"{name}:/tmp/copied", str(back)).expect()
        assert back.read_bytes() == original
        back.unlink()
    usage = {row["name"]: row for row in vmctl.json("stats")}
    assert sorted(usage) == names
    assert all(row["memory_used"] > 0 for row in usage.values())
    claims = [claim for claim in vmctl.json("claim", "ls") if claim["state"] == "ACTIVE"]
    assert sorted(claim["part"] for claim in claims) == ["compute"] * 3 + ["static"] * 3
    for name in names:
        vmctl("stop", name).expect()
        assert vmctl("logs", name).expect().out.split() == ["begun", "ended"]
        row = vmctl.json("inspect", name)[0]["instance"]
        assert (row["state"], row["exit_code"]) == ("stopped", 0)
    assert {claim["part"] for claim in vmctl.json("claim", "ls") if claim["state"] == "ACTIVE"} == {"static"}
    for name in names:
        vmctl("start", name).expect()
        vmctl("rename", name, f"{name}-2").expect()
        vmctl("restart", f"{name}-2", "--timeout", "5s").expect()
        vmctl("kill", f"{name}-2").expect()
        assert vmctl("wait", f"{name}-2").expect().out.strip() == "137"
    ids = vmctl("ps", "-a", "-q").expect().out.split()
    assert len(ids) == 3
    vmctl("rm", "-f", *ids).expect()
    assert vmctl.json("ps", "-a") == []
    assert [claim for claim in vmctl.json("claim", "ls") if claim["project"] != "_foreign"] == []
    assert_nothing_left(vmctl.state_dir)


@kinds
def test_an_instance_that_ends_by_itself_gives_its_compute_back(vmctl_with_image: Vmctl, kind: str) -> None:
    vmctl = vmctl_with_image
    vmctl("run", "-d", "--kind", kind, "--name", "brief", "-m", "128M", "busybox", "--", "sh", "-c", "exit 5").expect()
    assert vmctl("wait", "brief", "--timeout", "30s").expect().out.strip() == "5"
    row = next(row for row in vmctl.json("ps", "-a") if row["name"] == "brief")
    assert (row["state"], row["exit_code"]) == ("stopped", 5)
    assert [claim["part"] for claim in vmctl.json("claim", "ls") if claim["state"] == "ACTIVE"] == ["static"]


def test_pipeline_of_quiet_ids_into_rm(vmctl_with_image: Vmctl) -> None:
    vmctl = vmctl_with_image
    for number in range(3):
        vmctl("create", "--kind", "app", "--name", f"n{number}", "busybox", "--", "true").expect()
    command = f"{sys.executable} -m vmctl"
    pipeline = ["sh", "-c", f"{command} ps -a -q | xargs {command} rm -f"]
    subprocess.run(pipeline, env=vmctl.environment(), check=True, cwd=vmctl.state_dir)
    assert vmctl.json("ps", "-a") == []
