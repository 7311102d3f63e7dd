"""What create leaves in the instance's folder for the supervisor, and what the supervisor reports back.

Both are JSON files; only the standard library is imported, because the supervisor starts with this.
"""

from __future__ import annotations

import json
import os
from typing import TypedDict

from vmctl.backends.sandbox.cgroup import Group

ORDER = "sandbox.json"
STATUS = "status.json"
LOG = "log"
SOCKET = "socket"
LOCK = "lock"
COMPLAINTS = "supervisor.err"
UPPER = "upper"
WORK = "work"


class Bind(TypedDict):
    """A folder or file of the host shown inside."""

    source: str
    target: str
    read_only: bool


class Order(TypedDict):
    """Everything the supervisor needs. ``tree`` empty: a program of the host. Sizes in bytes.

    ``files`` are texts shown at their paths inside; ``id_base`` is the host's uid and gid of id 0 inside (root
    callers only, 0 otherwise); ``filters`` are compiled seccomp programs, ``stop_signal`` is a number.
    """

    id: str
    ledger: str
    claim: str
    name: str
    tree: str
    argv: list[str]
    env: dict[str, str]
    workdir: str
    user: str
    tty: bool
    stdin: bool
    hostname: str
    network: str  # none | host
    read_only: bool
    binds: list[Bind]
    files: dict[str, str]
    memory: int
    cpu_millis: int
    pids: int
    group: Group
    id_base: int
    filters: list[str]
    restart: str
    restart_max: int
    stop_signal: int
    bwrap: str


class End(TypedDict):
    """How the program ended; see ``model.state.Exit``."""

    code: int
    signal: int | None
    oom: bool
    at: int
    error: str


class Status(TypedDict):
    """``state`` is starting | running | stopping | stopped | failed. Pids are the host's."""

    state: str
    supervisor: int
    program: int | None
    started_at: int | None
    end: End | None
    restarts: int


def write_json(path: str, value: object) -> None:
    """Replace the file at once: a reader sees the old or the new content, never a part."""
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as stream:
        json.dump(value, stream)
    os.rename(temporary, path)
