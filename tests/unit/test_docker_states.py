"""Docker's states, ends and times."""

from __future__ import annotations

import msgspec
import pytest

from vmctl.backends.docker import states
from vmctl.backends.docker.native import Container, ContainerState
from vmctl.backends.docker.states import STATES, Status, exit_of, nanoseconds, observed, state_of
from vmctl.model.state import State


def native(status: str, **fields: object) -> ContainerState:
    return ContainerState(status=status, **fields)  # type: ignore[arg-type]


def test_the_map_is_total_and_loses_nothing() -> None:
    """The words are those of moby's container/state.go; no two of them become one state."""
    assert {status.value for status in Status} == {
        "created", "restarting", "running", "removing", "paused", "exited", "dead",
    }  # fmt: skip
    assert set(STATES) == set(Status)
    assert len(set(STATES.values())) == len(STATES)


def test_a_word_nobody_documented_is_unknown() -> None:
    assert state_of(native("levitating")) is State.UNKNOWN


@pytest.mark.parametrize("status", [Status.CREATED, Status.EXITED])
def test_a_start_that_did_not_succeed_is_a_failure(status: Status) -> None:
    state = native(status, error="OCI runtime create failed", exit_code=127)
    assert state_of(state) is State.FAILED
    end = exit_of(state)
    assert end is not None
    assert (end.code, end.error) == (127, "OCI runtime create failed")


@pytest.mark.parametrize("status", [Status.CREATED, Status.RUNNING, Status.PAUSED, Status.RESTARTING, Status.REMOVING])
def test_what_lives_or_never_ran_has_no_exit(status: Status) -> None:
    assert exit_of(native(status, exit_code=3)) is None


def test_out_of_memory_is_the_only_signal_that_docker_tells() -> None:
    killed = exit_of(native("exited", exit_code=137, oom_killed=True))
    other = exit_of(native("exited", exit_code=137))
    assert killed is not None
    assert other is not None
    assert (killed.oom, killed.signal) == (True, 9)
    assert (other.oom, other.signal) == (False, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21T23:59:00.123456789Z", 1795305540123456789),
        ("2026-11-21T23:59:00.5Z", 1795305540500000000),
        ("2026-11-22T01:59:00+02:00", 1795305540000000000),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        ("yesterday", None),
    ],
)
def test_times(text: str, expected: int | None) -> None:
    assert nanoseconds(text) == expected


INSPECTED = {
    "Id": "f" * 64,
    "Name": "/vmctl-x",
    "RestartCount": 2,
    "State": {
        "Status": "running", "Running": True, "Pid": 77, "ExitCode": 0, "Error": "", "OOMKilled": False,
        "StartedAt": "2026-11-21T23:59:00Z", "FinishedAt": "0001-01-01T00:00:00Z",
    },
    "Config": {"Labels": {"vmctl.id": "I", "vmctl.ledger": "L", "vmctl.name": "web"}, "Tty": False},
    "HostConfig": {"Memory": 1024, "NanoCpus": 1_500_000_000, "PidsLimit": None, "RestartPolicy": {"Name": "always"}},
    "NetworkSettings": {
        "Networks": {"bridge": {"IPAddress": "172.17.0.2", "GlobalIPv6Address": "fd00::2"}, "empty": None},
        "Ports": {
            "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
            "90/tcp": None,
        },
    },
}  # fmt: skip


def test_observed() -> None:
    one = observed(msgspec.convert(INSPECTED, Container))
    assert (one.id, one.ledger, one.name, one.state, one.pid, one.restarts) == ("I", "L", "web", State.RUNNING, 77, 2)
    assert one.addresses == ("172.17.0.2", "fd00::2")
    assert one.ports == ("127.0.0.1:8080->80/tcp", "[::]:8080->80/tcp")
    assert (one.memory_limit, one.cpu_limit_millis, one.pids_limit) == (1024, 1500, None)


def test_no_limit_is_in_force_when_it_does_not_run() -> None:
    stopped = msgspec.convert(INSPECTED | {"State": {"Status": "exited", "ExitCode": 3}}, Container)
    one = observed(stopped)
    assert (one.memory_limit, one.cpu_limit_millis) == (None, None)
    assert one.exit is not None
    assert one.exit.code == 3


def test_cpu_limit_by_quota() -> None:
    host = {"CpuQuota": 25_000, "CpuPeriod": 0}
    assert states.cpu_limit(msgspec.convert(INSPECTED | {"HostConfig": host}, Container)) == 250
