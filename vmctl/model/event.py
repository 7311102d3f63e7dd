"""Events of instances and records of their logs."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec


class EventType(StrEnum):
    """What can happen to an instance, whatever its backend."""

    CREATE = "create"
    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"       # ended, by request or by itself; detail holds `exit=<code>` when known
    OOM = "oom"
    REMOVE = "remove"
    RENAME = "rename"
    CLAIM = "claim"     # a claim changed state (from the ledger)
    REFUSE = "refuse"   # a claim was refused; detail says why (from the ledger)


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """``at`` is nanoseconds since the epoch; ``instance_id`` is vmctl's id, never a native one."""

    at: int
    type: EventType
    instance_id: str
    name: str = ""
    kind: str = ""
    detail: str = ""


class Stream(StrEnum):
    """Where a piece of output came from; CONSOLE is a machine's serial console."""

    STDOUT = "stdout"
    STDERR = "stderr"
    CONSOLE = "console"


class LogRecord(NamedTuple):
    """One piece of output (any bytes, not necessarily a line); ``at`` is nanoseconds since the epoch."""

    at: int
    stream: Stream
    data: bytes
