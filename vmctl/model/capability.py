"""What a backend can do: each feature is supported, or comes with the reason why it is not."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Feature(StrEnum):
    """Features that differ between backends. The contract suite asserts that declared equals implemented."""

    ATTACH = "attach"            # protocol CanAttach
    EXEC = "exec"                # protocol CanExec
    COPY = "copy"                # protocol CanCopy
    PAUSE = "pause"              # protocol CanPause
    STATS = "stats"              # protocol CanStats
    EVENTS = "events"            # protocol CanEvents
    CONSOLE = "console"          # protocol CanConsole
    TTY = "tty"
    LIMIT_CPU = "limit-cpu"
    LIMIT_MEMORY = "limit-memory"
    LIMIT_PIDS = "limit-pids"
    RESTART_POLICY = "restart-policy"
    VOLUMES = "volumes"
    PORTS = "ports"
    NETWORKS = "networks"
    IMAGE = "image"              # runs an OCI image of vmctl's store
    HOST_COMMAND = "host-command"  # runs a program of the host, read-only
    DISK_BOOT = "disk-boot"
    READ_ONLY = "read-only"


Capabilities = Mapping[Feature, str]
"""Feature -> "" when supported, else the reason why not (a short clause: "bubblewrap has no console").

Every feature MUST be present.
"""


def missing(capabilities: Capabilities, wanted: frozenset[Feature]) -> dict[Feature, str]:
    """The wanted features that are not supported, with the reasons."""
    return {feature: capabilities[feature] for feature in sorted(wanted) if capabilities[feature]}
