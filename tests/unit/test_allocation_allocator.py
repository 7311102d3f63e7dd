"""The allocator's protocol: admission, the way through the states, other processes, foreign workloads, recovery."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.support.allocation import GIB, MIB, World, host, new, spec, wanted
from vmctl.allocation import allocator as allocator_module
from vmctl.allocation.grant import Grant
from vmctl.allocation.policy import MEM_FLOOR
from vmctl.allocation.records import Observation, Verdict
from vmctl.errors import Conflict, DoesNotFitNow, NeverFits, NotFound, WrongState
from vmctl.ledger import ClaimState, Part
from vmctl.model.observed import Foreign
from vmctl.model.state import Desired, Kind


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator_module, "PATIENCE_SECONDS", 0.05)


def admit(world: World, name: str = "web", *, start: bool = True, session: bool = False, **fields: object) -> Grant:
    one = spec(name, **fields)
    return world.allocator.admit_new(new(one), wanted(one), start=start, session=session)


def run(world: World, name: str = "web", *, start: bool = True, session: bool = False, **fields: object) -> Grant:
    grant = admit(world, name, start=start, session=session, **fields)
    world.allocator.begin(grant)
    world.allocator.confirm(grant)
    return grant


def states(world: World) -> dict[str, str]:
    return {f"{view.name}.{view.part}": view.state for view in world.allocator.claim_views()}


@contextmanager
def another_process(world: World) -> Iterator[World]:
    """The same ledger seen through other file descriptors: locks conflict as between processes."""
    other = World(world.folder, world.facts)
    yield other
    other.ledger.close()


def dies(world: World) -> None:
    """What the end of a process does: its locks are free."""
    world.allocator._locks.close()
    world.ledger.close()


def test_the_way_in_and_out(world: World) -> None:
    grant = admit(world)
    assert states(world) == {"web.static": "HELD", "web.compute": "HELD"}
    world.allocator.begin(grant)
    assert states(world) == {"web.static": "REALISING", "web.compute": "REALISING"}
    world.allocator.confirm(grant)
    assert states(world) == {"web.static": "ACTIVE", "web.compute": "ACTIVE"}
    assert world.ledger.instance("web").desired is Desired.RUNNING
    assert world.used() == 512 * MIB

    out = world.allocator.releasing_all(grant.instance_id)
    assert world.used() == 512 * MIB, "P3: counted until the backend has confirmed that it is gone"
    world.allocator.released(out)
    assert world.used() == 0
    assert world.ledger.instances() == []
    assert states(world) == {}
    released = world.ledger.claim(grant.claim_id())
    assert released is not None
    assert released.state is ClaimState.RELEASED, "I16: the row stays"
    assert world.ledger.fsck() == []


def test_a_stopped_instance_keeps_disk_and_name_only(world: World) -> None:
    grant = run(world)
    out = world.allocator.releasing_compute(grant.instance_id)
    world.allocator.released(out)
    assert states(world) == {"web.static": "ACTIVE"}
    assert (world.used("mem"), world.used("inst"), world.used("disk.virt")) == (0, 1, GIB)
    with pytest.raises(Conflict):
        admit(world)
    again = world.allocator.admit_start(grant.instance_id, wanted(spec()))
    assert set(again.claims) == {Part.COMPUTE}
    assert world.used("mem") == 512 * MIB
    assert world.used("inst") == 1


def test_create_claims_no_compute_but_refuses_the_impossible(world: World) -> None:
    run(world, start=False)
    assert states(world) == {"web.static": "ACTIVE"}
    assert world.ledger.instance("web").desired is Desired.STOPPED
    with pytest.raises(NeverFits):
        admit(world, "big", start=False, memory=1 << 45)


def test_not_now_and_never(world: World) -> None:
    for slot in range(8):
        run(world, f"web{slot}")
    with pytest.raises(DoesNotFitNow) as caught:
        admit(world, "ninth")
    assert "memory needs 512M, free 0" in caught.value.message
    assert "most held by web0 512M, web1 512M, web2 512M" in caught.value.message
    with pytest.raises(NeverFits):
        admit(world, "huge", memory=9 * 512 * MIB)
    assert world.ledger.fsck() == []


def test_a_refusal_changes_nothing_but_one_event(world: World) -> None:
    """I5."""
    run(world)
    before = (world.ledger.instances(), world.allocator.claim_views(), world.allocator.host_resources())
    seq = world.ledger.last_seq()
    with pytest.raises(NeverFits):
        admit(world, "big", memory=1 << 45)
    with pytest.raises(Conflict):
        admit(world, "web")
    assert (world.ledger.instances(), world.allocator.claim_views(), world.allocator.host_resources()) == before
    assert [(event.type, event.name) for event in world.ledger.events(seq)] == [("refuse", "big"), ("refuse", "web")]
    assert world.ledger.events(seq)[0].detail.startswith("never-fits: ")
    assert list((world.folder / "run" / "claims").iterdir()) == [], "no lock file is left either"


def test_start_needs_a_whole_stopped_instance(world: World) -> None:
    grant = run(world)
    with pytest.raises(WrongState, match="started already"):
        world.allocator.admit_start(grant.instance_id, wanted(spec()))
    with pytest.raises(NotFound):
        world.allocator.admit_start("0" * 26, wanted(spec()))
    half = admit(world, "half", start=False)
    with pytest.raises(WrongState, match="being started by process"):
        world.allocator.admit_start(half.instance_id, wanted(spec()))
    world.allocator.releasing_all(grant.instance_id)
    with pytest.raises(WrongState, match="being stopped or removed"):
        world.allocator.admit_start(grant.instance_id, wanted(spec()))


def test_a_step_cannot_be_left_out(world: World) -> None:
    grant = admit(world)
    with pytest.raises(ValueError, match="HELD to ACTIVE"):
        world.allocator.confirm(grant)
    world.allocator.begin(grant)
    with pytest.raises(ValueError, match="REALISING to RELEASED"):
        world.allocator.released(grant)
    assert states(world) == {"web.static": "REALISING", "web.compute": "REALISING"}
    assert world.ledger.fsck() == []


def test_abandon_is_safe_at_every_step_and_twice(world: World) -> None:
    held = admit(world, "held")
    world.allocator.abandon(held, "test")
    assert states(world) == {}
    realising = admit(world, "realising")
    world.allocator.begin(realising)
    world.allocator.abandon(realising, "test")
    world.allocator.abandon(realising, "test")
    assert states(world) == {"realising.static": "RELEASING", "realising.compute": "RELEASING"}
    world.allocator.released(realising)
    world.allocator.released(realising)
    world.allocator.abandon(realising, "test")
    assert states(world) == {}
    assert world.used() == 0
    assert world.ledger.fsck() == []


def test_parts_move_apart(world: World) -> None:
    """A body that was made and could not be started is kept without compute."""
    grant = admit(world)
    world.allocator.begin(grant)
    world.allocator.confirm(grant, Part.STATIC)
    world.allocator.abandon(grant, "no such program", Part.COMPUTE)
    world.allocator.released(grant, Part.COMPUTE)
    assert states(world) == {"web.static": "ACTIVE"}
    world.allocator.released(world.allocator.releasing_compute(grant.instance_id))
    assert states(world) == {"web.static": "ACTIVE"}, "nothing to release: silent"


def test_another_living_process_is_respected(world: World) -> None:
    grant = admit(world)
    world.allocator.begin(grant)
    with another_process(world) as other:
        with pytest.raises(WrongState, match="is being started by process"):
            other.allocator.releasing_all(grant.instance_id)
        with other.allocator.recoverable() as orphans:
            assert orphans == []
    world.allocator.confirm(grant)
    with another_process(world) as other:
        out = other.allocator.releasing_all(grant.instance_id)
        with pytest.raises(WrongState, match="is being stopped or removed by process"):
            world.allocator.releasing_all(grant.instance_id)
        other.allocator.released(out)
    assert states(world) == {}


def test_a_running_session_can_be_ended_by_others(world: World) -> None:
    grant = run(world, session=True)
    with another_process(world) as other:
        out = other.allocator.releasing_all(grant.instance_id, "rm -f")
        other.allocator.released(out)
    assert states(world) == {}
    mine = world.allocator.releasing_all(grant.instance_id)
    world.allocator.released(mine)
    world.allocator.abandon(grant, "the session ended")
    world.allocator.released(grant)
    grant.close()
    assert world.ledger.fsck() == []
    assert list((world.folder / "run" / "claims").iterdir()) == []


def test_the_owner_of_a_session_may_release_it_without_its_grant(world: World) -> None:
    grant = run(world, session=True)
    world.allocator.released(world.allocator.releasing_all(grant.instance_id))
    assert states(world) == {}


def test_a_dead_owners_held_claims_are_released_at_once(world: World) -> None:
    admit(world)
    dies(world)
    with another_process(world) as other:
        with other.allocator.recoverable() as orphans:
            assert orphans == []
        assert states(other) == {}
        assert other.used() == 0
        assert other.ledger.instances() == []
        assert other.ledger.fsck() == []


@pytest.mark.parametrize("session", [False, True])
def test_a_dead_owners_started_claims_are_handed_to_the_sweep(world: World, session: bool) -> None:
    grant = admit(world, session=session)
    world.allocator.begin(grant)
    dies(world)
    with another_process(world) as other, another_process(world) as third:
        with other.allocator.recoverable() as orphans:
            (orphan,) = orphans
            assert orphan.instance is not None
            assert orphan.instance.name == "web"
            assert {claim.state for claim in orphan.grant.claims.values()} == {ClaimState.REALISING}
            with third.allocator.recoverable() as none:
                assert none == [], "one sweep at a time"
            other.allocator.abandon(orphan.grant, "owner died")
            other.allocator.released(orphan.grant)
        with third.allocator.recoverable() as none:
            assert none == [], "I18: a second recovery finds nothing"
        assert states(other) == {}
        assert other.ledger.fsck() == []


def test_a_sweep_that_dies_leaves_the_orphan_to_the_next(world: World) -> None:
    world.allocator.begin(admit(world))
    dies(world)
    for _ in range(2):
        with another_process(world) as other, other.allocator.recoverable() as orphans:
            assert len(orphans) == 1


def test_durable_claims_outlive_their_maker_and_sessions_do_not(world: World) -> None:
    run(world, "durable")
    run(world, "session", session=True)
    dies(world)
    with another_process(world) as other, other.allocator.recoverable() as orphans:
        assert [orphan.instance.name for orphan in orphans if orphan.instance] == ["session"]
        assert {claim.state for claim in orphans[0].grant.claims.values()} == {ClaimState.ACTIVE}


def test_my_own_session_is_no_orphan(world: World) -> None:
    run(world, session=True)
    with world.allocator.recoverable() as orphans:
        assert orphans == []


def test_a_lease_that_is_over_is_found(tmp_path: Path) -> None:
    now = [1_000_000_000]
    world = World(tmp_path, clock=lambda: now[0])
    run(world, ttl=10.0)
    with world.allocator.recoverable() as orphans:
        assert orphans == []
    now[0] += 10_000_000_001
    with world.allocator.recoverable() as orphans:
        assert len(orphans) == 1


def test_lock_files_of_the_dead_are_removed(world: World) -> None:
    assert world.allocator._locks.take("0" * 26)
    dies(world)
    with another_process(world) as other, other.allocator.recoverable():
        assert list((world.folder / "run" / "claims").iterdir()) == []


def test_owned_compute(world: World) -> None:
    grant = run(world)
    with another_process(world) as other:
        with world.allocator.owned_compute(grant.instance_id) as mine:
            assert mine is not None
            with other.allocator.owned_compute(grant.instance_id) as theirs:
                assert theirs is None
            world.allocator.abandon(mine, "ended by itself")
            world.allocator.released(mine)
        with other.allocator.owned_compute(grant.instance_id) as theirs:
            assert theirs is None
    assert states(world) == {"web.static": "ACTIVE"}
    assert list((world.folder / "run" / "claims").iterdir()) == []


def test_compute_holders(world: World) -> None:
    run(world, "a")
    run(world, "b", start=False)
    admit(world, "c")
    assert [record.name for record in world.allocator.compute_holders()] == ["a"]


def foreign(name: str = "win", memory: int = GIB, **fields: object) -> Foreign:
    return Foreign(
        **{
            "backend": "libvirt",
            "native_name": name,
            "kind": Kind.VM,
            "running": True,
            "cpu_millis": 1000,
            "memory": memory,
            **fields,
        }
    )


def test_foreign_workloads_are_counted_until_they_are_gone(world: World) -> None:
    allocator = world.allocator
    assert allocator.observe_foreign([foreign(memory=8 * 512 * MIB), foreign("off", running=False)])
    assert states(world) == {"win.compute": "FOREIGN"}
    with pytest.raises(DoesNotFitNow, match="most held by win 4G"):
        admit(world)
    seq = world.ledger.last_seq()
    assert not allocator.observe_foreign([foreign(memory=8 * 512 * MIB, resident=5)])
    assert world.ledger.last_seq() == seq, "nothing changed, nothing written"
    assert allocator.observe_foreign([foreign(memory=4 * 512 * MIB)])
    admit(world)
    assert allocator.observe_foreign([])
    assert world.used() == 512 * MIB
    assert world.ledger.fsck() == []


def test_foreign_workloads_may_exceed_the_host(world: World) -> None:
    """I3: then only what does not raise the use passes."""
    grant = run(world)
    world.allocator.observe_foreign([foreign(memory=1 << 45)])
    with pytest.raises(DoesNotFitNow):
        admit(world, "other")
    world.allocator.released(world.allocator.releasing_all(grant.instance_id))
    assert world.ledger.fsck() == []


def test_a_daemon_that_is_down_frees_nothing(world: World) -> None:
    world.allocator.observe_foreign([foreign(), foreign("box", backend="docker")])
    world.allocator.observe_foreign([], backends=frozenset({"libvirt"}))
    assert states(world) == {"box.compute": "FOREIGN"}


def test_admission_looks_at_what_was_just_seen(world: World) -> None:
    one = spec()
    seen = Observation(foreign=[foreign(memory=8 * 512 * MIB)])
    assert world.allocator.explain(wanted(one), seen).verdict is Verdict.NOT_NOW
    assert world.allocator.claim_views() == [], "an explanation writes nothing"
    with pytest.raises(DoesNotFitNow, match="win"):
        world.allocator.admit_new(new(one), wanted(one), start=True, observation=seen)
    world.allocator.admit_new(new(one), wanted(one), start=True, observation=Observation(foreign=[]))


def test_an_inventory_below_its_use_admits_nothing_and_kills_nothing(world: World) -> None:
    grant = run(world)
    world.facts = host(slots=1)
    with pytest.raises(DoesNotFitNow):
        admit(world, "other")
    world.facts = msgspec.structs.replace(host(slots=1), mem_total=GIB)
    with pytest.raises(NeverFits):
        admit(world, "other")
    world.allocator.released(world.allocator.releasing_compute(grant.instance_id))
    assert world.ledger.fsck() == []


def test_memory_gate_asks_for_residents_only_when_it_matters(world: World) -> None:
    asked: list[int] = []
    grant = run(world)

    def residents() -> dict[str, int]:
        asked.append(1)
        return {grant.instance_id: 512 * MIB}

    def start(name: str) -> None:
        one = spec(name)
        observation = Observation(foreign=[], residents=residents)
        world.allocator.admit_new(new(one), wanted(one), start=True, observation=observation)

    start("plenty")
    assert asked == []
    # Room for what 'plenty' was promised, for one more, and the floor; 'web' has its memory already.
    world.facts = msgspec.structs.replace(world.facts, mem_available=2 * 512 * MIB + MEM_FLOOR)
    start("enough")
    assert asked == [1]
    world.facts = msgspec.structs.replace(world.facts, mem_available=3 * 512 * MIB + MEM_FLOOR - 1)
    with pytest.raises(DoesNotFitNow) as caught:
        start("short")
    assert asked == [1, 1]
    assert "really available" in caught.value.message
    assert caught.value.details["shortages"][0]["gate"] == "available"  # type: ignore[index]
    assert world.ledger.fsck() == []


def test_a_full_disk_stops_new_instances_but_not_starts(world: World) -> None:
    grant = run(world, start=False)
    world.facts = msgspec.structs.replace(world.facts, disk_available=1 << 30)
    with pytest.raises(DoesNotFitNow, match="storage pool"):
        admit(world, "other")
    world.allocator.admit_start(grant.instance_id, wanted(spec()))


def test_generation_rises_with_every_change(world: World) -> None:
    """I14."""
    from vmctl.ledger import inventory

    def generation() -> int:
        with world.ledger.read() as db:
            return inventory.generation(db, "host")

    seen = [generation()]
    grant = admit(world)
    seen.append(generation())
    world.allocator.begin(grant)
    seen.append(generation())
    world.allocator.confirm(grant)
    seen.append(generation())
    world.allocator.released(world.allocator.releasing_all(grant.instance_id))
    seen.append(generation())
    world.allocator.set_resource("mem", reserved=0)
    seen.append(generation())
    assert seen == sorted(set(seen))


def test_a_claim_that_was_taken_away_is_not_brought_back(world: World) -> None:
    """P1: compare-and-swap. A process that slept so long that it was taken for dead finds out."""
    grant = admit(world)
    world.allocator.begin(grant)
    world.allocator._locks.close()
    with another_process(world) as other:
        with other.allocator.recoverable() as orphans:
            other.allocator.abandon(orphans[0].grant, "taken for dead")
        with pytest.raises(WrongState, match="is being stopped or removed by process"):
            world.allocator.confirm(grant)
        other.allocator.released(orphans[0].grant)
    with pytest.raises(WrongState, match="was removed meanwhile"):
        world.allocator.confirm(grant)
    assert world.ledger.fsck() == []


def test_two_starts_of_one_instance_only_one_is_admitted(world: World) -> None:
    grant = run(world, start=False)
    world.allocator.admit_start(grant.instance_id, wanted(spec()))
    with another_process(world) as other, pytest.raises(WrongState, match="being started by process"):
        other.allocator.admit_start(grant.instance_id, wanted(spec()))
    assert world.used() == 512 * MIB


def test_views(world: World) -> None:
    run(world, session=True)
    world.allocator.observe_foreign([foreign()])
    views = {view.part + view.state: view for view in world.allocator.claim_views()}
    compute = views["computeACTIVE"]
    assert compute.amounts == {"cpu.shared": 100, "mem": 512 * MIB, "pids": 16}
    assert (compute.claim_class, compute.owner_alive) == ("session", True)
    assert views["staticACTIVE"].amounts == {"inst": 1, "disk.virt@storage:default": GIB}
    assert (views["computeFOREIGN"].project, views["computeFOREIGN"].instance_id) == ("_foreign", None)
    mem = next(row for row in world.allocator.host_resources() if row.resource == "mem")
    assert (mem.claimed, mem.foreign, mem.free) == (GIB + 512 * MIB, GIB, mem.capacity - GIB - 512 * MIB)
