"""Runs independent calls side by side: waiting for one daemon must not delay the question to another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from vmctl.errors import VmctlError

T = TypeVar("T")


def side_by_side(calls: Mapping[str, Callable[[], T]]) -> dict[str, T | VmctlError]:
    """The result of each call, or the VmctlError it raised. Any other exception is a bug and is raised here."""
    results: dict[str, T | VmctlError] = {}
    bugs: list[Exception] = []

    def work(name: str, call: Callable[[], T]) -> None:
        try:
            results[name] = call()
        except VmctlError as error:
            results[name] = error
        except Exception as bug:  # noqa: BLE001 - carried to the caller's thread below
            bugs.append(bug)

    items = list(calls.items())
    threads = [threading.Thread(target=work, args=item, daemon=True) for item in items[1:]]
    for thread in threads:
        thread.start()
    if items:
        work(*items[0])
    for thread in threads:
        thread.join()
    if bugs:
        raise bugs[0]
    return {name: results[name] for name in calls}
