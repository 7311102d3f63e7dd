"""The image store: one door to building, importing, naming, preparing and removing images."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from vmctl.errors import Conflict, NotFound, PermissionDenied, UsageError, VmctlError
from vmctl.images import oci
from vmctl.images.layout import Entries, Layout, Staging
from vmctl.images.names import digest_prefix, is_name, parse_name
from vmctl.images.prepare import ROOT_FS, Forms
from vmctl.images.progress import Progress, silent
from vmctl.images.recipe import Base, BuildRecipe
from vmctl.model.image import ImageConfig, ImageForm, Kernel, PreparedImage
from vmctl.model.views import DiskUsageRow, ImageView

if TYPE_CHECKING:
    from vmctl.images.upkeep import Upkeep

_STORED = "org.vmctl.image.stored"  # annotation of an index entry: nanoseconds since the epoch
_RESERVE = 64 << 20
_PATIENCE = 2.0  # seconds that prune waits for the store to be idle


class ImageStore:
    """The images below ``root``, an OCI image layout; kernels for machines are cached below ``cache``.

    ``image`` arguments are a name, a digest or a digest's unambiguous beginning. Every method may raise NotFound for
    those, PermissionDenied, and VmctlError for a full disk or a damaged store. Nothing is printed; nothing heavy is
    imported or created before it is needed.
    """

    def __init__(self, root: Path, cache: Path, kernel: Callable[[Progress], Kernel] | None = None) -> None:
        self._layout = Layout(root)
        self._forms = Forms(self._layout)
        self._cache = cache
        self._kernel = kernel or self._cached_kernel

    def list(self) -> list[ImageView]:
        """All images by name; those that lost their name to a newer one come last, with an empty name.

        A damaged one is shown with what the index knows of it.
        """
        views = [self._view_if_whole(entry) for entry in self._layout.images()]
        return sorted(views, key=lambda view: (not view.name, view.name, view.created_at))

    def resolve(self, image: str) -> str:
        """The digest of the image's manifest. Raises NotFound, and UsageError for an ambiguous beginning."""
        return self._find(image).digest

    def inspect(self, image: str) -> ImageView:
        """One image."""
        return self._view(self._find(image))

    def config(self, image: str) -> ImageConfig:
        """How the image wants to be run."""
        return oci.run_config(self._config(self._manifest(self._find(image))))

    def build(self, name: str, recipe: BuildRecipe, progress: Progress = silent) -> ImageView:
        """Make an image from this host's means and call it ``name``, which an older image of that name loses.

        Raises UsageError (name, suite, package), BackendUnavailable (a missing tool, with its package).
        """
        full = parse_name(name)
        with self._layout.writing() as folder:
            staging = Staging(self._layout, folder)
            with staging.create() as layer:
                if recipe.base is Base.BUSYBOX:
                    from vmctl.images import busybox

                    run, epoch = busybox.RUN, busybox.write_layer(layer)
                else:
                    from vmctl.images import debian

                    run, epoch = debian.RUN, debian.write_layer(recipe, layer, folder, self._room(), progress)
            created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
            config = staging.add([oci.make_config([layer.digest], run, created)]).descriptor(oci.CONFIG)
            manifest = staging.add([oci.make_manifest(config, [layer.descriptor(oci.LAYER)])])
            return self._publish(staging, full, manifest.descriptor(oci.MANIFEST))

    def import_(
        self,
        name: str | None,
        source: Path | Iterable[bytes],
        progress: Progress = silent,
        *,
        max_bytes: int | None = None,
    ) -> ImageView:
        """Take an image in: the tar of a root file system, an OCI layout (folder or tar), a docker-archive (or its
        stream, as an engine gives it), compressed or not. ``name`` None: the name it had there.

        At most ``max_bytes`` may come out of its layers (by default what is free on the disk). A failed import
        leaves nothing. Raises NotFound for a missing file, UsageError for what is damaged, forged or hostile.
        """
        from vmctl.images.importer import Importer

        full = parse_name(name) if name is not None else None
        with self._layout.writing() as folder:
            staging = Staging(self._layout, folder)
            imported = Importer(staging, max_bytes or self._room(), progress).take(source)
            full = full or imported.name
            if full is None:
                raise UsageError("the image has no name of its own", hint="say what to call it")
            return self._publish(staging, full, imported.manifest)

    def tag(self, image: str, name: str) -> ImageView:
        """Give the image one more name, which an older image of that name loses."""
        full = parse_name(name)
        entry = self._find(image)
        with self._layout.writing() as folder:
            return self._publish(Staging(self._layout, folder), full, _bare(entry))

    def remove(self, image: str) -> ImageView:
        """Take the name away; with the last one (or by digest, all of them) go the image and what it alone used.

        Whether an instance uses it is the caller's to ask first.
        """
        entry = self._find(image)
        view = self._view_if_whole(entry)
        by_name = is_name(image) and _name(entry) == parse_name(image)

        def without(entries: Entries) -> Entries:
            return [one for one in entries if (one != entry if by_name else one.digest != entry.digest)]

        self._layout.edit(without)
        with self._layout.alone() as idle:
            if idle:  # else the next removal or prune that finds the store idle does it
                self._upkeep.collect()
        return view

    def prune(self, in_use: Collection[str] = ()) -> int:
        """Remove images without a name (but those ``in_use``, by digest) and what no image uses; bytes freed.

        Raises Conflict while another process adds to the store.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            with self._layout.alone() as idle:
                if idle:
                    self._layout.sweep()
                    self._layout.edit(lambda entries: [one for one in entries if _name(one) or one.digest in in_use])
                    return self._upkeep.collect()
            if time.monotonic() > deadline:
                raise Conflict("another vmctl is adding to the image store", hint="try again when it is done")
            time.sleep(0.1)

    def usage(self) -> tuple[DiskUsageRow, ...]:
        """What the store takes on disk; reclaimable is what :meth:`prune` frees if nothing unnamed is in use."""
        return tuple(self._upkeep.usage())

    def verify(self, progress: Progress = silent) -> tuple[str, ...]:
        """Read everything again; one line for each thing that is missing, damaged, or not what it is called."""
        return tuple(self._upkeep.verify(progress))

    def prepare(self, image: str, form: ImageForm, progress: Progress = silent) -> PreparedImage:
        """The image in the form a backend takes, made now if this is the first time.

        DOCKER needs nothing but the digests (and :meth:`docker_archive` where the engine has not got it). Raises
        BackendUnavailable for a missing tool, with its package.
        """
        entry = self._find(image)
        manifest = self._manifest(entry)
        prepared = PreparedImage(
            name=_name(entry) or entry.digest,
            digest=entry.digest,
            config_digest=manifest.config.digest,
            config=oci.run_config(self._config(manifest)),
        )
        if form is ImageForm.TREE:
            tree = self._forms.make_tree(entry.digest, manifest, progress)
            return msgspec.structs.replace(prepared, tree=tree)
        if form is ImageForm.DISK:
            disk = self._forms.make_disk(entry.digest, manifest, progress)
            return msgspec.structs.replace(prepared, root_disk=disk, root_fs=ROOT_FS, kernel=self._kernel(progress))
        return prepared

    def docker_archive(self, image: str) -> Iterator[bytes]:
        """The image as the tar stream that ``docker load`` takes; Docker's id for it is the config digest."""
        from vmctl.images import docker_archive

        return docker_archive.stream(self._layout, self._manifest(self._find(image)))

    @cached_property
    def _upkeep(self) -> Upkeep:
        from vmctl.images.upkeep import Upkeep

        return Upkeep(self._layout, self._forms)

    def _find(self, image: str) -> oci.Descriptor:
        entries = self._layout.images()
        if is_name(image):
            full = parse_name(image)
            for entry in entries:
                if _name(entry) == full:
                    return entry
        prefix = digest_prefix(image)
        found = [entry for entry in entries if prefix and entry.digest.startswith(prefix)]
        if len({entry.digest for entry in found}) > 1:
            raise UsageError(f"'{image}' begins the digests of several images", hint="give more of it, or a name")
        if found:
            return found[0]
        raise NotFound(f"no image called '{image}'", hint=_suggestion(image, [_name(entry) for entry in entries]))

    def _manifest(self, entry: oci.Descriptor) -> oci.Manifest:
        return oci.decode_manifest(self._layout.read_document(entry))

    def _config(self, manifest: oci.Manifest) -> oci.Config:
        return oci.decode_config(self._layout.read_document(manifest.config), len(manifest.layers))

    def _view(self, entry: oci.Descriptor) -> ImageView:
        manifest = self._manifest(entry)
        config = self._config(manifest)
        run = oci.run_config(config)
        return ImageView(
            name=_name(entry),
            digest=entry.digest,
            config_digest=manifest.config.digest,
            architecture=config.architecture,
            os=config.os,
            size=entry.size + manifest.config.size + sum(layer.size for layer in manifest.layers),
            created_at=_stored_at(entry),
            layers=tuple(layer.digest for layer in manifest.layers),
            command=(*run.entrypoint, *run.cmd),
            env=run.env,
            forms=self._forms.present(entry.digest),
        )

    def _view_if_whole(self, entry: oci.Descriptor) -> ImageView:
        try:
            return self._view(entry)
        except PermissionDenied:
            raise
        except VmctlError:
            return ImageView(
                name=_name(entry), digest=entry.digest, config_digest="", architecture="", os="", size=0,
                created_at=_stored_at(entry),
            )  # fmt: skip

    def _publish(self, staging: Staging, name: str, manifest: oci.Descriptor) -> ImageView:
        """Make the staged blobs part of the store under ``name``; an image that loses it stays, without a name."""
        annotations = {oci.REF_NAME: name, _STORED: str(time.time_ns())}
        entry = msgspec.structs.replace(manifest, annotations=annotations)

        def with_entry(entries: Entries) -> Entries:
            others = [one for one in entries if _name(one) != name and (_name(one) or one.digest != entry.digest)]
            kept = {one.digest for one in (*others, entry)}
            return [*others, *(_bare(one) for one in entries if one.digest not in kept), entry]

        staging.publish(with_entry)
        return self._view(entry)

    def _room(self) -> int:
        """Bytes an image may unpack to: what is free, less a reserve."""
        status = os.statvfs(self._layout.root)
        return max(0, status.f_bavail * status.f_frsize - _RESERVE)

    def _cached_kernel(self, progress: Progress) -> Kernel:
        from vmctl.images.kernel import KernelStore

        return KernelStore(self._cache.parent).ensure(lambda step: progress(step, 0, None))


def _name(entry: oci.Descriptor) -> str:
    return (entry.annotations or {}).get(oci.REF_NAME, "")


def _stored_at(entry: oci.Descriptor) -> int:
    text = (entry.annotations or {}).get(_STORED, "")
    return int(text) if text.isdecimal() else 0


def _bare(entry: oci.Descriptor) -> oci.Descriptor:
    """The entry without a name; when it was stored stays known."""
    stored = {key: value for key, value in (entry.annotations or {}).items() if key == _STORED}
    return msgspec.structs.replace(entry, annotations=stored or None)


def _suggestion(image: str, names: Iterable[str]) -> str:
    import difflib

    known = {name.removesuffix(":latest") for name in names if name}
    if close := difflib.get_close_matches(image, known, 1):
        return f"did you mean '{close[0]}'?"
    if known:
        return "'vmctl image ls' lists the images"
    return "make one: vmctl image build busybox --from busybox"
