"""From create to delete: states, ends, idempotency."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from tests.contract.harness import IDLE, STUBBORN, Harness, ref_of, until
from vmctl.backends.base import Ref
from vmctl.errors import CannotInvoke, NotFound, ProgramNotFound, VmctlError, WrongState
from vmctl.model.event import Event, EventType
from vmctl.model.observed import Observed
from vmctl.model.state import RestartPolicy, State


def seen(h: Harness, ref: Ref) -> Observed | None:
    return next((one for one in h.backend.instances() if one.id == ref.id), None)


def assert_stays_stopped(h: Harness, ref: Ref) -> None:
    """For longer than the first delay of a restart policy (0.1 s in Docker)."""
    time.sleep(0.5)
    assert h.backend.inspect(ref).state is State.STOPPED


def test_whole_life(h: Harness) -> None:
    """create, start, stop, start again, kill, delete; each twice, where a second time must be silent.

    All under a restart policy, which must not revive what was stopped or killed.
    """
    body = h.body(*IDLE, network="default", restart=RestartPolicy.ALWAYS)
    ref = ref_of(body)
    h.backend.create(body)
    h.backend.create(body)
    created = h.backend.inspect(ref)
    assert (created.state, created.exit, created.id) == (State.CREATED, None, body.id)
    assert body.directory.is_dir()
    h.backend.stop(ref, timeout=1)
    assert h.backend.inspect(ref).state is State.CREATED
    with pytest.raises(WrongState):
        h.backend.kill(ref)

    h.backend.start(ref)
    h.backend.start(ref)
    h.backend.create(body)
    until(lambda: b"ready" in h.log(ref))
    running = h.backend.inspect(ref)
    assert (running.state, running.exit) == (State.RUNNING, None)
    assert running.started_at is not None
    assert (running.memory_limit, running.cpu_limit_millis) == (body.spec.memory, body.spec.cpu_millis)

    h.backend.stop(ref, timeout=10)
    h.backend.stop(ref, timeout=10)
    stopped = h.backend.inspect(ref)
    assert stopped.state is State.STOPPED
    assert stopped.exit is not None
    assert stopped.exit.code == 7
    assert h.backend.wait(ref, 5).code == 7
    with pytest.raises(WrongState):
        h.backend.kill(ref)
    assert_stays_stopped(h, ref)

    h.backend.start(ref)
    assert h.backend.inspect(ref).state is State.RUNNING
    h.backend.kill(ref)
    end = h.backend.wait(ref, 10)
    assert end.code == 137
    assert end.signal in (None, signal.SIGKILL)
    assert_stays_stopped(h, ref)

    h.backend.delete(ref)
    h.backend.delete(ref)
    assert not body.directory.exists()
    assert seen(h, ref) is None
    with pytest.raises(NotFound):
        h.backend.inspect(ref)


def test_streams_apart_and_the_exit_code(h: Harness) -> None:
    outcome, ref = h.run("sh", "-c", "echo out; echo err >&2; exit 42")
    assert (outcome.code, outcome.out, outcome.err) == (42, b"out\n", b"err\n")
    assert h.backend.wait(ref, 5).code == 42
    assert h.backend.inspect(ref).state is State.STOPPED
    log = [(record.stream.value, record.data) for record in h.backend.logs(ref)]
    assert sorted(log) == [("stderr", b"err\n"), ("stdout", b"out\n")]


def test_end_of_stdin_is_forwarded(h: Harness) -> None:
    text = b"one\ntwo\n" * 20_000
    outcome, _ = h.run("cat", stdin=text)
    assert outcome.code == 0
    assert outcome.out == text


@pytest.mark.parametrize(("program", "error"), [("no-such-program", ProgramNotFound), ("/etc/passwd", CannotInvoke)])
def test_program_that_cannot_be_started(h: Harness, program: str, error: type[VmctlError]) -> None:
    with pytest.raises(error) as failure:
        h.run(program)
    assert failure.value.exit_code in (126, 127)
    assert h.backend.inspect(h.made[-1]).state in (State.FAILED, State.STOPPED)


def test_stop_by_force_after_the_timeout(h: Harness) -> None:
    ref = h.start(*STUBBORN)
    h.backend.stop(ref, timeout=1)
    assert h.backend.inspect(ref).state is State.STOPPED
    assert h.backend.wait(ref, 1).code == 137


def test_two_stops_at_once(h: Harness) -> None:
    ref = h.start(*IDLE)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(h.backend.stop, ref, timeout=5) for _ in range(2)]:
            done.result()
    assert h.backend.inspect(ref).state is State.STOPPED


def test_stop_by_another_signal(h: Harness) -> None:
    ref = h.start("sh", "-c", "trap 'exit 9' USR1; echo ready; sleep 600 & wait")
    until(lambda: b"ready" in h.log(ref))
    h.backend.stop(ref, timeout=10, signal="SIGUSR1")
    assert h.backend.wait(ref, 1).code == 9


def test_restart_policy_revives_until_it_gives_up(h: Harness) -> None:
    ref = h.start("sh", "-c", "echo life; exit 3", restart=RestartPolicy.ON_FAILURE, restart_max=2)
    assert h.backend.wait(ref, 30).code == 3
    assert h.backend.inspect(ref).restarts == 2
    assert h.log(ref) == b"life\n" * 3


def test_create_leaves_nothing_on_failure(h: Harness) -> None:
    """A body that cannot be made: its folder's parent is a file."""
    body = h.body("true")
    obstacle = h.folder / f"file-{body.id}"
    obstacle.write_text("in the way")
    body = msgspec.structs.replace(body, directory=obstacle / "x")
    with pytest.raises(VmctlError):
        h.backend.create(body)
    assert seen(h, ref_of(body)) is None
    with pytest.raises(NotFound):
        h.backend.inspect(ref_of(body))


def test_delete_by_force(h: Harness) -> None:
    ref = h.start(*STUBBORN)
    h.backend.delete(ref)
    assert seen(h, ref) is None
    assert not ref.directory.exists()


def test_events_of_a_life(h: Harness) -> None:
    told: list[Event] = []
    done = threading.Event()
    follower = threading.Thread(target=lambda: h.backend.events(told.append, done.is_set))
    follower.start()
    try:
        time.sleep(1.0)  # an event before the subscription is not told
        ref = h.start("sh", "-c", "exit 5")
        h.backend.wait(ref, 20)
        until(lambda: EventType.STOP in {event.type for event in told if event.instance_id == ref.id})
    finally:
        done.set()
        follower.join(5)
    assert not follower.is_alive()
    kinds = [event.type for event in told if event.instance_id == ref.id]
    assert kinds.index(EventType.START) < kinds.index(EventType.STOP)
