"""Images made for tests: small, and as wrong as asked for."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vmctl.images.store import ImageStore
from vmctl.model.image import Kernel

KERNEL = Kernel(version="6.1", path=Path("/kernel"), initramfs=Path("/initramfs"), key="k")


def make_store(folder: Path) -> ImageStore:
    """A store with a kernel that is none: for everything but booting."""
    return ImageStore(folder / "images", folder / "cache", kernel=lambda progress: KERNEL)


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member for :func:`tar_of`."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(data), 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar file of these members, written without any check."""
    out = io.BytesIO()
    for info, data in members:
        out.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        out.write(data + bytes(-len(data) % 512))
    return out.getvalue() + bytes(1024)


SMALL = (
    entry("etc", tarfile.DIRTYPE),
    entry("etc/motd", data=b"hello\n"),
    entry("bin", tarfile.SYMTYPE, linkname="etc"),
)
"""A root file system of three entries."""


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def config_of(layers: Iterable[bytes], **run: Any) -> bytes:
    """An image config for uncompressed layers."""
    rootfs = {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]}
    return json.dumps({"architecture": "amd64", "os": "linux", "config": run or None, "rootfs": rootfs}).encode()


def docker_archive(layers: list[bytes], config: bytes | None = None, **changes: Any) -> bytes:
    """What ``docker save`` gives; ``changes`` replace fields of manifest.json's only item."""
    document = config_of(layers) if config is None else config
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    item = {"Config": f"{sha256(document)[7:]}.json", "RepoTags": ["made:1"], "Layers": names} | changes
    files = {item["Config"]: document, **dict(zip(names, layers, strict=True))}
    files["manifest.json"] = json.dumps([item]).encode()
    return tar_of(*(entry(name, data=data) for name, data in files.items()))


class OciFolder:
    """An OCI layout of one image; ``write`` puts down what the fields say by then."""

    def __init__(self, folder: Path, layer: bytes, media_type: str = "application/vnd.oci.image.layer.v1.tar") -> None:
        self.folder = folder
        self.blob = gzip.compress(layer, mtime=0) if media_type.endswith("gzip") else layer
        self.config = config_of([layer], Cmd=["run"])
        self.manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.describe(self.config, "application/vnd.oci.image.config.v1+json"),
            "layers": [self.describe(self.blob, media_type)],
        }

    @staticmethod
    def describe(data: bytes, media_type: str) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}

    def put(self, data: bytes) -> Path:
        path = self.folder / "blobs" / "sha256" / sha256(data)[7:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def write(self) -> Path:
        manifest = json.dumps(self.manifest).encode()
        for data in (self.blob, self.config, manifest):
            self.put(data)
        described = self.describe(manifest, "application/vnd.oci.image.manifest.v1+json")
        described["annotations"] = {"org.opencontainers.image.ref.name": "layout:7"}
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        return self.folder


def blobs(folder: Path) -> set[str]:
    """The names of the blobs of the store in ``folder``."""
    found = folder / "images" / "blobs" / "sha256"
    return {path.name for path in found.iterdir()} if found.is_dir() else set()


def assert_untouched(folder: Path) -> None:
    """The store in ``folder`` is as if nothing had ever been tried."""
    assert blobs(folder) == set()
    temporary = folder / "images" / "tmp"
    assert not temporary.is_dir() or not list(temporary.iterdir())
    assert make_store(folder).list() == []
