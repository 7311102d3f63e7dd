"""Single moves of claims, inside a ledger transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from vmctl.crashpoint import crash_point, declare_crash_points
from vmctl.errors import WrongState
from vmctl.ledger import Ledger, claims, instances
from vmctl.ledger.records import ClaimClass, ClaimRecord, ClaimState, Owner, Part

_GIVEN_UP = {
    ClaimState.HELD: ClaimState.RELEASED,  # no side effect was possible
    ClaimState.REALISING: ClaimState.RELEASING,
    ClaimState.ACTIVE: ClaimState.RELEASING,
}
_DOING = {
    ClaimState.HELD: "being started",
    ClaimState.REALISING: "being started",
    ClaimState.RESIZING: "being resized",
    ClaimState.RELEASING: "being stopped or removed",
}
_STEPS = ("admit", "begin", "confirm", "abandon", "releasing", "released", "recover")
declare_crash_points(*(f"claim.{name}.{when}" for name in _STEPS for when in ("before-commit", "after-commit")))


@contextmanager
def step(ledger: Ledger, name: str) -> Iterator[sqlite3.Connection]:
    """One write transaction between two crash points, called ``claim.<name>.before-commit`` and ``.after-commit``."""
    with ledger.write() as db:
        yield db
        crash_point(f"claim.{name}.before-commit")
    crash_point(f"claim.{name}.after-commit")


def move(db: sqlite3.Connection, claim: ClaimRecord, to_state: ClaimState, reason: str = "") -> ClaimRecord:
    """One transition (rule P1); with a static claim's release the instance's row goes.

    Raises WrongState when somebody else moved the claim first.
    """
    in_charge = to_state in {ClaimState.REALISING, ClaimState.RELEASING}
    owner = Owner.me() if in_charge else claim.owner if to_state is ClaimState.ACTIVE and is_session(claim) else None
    if not claims.move(db, claim, to_state, owner=owner, detail=reason):
        raise busy(claim.name, claims.by_id(db, claim.id))
    if to_state is ClaimState.RELEASED and claim.part is Part.STATIC and claim.instance_id is not None:
        instances.delete(db, claim.instance_id)
    return msgspec.structs.replace(claim, state=to_state, owner=owner, generation=claim.generation + 1)


def give_up(db: sqlite3.Connection, claim: ClaimRecord, reason: str) -> ClaimRecord:
    """Towards RELEASED as far as is safe without asking a backend; what is on its way already stays as it is."""
    to_state = _GIVEN_UP.get(claim.state)
    return claim if to_state is None else move(db, claim, to_state, reason)


def is_session(claim: ClaimRecord) -> bool:
    return claim.claim_class is ClaimClass.SESSION


def needs_owner(claim: ClaimRecord) -> bool:
    """Whether the claim would be an orphan if nobody held its lock."""
    return claim.state is not ClaimState.RELEASED and not (claim.state is ClaimState.ACTIVE and not is_session(claim))


def open_to_others(claim: ClaimRecord) -> bool:
    """A running session may be ended by other processes while its owner lives (``rm -f`` of an attached run)."""
    return is_session(claim) and claim.state in {ClaimState.ACTIVE, ClaimState.RELEASING}


def busy(name: str, claim: ClaimRecord | None) -> WrongState:
    """The error for a claim that another process is at work on; None: it is gone."""
    if claim is None or claim.state is ClaimState.RELEASED:
        return WrongState(f"'{name}' was removed meanwhile", hint="see 'vmctl ps -a'")
    doing = _DOING.get(claim.state, "being worked on")
    by = f"process {claim.owner.pid}" if claim.owner else "another vmctl command"
    return WrongState(f"'{name}' is {doing} by {by}", hint="try again when that is done")
