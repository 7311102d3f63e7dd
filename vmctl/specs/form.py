"""The friendly form of a spec, as people write it in files and flags; its JSON Schema is generated from here.

Sizes are ``2G`` or bytes, CPUs ``1.5`` or ``250m``, durations ``10m`` or seconds. What is not set stays unset, so
that layers can be merged.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from vmctl.model.state import Kind

Scalar = str | int | float | bool
Words = Annotated[str | list[str], Meta(description="a list of words, or one text that is split as a shell would")]


class _Form(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, rename="kebab"
):
    """Base: keys are written with hyphens, unknown ones are refused."""


class MountForm(_Form, frozen=True):
    """The long form of a mount."""

    source: str
    target: str
    read_only: bool = False


class PortForm(_Form, frozen=True):
    """The long form of a published port."""

    port: int
    host_port: int = 0
    host_address: str = "127.0.0.1"
    protocol: str = "tcp"


class MachineForm(_Form, frozen=True):
    """What only a virtual machine has. Paths are relative to the file's folder."""

    kernel: str | UnsetType = UNSET
    initrd: str | UnsetType = UNSET
    cmdline: str | UnsetType = UNSET
    disk: Annotated[str | UnsetType, Meta(description="qcow2 or raw file that boots by itself")] = UNSET
    firmware: str | UnsetType = UNSET
    accel: Annotated[str | UnsetType, Meta(description="auto, kvm or tcg")] = UNSET


class SpecForm(_Form, frozen=True):
    """An instance as written in a spec file."""

    kind: Kind | UnsetType = UNSET
    name: str | UnsetType = UNSET
    backend: str | UnsetType = UNSET
    project: str | UnsetType = UNSET
    image: str | UnsetType = UNSET
    command: Words | UnsetType = UNSET
    entrypoint: Words | UnsetType = UNSET
    env_file: Annotated[str | list[str] | UnsetType, Meta(description="files of NAME=value; env wins")] = UNSET
    env: Annotated[
        dict[str, Scalar] | list[str] | UnsetType, Meta(description="NAME: value, or a list of NAME=value")
    ] = UNSET
    workdir: str | UnsetType = UNSET
    user: str | int | UnsetType = UNSET
    hostname: str | UnsetType = UNSET
    labels: dict[str, Scalar] | list[str] | UnsetType = UNSET
    cpus: Annotated[str | int | float | UnsetType, Meta(description="2, 1.5 or 250m")] = UNSET
    memory: Annotated[str | int | UnsetType, Meta(description="2G is 2 GiB")] = UNSET
    disk: Annotated[str | int | UnsetType, Meta(description="2G is 2 GiB")] = UNSET
    pids: int | str | UnsetType = UNSET
    mounts: Annotated[
        list[str | MountForm] | UnsetType,
        Meta(description="./folder:/inside[:ro], volume:/inside[:ro] or the long form"),
    ] = UNSET
    ports: Annotated[
        list[str | int | PortForm] | UnsetType, Meta(description="[[address:]port:]port[/udp] or the long form")
    ] = UNSET
    network: str | UnsetType = UNSET
    tty: bool | UnsetType = UNSET
    stdin: bool | UnsetType = UNSET
    read_only: bool | UnsetType = UNSET
    restart: Annotated[str | UnsetType, Meta(description="no, on-failure[:tries], always, unless-stopped")] = UNSET
    remove: bool | UnsetType = UNSET
    stop_signal: str | int | UnsetType = UNSET
    stop_timeout: str | int | float | UnsetType = UNSET
    ttl: str | int | float | UnsetType = UNSET
    machine: MachineForm | UnsetType = UNSET
