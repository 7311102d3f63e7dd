"""The bench measures in turn and judges by the medians."""

from __future__ import annotations

import sys

import pytest

from contrib.bench.measure import Contender, Failed, Goal, command, interleave, report


def test_contenders_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    contenders = [Contender("a", lambda: order.append("a")), Contender("b", lambda: order.append("b"))]
    times = interleave(contenders, 3)
    assert order == ["a", "b"] * 4
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize(("limit", "met", "word"), [(2.0, True, "pass"), (1.9, False, "FAIL")])
def test_the_subject_is_compared_with_all_peers_together(
    capsys: pytest.CaptureFixture[str], limit: float, met: bool, word: str
) -> None:
    times = {"ours": [9.0, 4.0, 3.0], "one": [1.0, 1.0, 1.0], "two": [0.5, 1.0, 99.0]}
    assert report("Title", times, [Goal("ours", ("one", "two"), limit)]) is met
    assert f"{word}  ours / one + two: 2.00 (minima 2.00), goal {limit:g}" in capsys.readouterr().out


def test_a_contender_that_fails_is_no_measurement() -> None:
    failing = command("failing", sys.executable, "-c", "import sys; sys.exit('no such luck')")
    with pytest.raises(Failed, match="ended with 1: no such luck"):
        failing.act()
