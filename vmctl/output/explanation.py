"""``claim explain``: the verdict in words, then what is short."""

from __future__ import annotations

from vmctl.model.views import Explanation, ShortageView
from vmctl.output import tables
from vmctl.output.listings import resource_amount
from vmctl.output.show import Listing, show
from vmctl.output.streams import answer_width, write

EXPLANATIONS: Listing[Explanation] = Listing(
    kind="explanations", view=Explanation, columns=(), key=lambda explanation: explanation.verdict
)

_VERDICTS = {
    "fits": "It fits.",
    "not-now": "It does not fit now, beside what is claimed.",
    "never": "It can never fit this host.",
}


def show_explanation(explanation: Explanation, format: str) -> None:
    """Write it for people, or as asked."""
    if format == "table":
        write(explanation_text(explanation, answer_width()))
    else:
        show(EXPLANATIONS, [explanation], format)


def explanation_text(explanation: Explanation, width: int | None = None) -> str:
    """Verdict, demand, and one row for every resource that is short."""
    needs = [
        (resource, amount, explanation.overhead.get(resource, 0))
        for resource, amount in sorted(explanation.demand.items())
    ]
    text = _VERDICTS[explanation.verdict] + "\n\n"
    text += tables.render(
        (
            tables.Column("RESOURCE", lambda row: row[0]),
            tables.Column("NEEDED", lambda row: resource_amount(row[0], row[1]), right=True),
            tables.Column("OF THAT OVERHEAD", lambda row: resource_amount(row[0], row[2]), right=True),
        ),
        needs,
        width,
    )
    if explanation.shortages:
        text += "\n" + tables.render(_SHORT, explanation.shortages, width)
    return text


def _holders(shortage: ShortageView) -> str:
    return ", ".join(f"{name} {resource_amount(shortage.resource, amount)}" for name, amount in shortage.holders)


_SHORT: tuple[tables.Column[ShortageView], ...] = (
    tables.Column("SHORT", lambda row: row.resource),
    tables.Column("GATE", lambda row: row.gate),
    tables.Column("NEEDED", lambda row: resource_amount(row.resource, row.needed), right=True),
    tables.Column("FREE", lambda row: resource_amount(row.resource, row.free), right=True),
    tables.Column("CAPACITY", lambda row: resource_amount(row.resource, row.capacity), right=True),
    tables.Column("HELD BY", _holders, cut=True),
)
