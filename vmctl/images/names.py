"""Names and digests of images: OCI's rules, ``latest`` when no tag is said."""

from __future__ import annotations

import re

from vmctl.errors import UsageError

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?P<name>(?:[a-z0-9.-]+:[0-9]+/)?{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}}))?"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")
_MAX_NAME = 255


def parse_name(text: str) -> str:
    """``name:tag`` from ``name`` or ``name:tag``. Raises UsageError for anything else."""
    match = _NAME.fullmatch(text)
    if not match or len(match["name"]) > _MAX_NAME:
        raise UsageError(
            f"'{text}' is not a valid image name",
            hint="use lower-case letters, digits, '.', '_', '-' and '/', then an optional ':tag', such as debian:12",
        )
    return f"{match['name']}:{match['tag'] or 'latest'}"


def is_name(text: str) -> bool:
    """Whether :func:`parse_name` accepts ``text``."""
    match = _NAME.fullmatch(text)
    return match is not None and len(match["name"]) <= _MAX_NAME


def is_digest(text: str) -> bool:
    """Whether ``text`` is a whole digest, ``sha256:`` and 64 hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def digest_prefix(text: str) -> str | None:
    """``sha256:<hex>`` as far as ``text`` gives it, or None if it cannot be the beginning of a digest."""
    match = _PREFIX.fullmatch(text)
    return f"sha256:{match[1]}" if match else None


def hex_of(digest: str) -> str:
    """The digest without its algorithm: the name of the blob's file."""
    return digest.removeprefix("sha256:")
