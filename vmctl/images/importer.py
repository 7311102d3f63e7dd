"""Taking images in: root file systems, OCI layouts and docker-archives, with every digest recomputed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import msgspec

from vmctl.errors import NotFound, PermissionDenied, UsageError
from vmctl.images import oci
from vmctl.images.archive import (
    TAR_OVERHEAD,
    Measured,
    check_layer,
    damage_is_refused,
    decompressed,
    is_compressed,
    printable,
    refusal,
)
from vmctl.images.bundle import Bundle, FolderBundle, TarBundle, read_document
from vmctl.images.layer import copy_rootfs
from vmctl.images.layout import Staging, digest_of, read_chunks
from vmctl.images.names import is_name, parse_name
from vmctl.images.progress import Progress
from vmctl.model.process import DEFAULT_PATH

_ROOTFS_RUN = oci.RunConfig(cmd=["/bin/sh"], env=[f"PATH={DEFAULT_PATH}"])
_EPOCH = "1970-01-01T00:00:00Z"
_HEX = re.compile(r"[0-9a-f]{64}")
_MAX_DEPTH = 3


class Imported(NamedTuple):
    """The staged manifest, and the name the source had for the image, if it had one."""

    manifest: oci.Descriptor
    name: str | None


class _ArchiveItem(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One image of a docker-archive's manifest.json."""

    config: str
    layers: list[str]
    repo_tags: list[str] | None = None


