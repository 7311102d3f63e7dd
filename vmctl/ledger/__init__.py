"""The account book: instances, claims, inventory, events. All SQL of vmctl is in this package."""

from vmctl.ledger.ledger import Ledger
from vmctl.ledger.records import ClaimClass, ClaimRecord, ClaimState, EventRecord, InstanceRecord, Owner, Part

__all__ = [
    "ClaimClass",
    "ClaimRecord",
    "ClaimState",
    "EventRecord",
    "InstanceRecord",
    "Ledger",
    "Owner",
    "Part",
]
