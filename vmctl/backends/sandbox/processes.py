"""Small things that the supervisor does with processes and descriptors."""

from __future__ import annotations

import os


def children(pid: int) -> list[int]:
    """The pids of its children; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as stream:
            return [int(word) for word in stream.read().split()]
    except OSError:
        return []


def send_signal(pid: int, number: int) -> None:
    """Signal one of our children or their program; nothing happens if it is gone, or the number is none."""
    try:
        os.kill(pid, number)
    except (OSError, ValueError):
        return


def drain(fd: int, *, until_end: bool = False) -> bytes:
    """What can be read now, or, ``until_end``, until nobody can write any more."""
    os.set_blocking(fd, until_end)
    data = b""
    try:
        while chunk := os.read(fd, 4096):
            data += chunk
    except BlockingIOError:
        return data
    return data


def exit_pairs(code: int, number: int | None, oom: bool = False) -> list[tuple[str, str]]:
    """The pairs of an EXIT frame or record."""
    pairs = [("code", str(code)), ("oom", str(int(oom)))]
    return pairs if number is None else [*pairs, ("signal", str(number))]
