"""The JSON documents of the OCI image specification (and Docker's older twins), as far as vmctl reads them.

Everything here comes from outside and is checked: types, digests, sizes, and that a manifest and its config agree.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from vmctl.errors import UsageError
from vmctl.images.names import is_digest
from vmctl.model.image import ImageConfig

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = LAYER + "+gzip"
LAYER_ZSTD = LAYER + "+zstd"
_DOCKER = "application/vnd.docker."
INDEXES = frozenset({INDEX, _DOCKER + "distribution.manifest.list.v2+json"})
MANIFESTS = frozenset({MANIFEST, _DOCKER + "distribution.manifest.v2+json"})
LAYERS = {
    LAYER: LAYER,
    LAYER_GZIP: LAYER_GZIP,
    LAYER_ZSTD: LAYER_ZSTD,
    _DOCKER + "image.rootfs.diff.tar": LAYER,
    _DOCKER + "image.rootfs.diff.tar.gzip": LAYER_GZIP,
}
"""Media types of layers that are understood -> the OCI one that means the same."""

REF_NAME = "org.opencontainers.image.ref.name"
MAX_DOCUMENT = 4 << 20
"""Longest manifest, index or config that is read: 4 MiB, as registries allow."""
MAX_LAYERS = 500

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """For which machine a manifest of an index is."""

    architecture: str = ""
    os: str = ""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A reference to a blob."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    platform: Platform | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One image: its config and its layers, lowest first."""

    schema_version: int
    media_type: str | None = None
    config: Descriptor
    layers: list[Descriptor]


class Index(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Several images."""

    schema_version: int
    media_type: str | None = None
    manifests: list[Descriptor]


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """``config`` of an image config: how to run it. Docker writes null where it means nothing."""

    user: str | None = None
    exposed_ports: dict[str, msgspec.Raw] | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    volumes: dict[str, msgspec.Raw] | None = None
    working_dir: str | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None


class RootFS(msgspec.Struct, frozen=True, kw_only=True):
    """The digests of the layers as uncompressed tar files."""

    type: str
    diff_ids: list[str]


class Config(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An image config. Its bytes are Docker's image id, so they are kept as they came, never written anew."""

    architecture: str = ""
    os: str = ""
    created: str | None = None
    config: RunConfig | None = None
    rootfs: RootFS


T = TypeVar("T")


def decode(document: bytes, kind: type[T], what: str) -> T:
    """``document`` as ``kind``. Raises UsageError that says where it is wrong."""
    try:
        return msgspec.json.decode(document, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{what} is not valid: {error}", hint="the image is damaged or forged") from error


def encode(document: msgspec.Struct) -> bytes:
    """Canonical JSON: the same document always has the same digest."""
    return msgspec.json.encode(document, order="sorted")


def decode_manifest(document: bytes) -> Manifest:
    """A manifest whose descriptors are plausible. Raises UsageError."""
    manifest = decode(document, Manifest, "image manifest")
    if manifest.schema_version != 2 or manifest.media_type not in {None, *MANIFESTS}:
        raise UsageError("image manifest is of an unknown version", hint="OCI and Docker schema 2 manifests are read")
    if len(manifest.layers) > MAX_LAYERS:
        raise UsageError(f"image manifest names {len(manifest.layers)} layers", hint=f"at most {MAX_LAYERS} are read")
    for part in (manifest.config, *manifest.layers):
        check_descriptor(part)
    for layer in manifest.layers:
        if layer.media_type not in LAYERS:
            raise UsageError(f"layers of type '{layer.media_type}' cannot be used", hint="use tar, gzip or zstd layers")
    return manifest


def check_descriptor(descriptor: Descriptor) -> None:
    """Raises UsageError for a digest or size that cannot be."""
    if not is_digest(descriptor.digest) or descriptor.size < 0:
        raise UsageError(
            f"'{descriptor.digest[:80]}' ({descriptor.size} bytes) does not name a blob", hint="sha256 digests are read"
        )


def decode_config(document: bytes, layers: int) -> Config:
    """A config that agrees with a manifest of so many layers. Raises UsageError."""
    config = decode(document, Config, "image config")
    if config.rootfs.type != "layers" or len(config.rootfs.diff_ids) != layers:
        raise UsageError(
            f"image config lists {len(config.rootfs.diff_ids)} layers, the manifest {layers}",
            hint="the image is damaged or forged",
        )
    return config


def run_config(config: Config) -> ImageConfig:
    """How to run the image, in vmctl's words."""
    run = config.config or RunConfig()
    return ImageConfig(
        entrypoint=tuple(run.entrypoint or ()),
        cmd=tuple(run.cmd or ()),
        env=tuple(run.env or ()),
        user=run.user or "",
        workdir=run.working_dir or "",
        stop_signal=run.stop_signal or "",
        exposed_ports=tuple(sorted(run.exposed_ports or ())),
        volumes=tuple(sorted(run.volumes or ())),
        labels=run.labels or {},
    )


def make_config(diff_ids: Sequence[str], run: RunConfig, created: str) -> bytes:
    """The config of an image built here, for this machine's architecture."""
    return encode(
        Config(
            architecture=host_architecture(),
            os="linux",
            created=created,
            config=run,
            rootfs=RootFS(type="layers", diff_ids=list(diff_ids)),
        )
    )


def make_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """The manifest of an image that came without one: the same parts always give the same bytes."""
    return encode(Manifest(schema_version=2, media_type=MANIFEST, config=config, layers=list(layers)))


def host_architecture() -> str:
    """This machine in OCI's (Go's) words."""
    return _ARCHITECTURES.get(os.uname().machine, os.uname().machine)
