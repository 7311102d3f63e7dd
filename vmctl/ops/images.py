"""``vmctl image build|import|ls|inspect|rm``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vmctl.app import App
from vmctl.backends.base import TakesImages
from vmctl.backends.registry import backend_names
from vmctl.errors import Conflict, Unsupported, VmctlError
from vmctl.model.image import ImageForm
from vmctl.model.views import ActionResult, ImageView

if TYPE_CHECKING:
    from vmctl.images.recipe import BuildRecipe

Progress = Callable[[str, int, int | None], None]
_ENGINE = "docker:"


def build(app: App, name: str, recipe: BuildRecipe, progress: Progress) -> ImageView:
    """Make an image of a distribution from this host's packages. Raises UsageError, BackendUnavailable."""
    return app.images.build(name, recipe, progress)


def import_image(app: App, source: str, name: str | None, progress: Progress) -> ImageView:
    """Take in a tar, an OCI layout, a docker-archive (paths), or ``docker:REF`` from the local engine."""
    if not source.startswith(_ENGINE):
        return app.images.import_(name, Path(source), progress)
    engine = app.backend("docker")
    if not isinstance(engine, TakesImages):
        raise Unsupported("the docker backend has no images to import")
    reference = source.removeprefix(_ENGINE)
    return app.images.import_(name or reference, engine.save_image(reference), progress)


def list_images(app: App) -> list[ImageView]:
    """All images by name."""
    return list(app.images.list())


def inspect_image(app: App, image: str) -> ImageView:
    """One image, by name or digest. Raises NotFound."""
    return app.images.inspect(image)


def remove_image(app: App, image: str, *, force: bool = False) -> ActionResult:
    """Take a name away, and with the last one the image. Raises Conflict while instances use it, unless ``force``."""
    view = app.images.inspect(image)
    users = [record.name for record in app.ledger.instances() if record.image_digest == view.digest]
    if users and not force:
        raise Conflict(f"image {image} is used by {', '.join(users)}", hint=f"vmctl rm {' '.join(users)}")
    app.images.remove(image)
    if not any(other.config_digest == view.config_digest for other in app.images.list()):
        _forget_in_engines(app, view.config_digest)
    return ActionResult(name=view.name or view.digest, action="removed", id=view.digest)


def _forget_in_engines(app: App, config_digest: str) -> None:
    """Engines that keep a copy of their own drop it; one that is down or still uses it keeps it."""
    for name in backend_names():
        backend = app.backend(name)
        if backend.image_form is ImageForm.DOCKER and isinstance(backend, TakesImages):
            try:
                backend.drop_image(config_digest)
            except VmctlError as error:
                app.notice(f"{name} keeps its copy of the image: {error.message}")
