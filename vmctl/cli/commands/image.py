"""``vmctl image``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from vmctl.cli.context import choose_format, for_each, open_app
from vmctl.cli.factory import make_group
from vmctl.cli.params import Format, Quiet
from vmctl.cli.results import act_on, show_result
from vmctl.model.views import ActionResult, ImageView
from vmctl.output.show import show, show_detail

app = make_group("Images: one OCI image runs as a container, as an app and as a virtual machine.")

Images = Annotated[list[str], typer.Argument(metavar="IMAGE...", help="By name or digest.", show_default=False)]


@app.command("ls")
def list_(format: Format = None, quiet: Quiet = False) -> None:
    """List the images of vmctl's store."""
    from vmctl.ops.images import list_images
    from vmctl.output.listings import IMAGES

    format = choose_format(format)
    with open_app() as opened:
        show(IMAGES, list_images(opened), format, quiet=quiet)


@app.command()
def build(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new image.", show_default=False)],
    base: Annotated[str, typer.Option("--from", metavar="BASE", help="debian or busybox.")] = "debian",
    suite: Annotated[str, typer.Option("--suite", metavar="SUITE", help="Debian suite (default: this host's).")] = "",
    include: Annotated[
        list[str], typer.Option("--include", metavar="PACKAGE", help="Debian package to add; may be repeated.")
    ] = [],  # noqa: B006 - Typer copies it
    format: Format = None,
) -> None:
    """Make an image from this host's packages: debian (mmdebstrap) or busybox. Nothing is pulled from a registry."""
    from vmctl.cli.recipes import parse_recipe
    from vmctl.ops.images import build as ops_build
    from vmctl.output.progress import ProgressBar

    format = choose_format(format)
    recipe = parse_recipe(base, suite, include)
    with open_app() as opened, ProgressBar() as progress:
        image = ops_build(opened, name, recipe, progress)
    show_result(ActionResult(name=image.name, action="built", id=image.digest), format)


@app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Tar of a root file system, OCI layout, docker-archive, or docker:REF (from the local engine).",
            show_default=False,
        ),
    ],
    name: Annotated[
        Optional[str],  # noqa: UP045 - Typer reads the annotation
        typer.Option("--name", metavar="NAME", help="Name in the store (default: what the source says)."),
    ] = None,
    format: Format = None,
) -> None:
    """Take an image into vmctl's store."""
    from vmctl.ops.images import import_image
    from vmctl.output.progress import ProgressBar

    format = choose_format(format)
    with open_app() as opened, ProgressBar() as progress:
        image = import_image(opened, source, name, progress)
    show_result(ActionResult(name=image.name, action="imported", id=image.digest), format)


@app.command()
def inspect(images: Images, format: Format = None) -> None:
    """Show everything known of images."""
    from vmctl.ops.images import inspect_image
    from vmctl.output.listings import IMAGES

    format = choose_format(format)
    found: list[ImageView] = []
    with open_app() as opened:
        try:
            for_each(images, lambda image: inspect_image(opened, image), found.append)
        finally:
            if found:
                show_detail(IMAGES, found, format)


@app.command()
def rm(
    images: Images,
    force: Annotated[bool, typer.Option("-f", "--force", help="Also while instances use it.")] = False,
    format: Format = None,
) -> None:
    """Take names away; with its last name an image is removed."""
    from vmctl.ops.images import remove_image

    format = choose_format(format)
    with open_app() as opened:
        act_on(images, lambda image: remove_image(opened, image, force=force), format)
