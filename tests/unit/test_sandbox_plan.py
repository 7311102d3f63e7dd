"""Sandboxes: what is refused, what an order holds, how the supervisor's words become states."""

from __future__ import annotations

import pytest

from vmctl.backends.sandbox.order import Status
from vmctl.backends.sandbox.plan import _id_base, check, signal_number
from vmctl.backends.sandbox.states import WORDS, state_of
from vmctl.errors import Unsupported, UsageError
from vmctl.model.ids import new_id
from vmctl.model.spec import InstanceSpec, Mount, Port
from vmctl.model.state import Kind, State


def app(**wanted: object) -> InstanceSpec:
    return InstanceSpec(kind=Kind.APP, name="a", command=("true",), **wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "error", "text"),
    [
        ({"ports": (Port(port=80),)}, Unsupported, "ports cannot be published"),
        ({"network": "lan"}, Unsupported, "network 'lan'"),
        ({"mounts": (Mount(source="vol", target="/v"),)}, Unsupported, "it has no volumes"),
        ({"mounts": (Mount(source="/v", target="v"),)}, UsageError, "no place to mount on"),
        ({"mounts": (Mount(source="/v", target="/proc/../proc/"),)}, UsageError, "no place to mount on"),
        ({"memory": 4096}, UsageError, "too few"),
        ({"stop_signal": "SIGNOPE"}, UsageError, "no signal called"),
    ],
)
def test_refused(wanted: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        check(app(**wanted))


def test_accepted() -> None:
    check(app(network="none", stop_signal="INT", mounts=(Mount(source="/v", target="/v"),)))
    with pytest.raises(Unsupported):
        check(InstanceSpec(kind=Kind.VM, name="a"))


@pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("sigkill", 9), ("1", 1), ("RTMIN", 34)])
def test_signal_numbers(name: str, number: int) -> None:
    assert signal_number(name) == number


@pytest.mark.parametrize("name", ["", "0", "65", "SIG", "_DFL", "-1"])
def test_no_signals(name: str) -> None:
    with pytest.raises(UsageError):
        signal_number(name)


def test_id_ranges_are_stable_apart_and_within_the_containers_part() -> None:
    ids = [new_id() for _ in range(100)]
    bases = [_id_base(identity) for identity in ids]
    assert bases == [_id_base(identity) for identity in ids]
    assert len(set(bases)) > 95
    assert all(base % 65536 == 0 and base >= 524288 and base + 65535 <= 1879048191 for base in bases)


def status(word: str) -> Status:
    return {"state": word, "supervisor": 1, "program": 2, "started_at": 3, "end": None, "restarts": 0}


@pytest.mark.parametrize("word", WORDS)
def test_every_word_alive_and_dead(word: str) -> None:
    assert state_of(status(word), alive=True, frozen=False) is WORDS[word]
    ended = word in ("stopped", "failed")
    assert state_of(status(word), alive=False, frozen=False) is (WORDS[word] if ended else State.FAILED)


def test_states_that_have_no_word() -> None:
    assert state_of(None, alive=False, frozen=False) is State.CREATED
    assert state_of(None, alive=True, frozen=False) is State.STARTING
    assert state_of(status("running"), alive=True, frozen=True) is State.PAUSED
    assert state_of(status("tomorrow"), alive=True, frozen=False) is State.UNKNOWN
