"""Timing contenders in turn, so that what slows the host down slows all of them, and comparing the results."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Action = Callable[[], None]
_TIMEOUT = 300.0


@dataclass(frozen=True)
class Contender:
    """What is timed: ``act`` runs it once, start to end, and raises if it failed."""

    name: str
    act: Action


@dataclass(frozen=True)
class Goal:
    """The subject, at most ``limit`` times the peers together."""

    subject: str
    peers: tuple[str, ...]
    limit: float


class Failed(Exception):
    """A contender could not be run; the message says what it said."""


def command(name: str, *arguments: str, env: Mapping[str, str] | None = None) -> Contender:
    """A contender that is a command, from its start to its end, with no terminal."""
    return Contender(name, lambda: run(*arguments, env=env))


def run(*arguments: str, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> None:
    """Run a command that must succeed. Raises Failed with its last words."""
    done = subprocess.run(arguments, input=stdin, capture_output=True, env=env, timeout=_TIMEOUT, check=False)
    if done.returncode:
        words = "; ".join((done.stderr or done.stdout).decode(errors="replace").split("\n")[-3:])
        raise Failed(f"{' '.join(arguments)} ended with {done.returncode}: {words.strip('; ') or 'no message'}")


def interleave(contenders: Sequence[Contender], runs: int) -> dict[str, list[float]]:
    """Seconds of each contender, ``runs`` times A B C A B C; once before, unmeasured, for the caches."""
    times: dict[str, list[float]] = {one.name: [] for one in contenders}
    for number in range(runs + 1):
        for one in contenders:
            started = time.perf_counter()
            one.act()
            if number:
                times[one.name].append(time.perf_counter() - started)
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{number}/{runs} ")
    return times


def report(title: str, times: Mapping[str, Sequence[float]], goals: Sequence[Goal]) -> bool:
    """Print one table of seconds and one line for each goal; whether all were met (by the medians)."""
    print(f"\n{title}")
    print(f"  {'':34} {'median':>8} {'minimum':>8}")
    for name, seconds in times.items():
        print(f"  {name:34} {statistics.median(seconds):8.3f} {min(seconds):8.3f}")
    met = True
    for goal in goals:
        median, minimum = (
            pick(times[goal.subject]) / sum(pick(times[peer]) for peer in goal.peers)
            for pick in (statistics.median, min)
        )
        reached = median <= goal.limit
        met = met and reached
        against = " + ".join(goal.peers)
        verdict = "pass" if reached else "FAIL"
        print(f"  {verdict}  {goal.subject} / {against}: {median:.2f} (minima {minimum:.2f}), goal {goal.limit:g}")
    return met
