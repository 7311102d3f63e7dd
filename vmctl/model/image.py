"""What the image store tells backends about an image."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec


class ImageForm(StrEnum):
    """The form in which a backend takes an image; ``ops`` has it prepared before ``create``."""

    DOCKER = "docker"  # loaded into the Docker engine, known there by its config digest
    TREE = "tree"      # unpacked into a folder that all instances share, read-only
    DISK = "disk"      # one read-only file system image, plus kernel and initramfs to boot it


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The part of an OCI image config that says how to run it (OCI image-spec, config.md)."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()  # NAME=value
    user: str = ""
    workdir: str = ""
    stop_signal: str = ""
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: dict[str, str] = {}


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel with the initramfs made for it; ``key`` is the digest of both (part of the warm start's cache key)."""

    version: str
    path: Path
    initramfs: Path
    key: str


class PreparedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image in the form a backend asked for. Digests are ``sha256:<hex>``.

    ``tree`` is set for ImageForm.TREE; ``root_disk`` (with ``root_fs``, such as "erofs") and ``kernel`` for DISK.
    """

    name: str
    digest: str         # of the manifest
    config_digest: str  # of the config; Docker's image id
    config: ImageConfig
    tree: Path | None = None
    root_disk: Path | None = None
    root_fs: str = ""
    kernel: Kernel | None = None
