"""Instances, events and the ledger's check of itself."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.support.allocation import World, new, spec, wanted
from vmctl.errors import Conflict, LedgerError, NotFound, UsageError
from vmctl.ledger import InstanceRecord
from vmctl.ledger import events as event_rows
from vmctl.model.event import EventType
from vmctl.model.spec import Mount, Port
from vmctl.model.state import Desired, Exit, State


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def make(world: World, name: str, **fields: object) -> InstanceRecord:
    one = spec(name, **fields)
    grant = world.allocator.admit_new(new(one), wanted(one), start=False)
    world.allocator.begin(grant)
    world.allocator.confirm(grant)
    return world.ledger.instance(name)


def execute(world: World, *statements: str) -> None:
    with world.ledger.write() as db:
        for statement in statements:
            db.execute(statement)


def test_a_record_comes_back_whole(world: World) -> None:
    ports, mounts = (Port(port=80, host_port=8080),), (Mount(source="/srv", target="/data", read_only=True),)
    record = make(world, "web", ports=ports, mounts=mounts, env={"A": "ä=b"}, command=("sh", "-c", "x; y"))
    assert record.spec.ports == ports
    assert record.spec.mounts == mounts
    assert record.spec.env == {"A": "ä=b"}
    assert record.spec.command == ("sh", "-c", "x; y")
    assert (record.state, record.desired, record.exit) == (State.PENDING, Desired.STOPPED, None)
    world.ledger.set_desired(record.id, Desired.RUNNING)
    world.ledger.set_observed(record.id, State.FAILED, Exit(code=137, signal=9, oom=True), started_at=5, restarts=2)
    world.ledger.set_observed(record.id, State.FAILED, Exit(code=137, signal=9, oom=True))
    record = world.ledger.instance("web")
    assert (record.desired, record.state) == (Desired.RUNNING, State.FAILED)
    assert (record.exit, record.started_at, record.restarts) == (Exit(code=137, signal=9, oom=True), 5, 2)
    world.ledger.set_observed(record.id, State.RUNNING)
    assert world.ledger.instance("web").exit is None


def test_reference_by_name_id_and_prefix(world: World) -> None:
    one, two = make(world, "web"), make(world, "db")
    assert world.ledger.instance("web").id == one.id
    assert world.ledger.instance(one.id).name == "web"
    unique = one.id[: next(n for n in range(26) if one.id[:n] != two.id[:n])]
    assert world.ledger.instance(unique).name == "web"
    with pytest.raises(NotFound, match="several") as caught:
        world.ledger.instance(one.id[:4])
    assert "web" in caught.value.hint
    assert "db" in caught.value.hint
    with pytest.raises(NotFound):
        world.ledger.instance(one.id[:3])


def test_a_name_wins_over_an_id_prefix(world: World) -> None:
    one = make(world, "web")
    make(world, one.id[:6])
    assert world.ledger.instance(one.id[:6]).name == one.id[:6]


def test_not_found_suggests(world: World) -> None:
    make(world, "webserver")
    with pytest.raises(NotFound) as caught:
        world.ledger.instance("webservr")
    assert caught.value.hint == "did you mean 'webserver'?"
    with pytest.raises(NotFound, match="zzz"):
        world.ledger.instance("zzz")


@pytest.mark.parametrize("ref", ["%", "we_", "' OR 1=1 --", "", "~~~~", "a" * 5000])
def test_odd_references_find_nothing(world: World, ref: str) -> None:
    make(world, "web")
    with pytest.raises(NotFound):
        world.ledger.instance(ref)


def test_projects_are_listed_apart(world: World) -> None:
    make(world, "a", project="blue")
    make(world, "b")
    assert [one.name for one in world.ledger.instances()] == ["a", "b"]
    assert [one.name for one in world.ledger.instances("blue")] == ["a"]


def test_rename(world: World) -> None:
    one = make(world, "web")
    make(world, "db")
    with pytest.raises(Conflict):
        world.ledger.rename(one.id, "db")
    with pytest.raises(UsageError):
        world.ledger.rename(one.id, "No Good")
    with pytest.raises(NotFound):
        world.ledger.rename("0" * 26, "x")
    world.ledger.rename(one.id, "www")
    assert world.ledger.instance("www").id == one.id
    assert {view.name for view in world.allocator.claim_views()} == {"www", "db"}
    last = world.ledger.events()[-1]
    assert (last.type, last.name, last.detail) == (EventType.RENAME, "www", "from=web")


def test_events_are_kept_in_order_with_their_actor(world: World) -> None:
    one = make(world, "web")
    start = world.ledger.last_seq()
    world.ledger.record(EventType.START, one.id, name="web", kind="app", detail="exit=0")
    world.ledger.record(EventType.STOP, "other")
    events = world.ledger.events(start)
    assert [event.type for event in events] == ["start", "stop"]
    assert events[0].pid > 0
    assert events[0].detail == "exit=0"
    assert [event.instance_id for event in world.ledger.events(start, one.id)] == [one.id]


@pytest.mark.parametrize("statement", ["UPDATE event SET detail = 'x'", "DELETE FROM event"])
def test_events_cannot_be_changed(world: World, statement: str) -> None:
    make(world, "web")
    with pytest.raises(LedgerError, match="events cannot be"):
        execute(world, statement)
    assert world.ledger.fsck() == []


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE event SET detail = 'x' WHERE seq = 2", "event 2 was changed"),
        ("UPDATE event SET hash = (SELECT hash FROM event WHERE seq = 1) WHERE seq = 2", "event 2 was changed"),
        ("DELETE FROM event WHERE seq = 2", "events 2 to 2 are missing"),
        ("DELETE FROM event WHERE seq > 3", "events 4 to"),
        ("UPDATE event SET seq = 999 WHERE seq = 3", "events 3 to"),
        ("UPDATE inventory SET used = used + 1 WHERE resource = 'inst'", "counter of inst says 2"),
        ("UPDATE claim SET state = 'LOST'", "is LOST, its events say ACTIVE"),
        ("DELETE FROM instance", "has no instance"),
        ("DELETE FROM claim_amount", "its claims add up to 0"),
    ],
)
def test_fsck_sees_tampering(world: World, statement: str, complaint: str) -> None:
    make(world, "web")
    assert world.ledger.fsck() == []
    execute(world, "DROP TRIGGER event_is_final", "DROP TRIGGER event_is_kept", statement)
    assert complaint in "\n".join(world.ledger.fsck())


def test_one_event_cannot_be_changed_even_with_its_hash(world: World) -> None:
    """Each hash holds the one before: who changes an event has to change all that follow."""
    make(world, "web")
    first, second = world.ledger.events()[:2]
    forged = msgspec.structs.replace(second, detail="forged")
    digest = event_rows._digest(first.hash, forged)
    execute(
        world,
        "DROP TRIGGER event_is_final",
        f"UPDATE event SET detail = 'forged', hash = '{digest}' WHERE seq = {second.seq}",
    )
    assert "event 3 was changed" in world.ledger.fsck()


def test_counters_cannot_fall_below_zero(world: World) -> None:
    make(world, "web")
    with pytest.raises(LedgerError, match="CHECK"):
        execute(world, "UPDATE inventory SET used = used - 2 WHERE resource = 'inst'")
