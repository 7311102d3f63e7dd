"""``--print-native``: what a backend would make of a spec, without making it."""

from __future__ import annotations

from vmctl.app import App
from vmctl.backends.base import NativePlan
from vmctl.model.ids import new_id
from vmctl.model.spec import InstanceSpec
from vmctl.ops.instances import accept, body_for
from vmctl.ops.naming import named


def plan(app: App, spec: InstanceSpec) -> NativePlan:
    """The native form of ``spec``; nothing is claimed or made. An image is prepared if it has not been yet."""
    spec = named(spec)
    backend = accept(app, spec)
    return backend.plan(body_for(app, spec, backend, instance_id=new_id(), claim=new_id()))
