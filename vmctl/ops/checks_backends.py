"""``vmctl doctor``: the backends, each asked for real."""

from __future__ import annotations

from collections.abc import Iterator

from vmctl.app import App
from vmctl.backends.registry import backend_names, default_backend
from vmctl.model.observed import Health, Probe
from vmctl.model.state import Kind
from vmctl.model.views import Check
from vmctl.ops.parallel import side_by_side

ACCELERATOR = "accelerator"
"""The fact in which a backend of machines says what runs them, and why: ``kvm``, or ``tcg: <reason>``."""
KVM_DEVICE = "kvm-device"
"""The fact that says what is wrong with /dev/kvm's owner or mode; absent when nothing is."""

_KVM_REMEDY = "enable virtualization in the firmware or the outer hypervisor, then: modprobe kvm_intel (or kvm_amd)"


def backend_checks(app: App) -> Iterator[Check]:
    """One line for each backend, one more for what accelerates machines."""
    answers = side_by_side({name: app.backend(name).probe for name in backend_names()})
    needed = {default_backend(kind) for kind in Kind}
    for name, answer in answers.items():
        if not isinstance(answer, Probe):
            raise answer
        yield _health(name, answer, needed=name in needed)
        if accelerator := answer.facts.get(ACCELERATOR):
            yield _accelerator(accelerator)
        if trouble := answer.facts.get(KVM_DEVICE):
            remedy = "sudo sh -c 'chgrp kvm /dev/kvm && chmod 660 /dev/kvm'"
            yield Check(part="kvm device", ok=False, detail=trouble, remedy=remedy, needed=False)


def _health(name: str, probe: Probe, *, needed: bool) -> Check:
    if probe.health is Health.HEALTHY:
        return Check(part=name, ok=True, detail=probe.version, needed=needed)
    return Check(part=name, ok=False, detail=f"{probe.health}: {probe.reason}", remedy=probe.hint, needed=needed)


def _accelerator(fact: str) -> Check:
    """Emulation works everywhere, slowly: not a failure."""
    proven = fact.startswith("kvm")
    return Check(part=ACCELERATOR, ok=proven, detail=fact, remedy="" if proven else _KVM_REMEDY, needed=False)
