"""The wanted form of an instance, frozen; made from flags over files over project defaults by ``vmctl.specs``."""

from __future__ import annotations

import msgspec

from vmctl.model.state import Kind, RestartPolicy


class _Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of spec values: immutable, keyword-only, unknown keys refused."""


class Mount(_Value, frozen=True):
    """A host folder (absolute ``source``) or a named volume shown inside at ``target`` (absolute)."""

    source: str
    target: str
    read_only: bool = False


class Port(_Value, frozen=True):
    """``host_address:host_port`` forwarded to ``port`` inside; host port 0 means any free one."""

    port: int
    host_port: int = 0
    host_address: str = "127.0.0.1"
    protocol: str = "tcp"


class Machine(_Value, frozen=True):
    """Options that only a VM has.

    With an image the machine boots it directly ("image machine"). Without one it needs ``disk`` (a qcow2 or raw
    file that boots by itself) or ``kernel`` (direct kernel boot, no image). ``accel`` is auto, kvm or tcg.
    """

    kernel: str | None = None
    initrd: str | None = None
    cmdline: str | None = None
    disk: str | None = None
    firmware: str = "bios"
    accel: str = "auto"


class InstanceSpec(_Value, frozen=True):
    """Everything wanted of an instance. Units: millicpu, bytes, counts, seconds.

    ``command`` replaces the image's CMD, ``entrypoint`` its ENTRYPOINT (None keeps it). ``env`` adds to the
    image's. An app without image runs a program of the host, with the host's files read-only.
    """

    kind: Kind
    name: str = ""
    backend: str = ""  # empty: the default backend of the kind
    project: str = "default"
    image: str | None = None
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    env: dict[str, str] = {}
    workdir: str | None = None
    user: str | None = None
    hostname: str | None = None
    labels: dict[str, str] = {}
    cpu_millis: int = 1000
    memory: int = 512 << 20
    disk: int = 1 << 30
    pids: int = 1024
    mounts: tuple[Mount, ...] = ()
    ports: tuple[Port, ...] = ()
    network: str = "default"  # default | none | host | a network's name
    tty: bool = False
    stdin: bool = False
    read_only: bool = False
    restart: RestartPolicy = RestartPolicy.NO
    restart_max: int = 0  # on-failure: give up after so many tries; 0 is without end
    remove: bool = False
    stop_signal: str | None = None
    stop_timeout: float = 10.0
    ttl: float | None = None
    reserve: bool = False
    machine: Machine = Machine()
