"""``vmctl claim ls|inspect|explain``."""

from __future__ import annotations

from vmctl.app import App
from vmctl.errors import NotFound, UsageError
from vmctl.model.spec import InstanceSpec
from vmctl.model.views import ClaimView, Explanation, ShortageView
from vmctl.ops.instances import accept
from vmctl.ops.naming import named
from vmctl.ops.observe import count_foreign, observe


def list_claims(app: App, all: bool = False) -> list[ClaimView]:
    """Every claim that counts, foreign workloads included; with ``all`` those that were released, too."""
    count_foreign(app)
    return app.allocator.claim_views(released=all)


def inspect_claim(app: App, ref: str) -> ClaimView:
    """One claim by its id or an unambiguous beginning of it, or the compute (else static) claim of an instance."""
    views = list_claims(app)
    for part in ("compute", "static"):
        for view in views:
            if view.part == part and ref in (view.name, view.instance_id):
                return view
    found = [view for view in views if view.id.startswith(ref)]
    if len(found) > 1:
        raise UsageError(f"'{ref}' begins the ids of several claims", hint="give more of it")
    if not found:
        raise NotFound(f"no claim '{ref}'", hint="see 'vmctl claim ls'")
    return found[0]


def explain(app: App, spec: InstanceSpec) -> Explanation:
    """Whether an instance of ``spec`` would be admitted now, and if not, what is short and who holds it."""
    from vmctl.allocation.policy import demand

    spec = named(spec)
    wanted = demand(spec, accept(app, spec).overhead(spec))
    decision = app.allocator.explain(wanted, observe(app))
    return Explanation(
        verdict=decision.verdict,
        demand={str(key): amount for key, amount in {**wanted.static, **wanted.compute}.items()},
        overhead={str(key): amount for key, amount in wanted.overhead.items()},
        shortages=tuple(
            ShortageView(
                pool=short.key.pool,
                resource=short.key.resource,
                gate=short.gate,
                needed=short.needed,
                free=short.free,
                capacity=short.capacity,
                holders=short.holders,
            )
            for short in decision.shortages
        ),
    )
