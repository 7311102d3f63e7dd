"""What every operation on an instance shares: finding it, accepting a spec, ordering a body."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vmctl.app import App
from vmctl.backends.base import EMPTY_CONFIG, Backend, Body, TakesImages
from vmctl.errors import NotFound, Unsupported, UsageError, WrongState
from vmctl.model.capability import Feature, missing
from vmctl.model.image import ImageConfig, ImageForm, PreparedImage
from vmctl.model.process import Process, resolve_process
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Kind, RestartPolicy
from vmctl.ops.sweep import sweep_once

if TYPE_CHECKING:
    from vmctl.ledger.records import InstanceRecord


def find(app: App, ref: str) -> InstanceRecord:
    """The instance with this name, id or id prefix; what dead commands left is swept first. Raises NotFound."""
    sweep_once(app)
    return app.ledger.instance(ref)


@contextmanager
def speaking_of(record: InstanceRecord) -> Iterator[None]:
    """Backends do not know what a body is called: a refusal because of its state gets the name here."""
    try:
        yield
    except WrongState as error:
        raise WrongState(f"{record.name}: {error.message}", hint=error.hint, details=error.details) from error


def accept(app: App, spec: InstanceSpec) -> Backend:
    """The backend that will serve ``spec``. Raises Unsupported or UsageError before anything is written."""
    backend = app.backend_of(spec)
    if spec.kind not in backend.kinds:
        kinds = " and ".join(sorted(backend.kinds))
        raise UsageError(f"backend {backend.name} makes no {spec.kind} instances", hint=f"it makes: {kinds}")
    if lacking := missing(backend.capabilities(), _features(spec)):
        feature, reason = next(iter(lacking.items()))
        raise Unsupported(f"{backend.name} does not support {feature}: {reason}", hint=_who_has(app, feature))
    backend.validate(spec)
    if spec.image is not None:
        app.images.resolve(spec.image)
    return backend


def image_config(app: App, record: InstanceRecord) -> ImageConfig:
    """How the instance's image says it is to be run; an image removed since then says nothing."""
    if record.image_digest is None:
        return EMPTY_CONFIG
    try:
        return app.images.config(record.image_digest)
    except NotFound:
        return EMPTY_CONFIG


def body_for(app: App, spec: InstanceSpec, backend: Backend, *, instance_id: str, claim: str) -> Body:
    """The order for a body, with its image prepared in the form that ``backend`` takes (the slow part)."""
    image = _prepare(app, spec.image, backend) if spec.image is not None else None
    return Body(
        id=instance_id,
        ledger=app.ledger.uuid,
        claim=claim,
        name=spec.name,
        spec=spec,
        directory=app.paths.instance(instance_id),
        process=_process(spec, image.config if image else EMPTY_CONFIG),
        image=image,
    )


def _process(spec: InstanceSpec, config: ImageConfig) -> Process | None:
    """A machine without an image boots by itself: vmctl starts no process in it."""
    return None if spec.kind is Kind.VM and spec.image is None else resolve_process(spec, config)


def _prepare(app: App, image: str, backend: Backend) -> PreparedImage | None:
    form = backend.image_form
    if form is None:
        return None
    prepared = app.images.prepare(image, form)
    if form is ImageForm.DOCKER and isinstance(backend, TakesImages) and not backend.has_image(prepared.config_digest):
        backend.load_image(app.images.docker_archive(image))
    return prepared


def _features(spec: InstanceSpec) -> frozenset[Feature]:
    """The features that ``spec`` cannot do without."""
    wanted = {
        Feature.IMAGE: spec.image is not None,
        Feature.HOST_COMMAND: spec.image is None and spec.kind is not Kind.VM,
        Feature.DISK_BOOT: spec.machine.disk is not None,
        Feature.VOLUMES: bool(spec.mounts),
        Feature.PORTS: bool(spec.ports),
        Feature.NETWORKS: spec.network not in ("default", "none", "host"),
        Feature.RESTART_POLICY: spec.restart is not RestartPolicy.NO,
        Feature.READ_ONLY: spec.read_only,
        Feature.TTY: spec.tty,
    }
    return frozenset(feature for feature, needed in wanted.items() if needed)


def _who_has(app: App, feature: Feature) -> str:
    from vmctl.backends.registry import backend_names

    able = [name for name in backend_names() if not app.backend(name).capabilities()[feature]]
    return f"these backends do: {', '.join(able)}" if able else ""
