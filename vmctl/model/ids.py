"""Identities: ULIDs for instances and claims, and the names users give."""

from __future__ import annotations

import os
import re
import time
import uuid

from vmctl.errors import UsageError

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: fits every backend's name rules
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ULID = re.compile(rf"[0-7][{_ALPHABET}]{{25}}")

NATIVE_PREFIX = "vmctl-"
"""A native object (domain, container, sandbox folder) is called ``vmctl-<instance id>``, whatever its name."""


def new_id() -> str:
    """A ULID: 48 bits of milliseconds, 80 bits of randomness; 26 characters that sort by time."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def is_id(text: str) -> bool:
    """Whether ``text`` has the form of an id made by :func:`new_id`."""
    return _ULID.fullmatch(text) is not None


def as_uuid(instance_id: str) -> str:
    """The same 128 bits as a UUID, for backends that want one."""
    value = 0
    for char in instance_id:
        value = value << 5 | _ALPHABET.index(char)
    return str(uuid.UUID(int=value & (1 << 128) - 1))


def native_name(instance_id: str) -> str:
    """The name every backend MUST give the object that realises this instance."""
    return NATIVE_PREFIX + instance_id


def instance_id_of(name: str) -> str | None:
    """The inverse of :func:`native_name`; None for a name that is not ours."""
    rest = name.removeprefix(NATIVE_PREFIX)
    return rest if rest != name and is_id(rest) else None


def check_name(name: str) -> str:
    """``name`` itself if it is an RFC 1123 label of at most 63 characters, else UsageError."""
    if _LABEL.fullmatch(name):
        return name
    hint = "use 1 to 63 lower-case letters, digits and hyphens, with a letter or digit at both ends"
    raise UsageError(f"'{name}' is not a valid instance name", hint=hint)
