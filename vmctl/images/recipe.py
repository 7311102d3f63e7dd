"""What ``image build`` can make, as a value."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Base(StrEnum):
    """Where a root file system comes from."""

    DEBIAN = "debian"    # mmdebstrap, from the archive this host's apt uses
    BUSYBOX = "busybox"  # this host's static busybox


class BuildRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """``suite`` empty: the host's own. ``include``: packages beside the minimal ones (debian only)."""

    base: Base
    suite: str = ""
    include: tuple[str, ...] = ()
