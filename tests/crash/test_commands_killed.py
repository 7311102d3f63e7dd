"""kill -9 of a real command at every step: the next command leaves no body without a claim, no claim without a body.

Each crash point is tried with each kind (and with the fake), in the first verb below that passes through it.
"""

from __future__ import annotations

import signal

import pytest

import vmctl.allocation.allocator
import vmctl.ops.lifecycle
import vmctl.ops.run  # noqa: F401 - importing a module declares its crash points
from tests.support.leftovers import assert_nothing_left
from tests.support.runner import Vmctl
from vmctl.crashpoint import crash_points
from vmctl.ledger.ledger import Ledger

KINDS = [
    pytest.param("fake"),
    pytest.param("container", marks=pytest.mark.docker),
    pytest.param("app", marks=pytest.mark.sandbox),
    pytest.param("vm", marks=pytest.mark.libvirt),
]
NAME = "victim"
DYING = "(killed while its claim is held)"


def verbs(kind: str) -> list[tuple[str, list[tuple[str, ...]]]]:
    """(command to be killed, commands before it), in the order in which a point looks for a verb that reaches it."""
    flags = ("--backend", "fake", "--kind", "app") if kind == "fake" else ("--kind", kind)
    make = (*flags, "--name", NAME, "-m", "128M", "busybox", "--", "sleep", "600")
    run, create = ("run", "-d", *make), ("create", *make)
    return [
        (" ".join(run), []),
        (" ".join(create), []),
        (f"start {NAME}", [create]),
        (f"stop -t 0 {NAME}", [run]),
        (f"rm -f {NAME}", [run]),
        ("ps", [(DYING, *run)]),  # the sweep of what an earlier kill left
    ]


def prepare(vmctl: Vmctl, command: tuple[str, ...]) -> None:
    if command[0] == DYING:
        vmctl(*command[1:], env={"VMCTL_CRASH_AT": "run.held"}).expect(-signal.SIGKILL)
    else:
        vmctl(*command).expect()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("point", crash_points())
def test_killed_at(vmctl_with_image: Vmctl, kind: str, point: str) -> None:
    vmctl = vmctl_with_image
    for command, before in verbs(kind):
        for preparation in before:
            prepare(vmctl, preparation)
        if vmctl(*command.split(), env={"VMCTL_CRASH_AT": point}).code == -signal.SIGKILL:
            break
        vmctl("rm", "-f", NAME)
    else:
        pytest.fail(f"no verb passes through crash point {point}")
    rows = vmctl.json("ps", "-a")  # the next command
    claims = [claim for claim in vmctl.json("claim", "ls") if claim["project"] != "_foreign"]
    assert {claim["state"] for claim in claims} <= {"ACTIVE"}
    assert {claim["name"] for claim in claims if claim["part"] == "static"} == {row["name"] for row in rows}
    running = {row["name"] for row in rows if row["state"] == "running"}
    assert {claim["name"] for claim in claims if claim["part"] == "compute"} == running
    ledger = Ledger.open(vmctl.state_dir / "ledger.db", vmctl.state_dir / "run")
    assert ledger.fsck() == []
    ledger.close()
    assert_nothing_left(vmctl.state_dir, keep=[NAME, *(row["id"] for row in rows)])
    if rows:
        vmctl("rm", "-f", NAME).expect()
    vmctl(*verbs(kind)[1][0].split()).expect()  # the name is free again
    vmctl("rm", "-f", NAME).expect()
    assert_nothing_left(vmctl.state_dir)
