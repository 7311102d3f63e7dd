"""An image as the tar stream that ``docker load`` takes, with the config's own bytes: Docker's id is their digest."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

import msgspec

from vmctl.images import oci
from vmctl.images.layout import Layout, read_chunks
from vmctl.images.names import hex_of


def stream(layout: Layout, manifest: oci.Manifest) -> Iterator[bytes]:
    """The archive, piece by piece; the same image always gives the same bytes. It carries no name."""
    config = f"{hex_of(manifest.config.digest)}.json"
    layers = [f"{hex_of(layer.digest)}/layer.tar" for layer in manifest.layers]
    yield from _member(config, layout.read_document(manifest.config))
    for name, layer in dict(zip(layers, manifest.layers, strict=True)).items():
        yield _header(name, layer.size)
        with layout.blob_path(layer.digest).open("rb") as blob:
            yield from read_chunks(blob)
        yield _padding(layer.size)
    listed = [{"Config": config, "RepoTags": None, "Layers": layers}]
    yield from _member("manifest.json", msgspec.json.encode(listed))
    yield bytes(2 * tarfile.BLOCKSIZE)


def _member(name: str, content: bytes) -> Iterator[bytes]:
    yield _header(name, len(content))
    yield content
    yield _padding(len(content))


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