class Importer:
    """Brings one image into a staging area. ``limit`` bounds the bytes that its layers unpack to, together."""

    def __init__(self, staging: Staging, limit: int, progress: Progress) -> None:
        self._staging = staging
        self._left = limit
        self._progress = progress

    def take(self, source: Path | Iterable[bytes]) -> Imported:
        """Take the image at a path, or a docker-archive as a stream. Raises NotFound, UsageError, PermissionDenied."""
        if isinstance(source, Path):
            return self._take_path(source)
        spool = self._staging.folder / "stream"
        with spool.open("wb") as stream:
            for chunk in source:
                stream.write(chunk)
                self._progress("reading the image", stream.tell(), None)
        return self._take_file(spool)

    def _take_path(self, path: Path) -> Imported:
        try:
            if path.is_dir():
                return self._take_oci(FolderBundle(path))
            with path.open("rb"):
                pass
            if not path.is_file():
                raise UsageError(f"{path} is not a file", hint="give a tar file or the folder of an OCI layout")
            return self._take_file(path)
        except FileNotFoundError as error:
            raise NotFound(f"there is no file {path}", hint="give a tar file or the folder of an OCI layout") from error
        except PermissionError as error:
            raise PermissionDenied(f"cannot read {error.filename or path}", hint="check who may read it") from error

    def _take_file(self, path: Path) -> Imported:
        plain = path
        if is_compressed(path):
            plain = self._staging.folder / "plain.tar"
            with damage_is_refused(path.name), decompressed(path) as stream, plain.open("wb") as target:
                for chunk in read_chunks(self._measured(stream)):
                    target.write(chunk)
                    self._progress("unpacking the archive", target.tell(), None)
        with closing(TarBundle(plain)) as bundle:
            if bundle.has("manifest.json"):
                return self._take_docker(bundle)
            if bundle.has("oci-layout"):
                return self._take_oci(bundle)
        return self._take_rootfs(plain)

    def _take_rootfs(self, path: Path) -> Imported:
        self._progress("copying the root file system", 0, path.stat().st_size)
        with path.open("rb") as stream, self._staging.create() as layer:
            copy_rootfs(stream, layer, self._left)
        config = self._staging.add([oci.make_config([layer.digest], _ROOTFS_RUN, _EPOCH)])
        return Imported(self._manifest(config.descriptor(oci.CONFIG), [layer.descriptor(oci.LAYER)]), None)

    def _take_docker(self, bundle: Bundle) -> Imported:
        """A docker-archive has no manifest of its own: one is made, from the config and the layers as they are."""
        items = oci.decode(
            read_document(bundle, "manifest.json", oci.MAX_DOCUMENT), list[_ArchiveItem], "manifest.json"
        )
        if len(items) != 1:
            raise UsageError(f"the archive holds {len(items)} images", hint="save one image at a time")
        item = items[0]
        document = read_document(bundle, item.config, oci.MAX_DOCUMENT)
        named = _HEX.search(item.config)
        if named and digest_of(document) != f"sha256:{named[0]}":
            raise refusal(f"the config called {printable(item.config)} is {digest_of(document)}")
        config = oci.decode_config(document, len(item.layers))
        layers = []
        for name, diff_id in zip(item.layers, config.rootfs.diff_ids, strict=True):
            with bundle.open(name) as stream, damage_is_refused("the archive"):
                blob = self._staging.add(read_chunks(self._measured(stream)))
            layer = blob.descriptor(_media_type(self._staging.path(blob.digest)))
            layers.append(self._checked(layer, diff_id))
        stored = self._staging.add([document])
        names = [tag for tag in item.repo_tags or () if is_name(tag)]
        manifest = self._manifest(stored.descriptor(oci.CONFIG), layers)
        return Imported(manifest, parse_name(names[0]) if names else None)

    def _take_oci(self, bundle: Bundle) -> Imported:
        if not bundle.has("index.json"):
            raise UsageError("the folder is not an OCI image layout", hint="it has no index.json")
        descriptor = self._choose(bundle, read_document(bundle, "index.json", oci.MAX_DOCUMENT), _MAX_DEPTH)
        name = (descriptor.annotations or {}).get(oci.REF_NAME)
        document = _read_blob(bundle, descriptor)
        manifest = oci.decode_manifest(document)
        config_document = _read_blob(bundle, manifest.config)
        config = oci.decode_config(config_document, len(manifest.layers))
        layers: list[oci.Descriptor] = []
        for layer, diff_id in zip(manifest.layers, config.rootfs.diff_ids, strict=True):
            self._progress("copying layers", len(layers), len(manifest.layers))
            with bundle.open(_blob_name(layer)) as stream, damage_is_refused("a layer"):
                blob = self._staging.add(read_chunks(self._measured(stream)), layer.digest)
            if blob.size != layer.size:
                raise refusal(f"layer {layer.digest} has {blob.size} bytes, not {layer.size}")
            layers.append(self._checked(layer, diff_id))
        self._staging.add([config_document], manifest.config.digest)
        if layers != manifest.layers:  # a layer had to be repacked: the image is the same, its manifest is not
            return Imported(self._manifest(manifest.config, layers), name if name and is_name(name) else None)
        kept = self._staging.add([document], descriptor.digest)
        return Imported(kept.descriptor(oci.MANIFEST), parse_name(name) if name and is_name(name) else None)

    def _choose(self, bundle: Bundle, document: bytes, depth: int) -> oci.Descriptor:
        """The only manifest, or the only one for this machine, of an index and those below it."""
        manifests = oci.decode(document, oci.Index, "image index").manifests
        if len(manifests) > 1:
            here = oci.Platform(architecture=oci.host_architecture(), os="linux")
            manifests = [one for one in manifests if one.platform == here] or manifests
        if len(manifests) != 1 or not depth:
            raise UsageError(f"the source holds {len(manifests)} images", hint="give one with a single image")
        oci.check_descriptor(manifests[0])
        if manifests[0].media_type in oci.INDEXES:
            return self._choose(bundle, _read_blob(bundle, manifests[0]), depth - 1)
        if manifests[0].media_type not in oci.MANIFESTS:
            raise refusal(f"'{manifests[0].media_type}' is not an image manifest")
        return manifests[0]

    def _checked(self, layer: oci.Descriptor, diff_id: str) -> oci.Descriptor:
        """The layer if it is harmless and what the config says. A zstd layer becomes plain: umoci cannot read it."""
        path = self._staging.path(layer.digest)
        found, size = check_layer(path, self._left)
        if found != diff_id:
            raise refusal(f"layer {layer.digest} unpacks to {found}, the config says {diff_id[:80]}")
        self._left -= size
        if oci.LAYERS[layer.media_type] != oci.LAYER_ZSTD:
            return layer
        with decompressed(path) as stream:
            plain = self._staging.add(read_chunks(stream), diff_id)
        self._staging.drop(layer.digest)
        return plain.descriptor(oci.LAYER)

    def _manifest(self, config: oci.Descriptor, layers: list[oci.Descriptor]) -> oci.Descriptor:
        return self._staging.add([oci.make_manifest(config, layers)]).descriptor(oci.MANIFEST)

    def _measured(self, stream: BinaryIO) -> BinaryIO:
        return cast(BinaryIO, Measured(stream, self._left + TAR_OVERHEAD))


def _media_type(path: Path) -> str:
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic.startswith(b"\x1f\x8b"):
        return oci.LAYER_GZIP
    return oci.LAYER_ZSTD if magic == b"\x28\xb5\x2f\xfd" else oci.LAYER


def _blob_name(descriptor: oci.Descriptor) -> str:
    return "blobs/" + descriptor.digest.replace(":", "/")


def _read_blob(bundle: Bundle, descriptor: oci.Descriptor) -> bytes:
    document = read_document(bundle, _blob_name(descriptor), oci.MAX_DOCUMENT)
    if digest_of(document) != descriptor.digest or len(document) != descriptor.size:
        raise refusal(f"blob {descriptor.digest} is {digest_of(document)}")
    return document
