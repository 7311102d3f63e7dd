"""Resource classes and vectors. Integers only: bytes, millicpu, counts; ratios in parts per million."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

PPM = 1_000_000


class Resource(StrEnum):
    """Resource classes (allocation design, section 1). Classes that need no code yet are not listed."""

    CPU_SHARED = "cpu.shared"   # millicpu
    MEM = "mem"                 # bytes, multiple of 4096
    PIDS = "pids"               # count
    INST = "inst"               # count
    DISK_VIRT = "disk.virt"     # bytes, in a storage pool
    DISK_PHYS = "disk.phys"     # bytes, in a storage pool


HOST_POOL = "host"
STORAGE_POOL = "storage:default"


class ResourceKey(NamedTuple):
    """One resource class in one pool, such as ``mem`` in ``host``."""

    pool: str
    resource: str

    def __str__(self) -> str:
        return self.resource if self.pool == HOST_POOL else f"{self.resource}@{self.pool}"


Vector = Mapping[ResourceKey, int]
"""Amounts by resource; a missing key is zero."""


class Shortage(NamedTuple):
    """One resource that is short, in its unit; ``holders`` are (name, amount), the largest first."""

    key: ResourceKey
    gate: str
    needed: int
    free: int
    capacity: int
    holders: tuple[tuple[str, int], ...]
