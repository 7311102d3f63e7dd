"""Real processes against one ledger: racing for the last slots, and killed at chosen and at random instants."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.support.allocation import (
    Bodies,
    World,
    host,
    new,
    remove_steps,
    run_steps,
    spec,
    start_steps,
    stop_steps,
    sweep,
    wanted,
)
from vmctl.crashpoint import crash_points
from vmctl.errors import DoesNotFitNow, NotFound, VmctlError
from vmctl.model.ids import new_id

FORK = multiprocessing.get_context("fork")
POINTS = [name for name in crash_points() if name.startswith("claim.")]


def child(work: Callable[[], None], **environment: str) -> BaseProcess:
    """A real process that does ``work`` and ends without running anything of the test runner's."""

    def body() -> None:
        os.environ.update(environment)
        work()
        os._exit(0)

    process = FORK.Process(target=body)
    process.start()
    return process


def assert_clean(folder: Path) -> None:
    """I1, I15, I16, I17, I18: two recoveries reach a fixpoint in which everything agrees."""
    world, bodies = World(folder), Bodies(folder)
    sweep(world, bodies)
    settled = world.allocator.claim_views()
    seq = world.ledger.last_seq()
    sweep(world, bodies)
    assert (world.allocator.claim_views(), world.ledger.last_seq()) == (settled, seq)
    assert {(view.state, view.claim_class) for view in settled} <= {("ACTIVE", "durable")}
    with_compute = {view.instance_id for view in settled if view.part == "compute"}
    assert set(bodies.all()) == with_compute
    assert world.ledger.fsck() == []
    assert list((folder / "run" / "claims").iterdir()) == []
    world.ledger.close()


def test_sixteen_processes_race_for_eight_slots(tmp_path: Path) -> None:
    """Exactly eight win, whatever the order; the others are told why."""
    barrier = FORK.Barrier(16)

    def race(number: int) -> Callable[[], None]:
        def work() -> None:
            world = World(tmp_path, host(slots=8))
            one = spec(f"racer{number}")
            barrier.wait()
            try:
                grant = world.allocator.admit_new(new(one), wanted(one), start=True)
            except DoesNotFitNow:
                os._exit(75)
            world.allocator.begin(grant)
            world.allocator.confirm(grant)

        return work

    racers = [child(race(number)) for number in range(16)]
    for racer in racers:
        racer.join(60)
    codes = [racer.exitcode for racer in racers]
    assert sorted(codes, key=str) == [0] * 8 + [75] * 8
    world = World(tmp_path)
    assert len(world.ledger.instances()) == 8
    assert world.ledger.fsck() == []


def test_sixteen_processes_race_for_one_name(tmp_path: Path) -> None:
    barrier = FORK.Barrier(16)

    def work() -> None:
        world = World(tmp_path)
        barrier.wait()
        try:
            world.allocator.begin(world.allocator.admit_new(new(spec()), wanted(spec()), start=False))
        except VmctlError as error:
            os._exit(error.exit_code)

    racers = [child(work) for _ in range(16)]
    for racer in racers:
        racer.join(60)
    assert sorted(str(racer.exitcode) for racer in racers) == ["0"] + ["4"] * 15


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("session", [False, True])
def test_killed_at_each_point(tmp_path: Path, point: str, session: bool) -> None:
    """Each transition, before and after its commit."""

    def leave_held() -> None:
        world = World(tmp_path)
        world.allocator.admit_new(new(spec("held")), wanted(spec("held")), start=True)
        os._exit(0)

    def whole_life() -> None:
        world, bodies = World(tmp_path), Bodies(tmp_path)
        sweep(world, bodies)
        for record in world.ledger.instances():  # what a victim completed before it died, and may stay
            for _ in remove_steps(world, bodies, record.id):
                pass
        world.allocator.abandon(world.allocator.admit_new(new(spec("never")), wanted(spec()), start=False), "test")
        for _ in run_steps(world, bodies, spec(), session=session):
            pass
        if not session:
            for _ in remove_steps(world, bodies, world.ledger.instance("web").id):
                pass

    child(leave_held).join(60)
    victim = child(whole_life, VMCTL_CRASH_AT=point)
    victim.join(60)
    assert victim.exitcode == -signal.SIGKILL, f"{point} was not reached"
    assert_clean(tmp_path)
    survivor = child(whole_life)
    survivor.join(60)
    assert survivor.exitcode == 0
    assert_clean(tmp_path)
    assert World(tmp_path).used() == 0


def test_killed_at_random(tmp_path: Path) -> None:
    """Four processes at a time live whole lives over and over, and are killed at random instants."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # shown when the test fails
    chance = random.Random(seed)
    Bodies(tmp_path)

    def work() -> None:
        mine = random.Random(int.from_bytes(os.urandom(4)))
        world, bodies = World(tmp_path, host(slots=6)), Bodies(tmp_path)
        while True:
            try:
                sweep(world, bodies)
                one = spec(f"i{new_id()[-8:]}")
                for _ in run_steps(world, bodies, one, session=mine.random() < 0.5):
                    pass
                victim = mine.choice([record.id for record in world.ledger.instances()] or [""])
                life = mine.choice([remove_steps, remove_steps, stop_steps, start_steps])
                for _ in life(world, bodies, victim):
                    pass
            except (DoesNotFitNow, NotFound):
                for record in world.ledger.instances()[:1]:
                    try:
                        for _ in remove_steps(world, bodies, record.id):
                            pass
                    except VmctlError:
                        continue
            except VmctlError:
                continue

    kills = 0
    workers = [child(work) for _ in range(4)]
    deadline = time.monotonic() + 12
    try:
        while kills < 80 and time.monotonic() < deadline:
            time.sleep(chance.uniform(0.02, 0.2))
            index = chance.randrange(4)
            workers[index].kill()
            workers[index].join()
            kills += 1
            workers[index] = child(work)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    world = World(tmp_path)
    moves = world.ledger.last_seq()
    world.ledger.close()
    print(f"{kills} kills over {moves} events")
    assert kills > 20
    assert moves > 100
    assert_clean(tmp_path)
