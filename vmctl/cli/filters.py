"""``--filter KEY=VALUE``."""

from __future__ import annotations

from vmctl.errors import UsageError


def parse_filters(entries: list[str]) -> dict[str, str]:
    """Filters by key. Raises UsageError for what is not KEY=VALUE, and for a key that is given twice."""
    filters: dict[str, str] = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals or not key:
            raise UsageError(f"'{entry}' is not a filter", hint="write KEY=VALUE, such as kind=vm or label=tier=web")
        if key in filters:
            raise UsageError(f"the filter '{key}' is given twice", hint="an instance must pass every filter")
        filters[key] = value
    return filters
