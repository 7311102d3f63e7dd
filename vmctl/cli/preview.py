"""``--dry-run`` and ``--print-native``: what would be made, without making it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from vmctl.errors import DoesNotFitNow, NeverFits
from vmctl.model.views import Explanation
from vmctl.output import streams
from vmctl.output.show import Listing, show_detail

if TYPE_CHECKING:
    from vmctl.app import App
    from vmctl.model.spec import InstanceSpec

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the whole spec and whether it fits; make nothing.")]
PrintNative = Annotated[
    bool, typer.Option("--print-native", help="Print what the backend would be given (XML or JSON); make nothing.")
]


class DryRunView(msgspec.Struct, frozen=True, kw_only=True):
    """The spec as a file would give it, and whether it fits."""

    spec: dict[str, object]
    admission: Explanation


DRY_RUN: Listing[DryRunView] = Listing(
    kind="dry-runs", view=DryRunView, columns=(), key=lambda view: view.admission.verdict
)


def preview(app: App, spec: InstanceSpec, format: str, *, native: bool) -> int:
    """The exit code of a dry run is that of the refusal which the real run would meet."""
    if native:
        from vmctl.ops.plan import plan

        streams.answer(plan(app, spec).text)
        return 0
    from vmctl.ops.claims import explain
    from vmctl.specs.merge import to_form

    explanation = explain(app, spec)
    show_detail(DRY_RUN, [DryRunView(spec=to_form(spec), admission=explanation)], format)
    return verdict_code(explanation)


def verdict_code(explanation: Explanation) -> int:
    """0 when it fits, else the exit code of the refusal."""
    return {"fits": 0, "not-now": DoesNotFitNow.exit_code}.get(explanation.verdict, NeverFits.exit_code)
