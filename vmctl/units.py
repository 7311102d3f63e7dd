"""Sizes, CPU amounts and durations: parsed once, at the edge, into integers.

Sizes are binary whatever the spelling: ``2G``, ``2GB`` and ``2GiB`` are all 2 * 1024**3 bytes, as in
``docker run -m``. CPU amounts are millicpu (``1.5`` is 1500). Durations are seconds.
"""

from __future__ import annotations

import re
from decimal import Decimal

from vmctl.errors import UsageError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b)?", re.IGNORECASE)
_FACTOR = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_CPUS = re.compile(r"(\d+(?:\.\d{1,3})?)|(\d+)m")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}

PAGE = 4096
MAX_SIZE = 1 << 60
MAX_CPU_MILLIS = 100_000_000


def parse_size(text: str) -> int:
    """Bytes from ``512M``, ``1.5G``, ``4096``. Raises UsageError for zero, signs, unknown units, absurd sizes."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"'{text}' is not a size", hint="write a number and a unit, such as 512M or 2G (2G is 2 GiB)")
    amount = int(Decimal(match[1]) * _FACTOR[match[2].lower()])
    if amount <= 0:
        raise UsageError(f"size '{text}' is zero", hint="sizes start at 1 byte")
    if amount > MAX_SIZE:
        raise UsageError(f"size '{text}' is larger than 1024P", hint="check the unit")
    return amount


def format_size(amount: int) -> str:
    """Short, for people: ``2G``, ``1.5G``, ``100M``, ``0``. At most one decimal, so not a round trip."""
    value = float(amount)
    for unit in ("", "K", "M", "G", "T"):
        if abs(value) < 1024:
            return f"{value:.1f}".removesuffix(".0") + unit
        value /= 1024
    return f"{value:.1f}".removesuffix(".0") + "P"


def exact_size(amount: int) -> str:
    """The shortest spelling that :func:`parse_size` turns back into ``amount``."""
    for unit in ("p", "t", "g", "m", "k"):
        if amount >= _FACTOR[unit] and amount % _FACTOR[unit] == 0:
            return f"{amount // _FACTOR[unit]}{unit.upper()}"
    return str(amount)


def round_up_to_page(amount: int) -> int:
    """Memory is granted in pages of 4096 bytes."""
    return -(-amount // PAGE) * PAGE


def parse_cpus(text: str) -> int:
    """Millicpu from ``2``, ``1.5``, ``250m``. Raises UsageError below 1 millicpu and above 100,000 CPUs."""
    match = _CPUS.fullmatch(text.strip())
    if not match:
        raise UsageError(
            f"'{text}' is not a number of CPUs", hint="write 2, 1.5 (three decimals at most) or 250m (millicpu)"
        )
    millis = int(match[2]) if match[2] else int(Decimal(match[1]) * 1000)
    if millis <= 0:
        raise UsageError(f"CPU amount '{text}' is zero", hint="the smallest amount is 0.001, or 1m")
    if millis > MAX_CPU_MILLIS:
        raise UsageError(f"CPU amount '{text}' is larger than any host", hint="check the number")
    return millis


def format_cpus(millis: int) -> str:
    """``1500`` -> ``1.5``; the inverse of :func:`parse_cpus`."""
    return f"{Decimal(millis) / 1000:f}".rstrip("0").rstrip(".") if millis % 1000 else str(millis // 1000)


def parse_duration(text: str) -> float:
    """Seconds from ``90``, ``1.5s``, ``10m``, ``1h30m``, ``500ms``. Raises UsageError for anything else."""
    stripped = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", stripped):
        return float(stripped)
    parts = list(_PART.finditer(stripped))
    if not parts or "".join(part[0] for part in parts) != stripped:
        raise UsageError(f"'{text}' is not a duration", hint="write 30s, 10m, 2h or 1h30m; a bare number is seconds")
    return float(sum((Decimal(part[1]) * _SECONDS[part[2]] for part in parts), Decimal(0)))


def format_duration(seconds: float) -> str:
    """Short, for people: ``3s``, ``5m``, ``2h``, ``4d``."""
    for unit, factor in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= factor:
            return f"{int(seconds // factor)}{unit}"
    return f"{int(seconds)}s"
