"""What the allocator takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from vmctl.model.observed import Foreign
from vmctl.model.resources import ResourceKey, Shortage
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Kind


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance needs, overhead included; ``overhead`` is the part of ``compute`` that the body costs itself."""

    static: dict[ResourceKey, int]
    compute: dict[ResourceKey, int]
    overhead: dict[ResourceKey, int] = {}


class NewInstance(msgspec.Struct, frozen=True, kw_only=True):
    """An instance to be admitted. ``id`` (a ULID) is chosen before: bodies, folders and claims are named after it."""

    id: str
    name: str
    spec: InstanceSpec
    kind: Kind
    backend: str
    project: str = "default"
    image_digest: str | None = None


@dataclass(frozen=True)
class Observation:
    """What the backends saw just before an admission. No backend is asked inside a transaction.

    ``foreign`` None: nobody looked, what the ledger knows of foreign workloads stands. ``backends`` names those that
    answered (None: all of them): what the others had before stands too, a daemon that is down frees no memory.
    ``residents`` gives the bytes of memory in use by instance id; it is called (once, at most) only when the memory
    gate would refuse without it.
    """

    foreign: list[Foreign] | None = None
    backends: frozenset[str] | None = None
    residents: Callable[[], Mapping[str, int]] = field(default=dict)


class Verdict(StrEnum):
    FITS = "fits"
    NOT_NOW = "not-now"
    NEVER = "never"


class Decision(msgspec.Struct, frozen=True):
    """The answer to a demand. ``shortages`` is empty exactly when it fits."""

    verdict: Verdict
    shortages: tuple[Shortage, ...] = ()
