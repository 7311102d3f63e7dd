"""How the result of a verb is shown: the name, or a row where a format was asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vmctl.cli.context import for_each
from vmctl.output import streams
from vmctl.output.show import show

if TYPE_CHECKING:
    from vmctl.model.views import ActionResult


def show_result(result: ActionResult, format: str) -> None:
    """The result of one operation."""
    show_results([result], format)


def show_results(results: list[ActionResult], format: str) -> None:
    """Several results at once; ``table`` means one name a line."""
    from vmctl.output.listings import ACTIONS

    show(ACTIONS, results, format, quiet=format == "table")


def act_on(names: list[str], act: Callable[[str], ActionResult], format: str) -> None:
    """Do ``act`` for each name. Names are printed as they succeed; other formats come as one document at the end."""
    results: list[ActionResult] = []

    def done(result: ActionResult) -> None:
        if format == "table":
            streams.answer(result.name)
        else:
            results.append(result)

    try:
        for_each(names, act, done)
    finally:
        if format != "table":
            show_results(results, format)
