"""Times on the command line."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from vmctl.errors import UsageError
from vmctl.specs.fields import parse_positive_duration
from vmctl.units import parse_duration


def seconds(text: str | None, *, zero: bool = False) -> float | None:
    """Seconds from a duration; None stays None. Raises UsageError."""
    return None if text is None else parse_positive_duration(text, zero=zero)


def moment(text: str | None) -> int | None:
    """Nanoseconds since the epoch from ``10m`` (ago) or an RFC 3339 time (local without a zone). Raises UsageError."""
    if text is None:
        return None
    try:
        return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1e9) if "-" in text else _ago(text)
    except ValueError as error:
        raise UsageError(f"'{text}' is not a time", hint="write 10m (ago) or 2026-01-31T12:00:00Z") from error


def _ago(text: str) -> int:
    return time.time_ns() - int(parse_duration(text) * 1e9)
