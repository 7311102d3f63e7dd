"""Did you mean ...? One place for the question, so that it is asked the same way everywhere."""

from __future__ import annotations

from collections.abc import Iterable


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like ``word``, if any is like it at all."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """A hint that names the closest known word, or ``otherwise``."""
    match = closest(word, known)
    return f"did you mean '{match}'?" if match else otherwise
