"""The format this command line asked for, remembered where errors are shown."""

from __future__ import annotations

_format: list[str] = []


def remember_format(format: str) -> str:
    """Note the format that the command will answer in."""
    _format[:] = [format]
    return format


def knows_format() -> bool:
    """Whether a format has been chosen."""
    return bool(_format)


def wants_json(words: list[str], *, understood: bool = True) -> bool:
    """Whether errors are to be JSON. A command line that could not be parsed is searched for ``--format json``."""
    if _format or understood:
        return _format[:1] in (["json"], ["jsonl"])
    before = words[: words.index("--")] if "--" in words else words
    pairs = zip(before, [*before[1:], ""], strict=True)
    return any((one, two) == ("--format", "json") or one == "--format=json" for one, two in pairs)
