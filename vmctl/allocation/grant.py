"""A grant: claims in the hands of this process."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

from vmctl.allocation.locks import OwnerLocks
from vmctl.allocation.transitions import needs_owner
from vmctl.ledger.records import ClaimRecord, InstanceRecord, Part


class Grant:
    """The claims of one instance that this process is in charge of, with the states it brought them to.

    Made by the :class:`~vmctl.allocation.allocator.Allocator` only. Closing it (or the end of the process) gives up
    the owner locks: what is not ACTIVE and durable by then is what the next sweep finds.
    """

    def __init__(self, instance_id: str, claims: list[ClaimRecord], locks: OwnerLocks) -> None:
        self.instance_id = instance_id
        self.claims = {claim.part: claim for claim in claims}
        self._locks = locks

    def claim_id(self, part: Part = Part.STATIC) -> str:
        """The id that goes into a body's label. Raises KeyError when the grant has no such part."""
        return self.claims[part].id

    def close(self) -> None:
        """Give up the owner locks; claims and counters stay as they are."""
        for claim in self.claims.values():
            if needs_owner(claim):
                self._locks.leave(claim.id)
            else:
                self._locks.drop(claim.id)

    def __enter__(self) -> Grant:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Orphan:
    """What the sweep must look at: claims of one instance whose owner is dead or whose lease is over.

    ``grant`` holds their locks, so no other sweep has them; ``instance`` is None only if its row is gone already.
    A claim is REALISING (finish it, or abandon it), RELEASING (finish the removal) or ACTIVE (a dead session's, or
    a lease that ended: abandon it and remove the body).
    """

    instance: InstanceRecord | None
    grant: Grant
