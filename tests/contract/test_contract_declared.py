"""What a backend says about itself, without a body."""

from __future__ import annotations

import msgspec
import pytest

from tests.contract.harness import Harness
from vmctl.backends import base
from vmctl.errors import NotFound, VmctlError
from vmctl.model.capability import Feature
from vmctl.model.image import ImageForm
from vmctl.model.observed import Health
from vmctl.model.state import Kind

PROTOCOLS = {
    Feature.ATTACH: base.CanAttach,
    Feature.EXEC: base.CanExec,
    Feature.COPY: base.CanCopy,
    Feature.PAUSE: base.CanPause,
    Feature.STATS: base.CanStats,
    Feature.EVENTS: base.CanEvents,
    Feature.CONSOLE: base.CanConsole,
}


def test_every_feature_is_declared(h: Harness) -> None:
    assert set(h.backend.capabilities()) == set(Feature)


@pytest.mark.parametrize("feature", PROTOCOLS)
def test_declared_is_implemented(h: Harness, feature: Feature) -> None:
    declared = h.backend.capabilities()[feature] == ""
    assert declared == isinstance(h.backend, PROTOCOLS[feature])


def test_takes_images_as_its_form_says(h: Harness) -> None:
    assert isinstance(h.backend, base.TakesImages) == (h.backend.image_form is ImageForm.DOCKER)


def test_name_and_kinds(h: Harness) -> None:
    assert h.backend.name == h.name
    assert h.kind in h.backend.kinds


def test_probe_finds_it_healthy(h: Harness) -> None:
    probe = h.backend.probe()
    assert probe.health is Health.HEALTHY, probe
    assert probe.version


def test_overhead_is_measured_and_not_negative(h: Harness) -> None:
    overhead = h.backend.overhead(h.body("true").spec)
    assert overhead.measured
    assert min(overhead.memory, overhead.cpu_millis, overhead.pids) >= 0


def test_plan_is_pure(h: Harness) -> None:
    body = h.body("sh", "-c", "echo 'quoted \"text\"' <&>")
    plan = h.backend.plan(body)
    assert h.backend.plan(body) == plan
    assert plan.text
    assert plan.media_type
    assert not body.directory.exists()
    assert body.id not in {one.id for one in h.backend.instances()}


def test_validate_accepts_its_kind_and_refuses_others(h: Harness) -> None:
    h.backend.validate(h.body("true").spec)
    for kind in set(Kind) - h.backend.kinds:
        spec = msgspec.structs.replace(h.body("true").spec, kind=kind)
        with pytest.raises(VmctlError) as refusal:
            h.backend.validate(spec)
        assert refusal.value.exit_code in (2, 7)


def test_what_is_not_there(h: Harness) -> None:
    """Every verb but delete says NotFound; delete is silent."""
    ref = base.Ref("01zzzzzzzzzzzzzzzzzzzzzzzz", h.folder / "01zzzzzzzzzzzzzzzzzzzzzzzz")
    backend = h.backend
    for verb in (
        lambda: backend.inspect(ref),
        lambda: backend.start(ref),
        lambda: backend.stop(ref, timeout=1),
        lambda: backend.kill(ref),
        lambda: backend.wait(ref, 1),
        lambda: list(backend.logs(ref)),
    ):
        with pytest.raises(NotFound):
            verb()
    backend.delete(ref)
    backend.delete(ref)
