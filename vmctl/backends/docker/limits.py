"""Limits are read back after they are set: from what the engine took over, and from what the kernel enforces."""

from __future__ import annotations

from vmctl.backends.docker import states
from vmctl.backends.docker.cgroup import UNLIMITED, Limits
from vmctl.backends.docker.native import Container
from vmctl.errors import Unsupported
from vmctl.model.spec import InstanceSpec


def asked(spec: InstanceSpec) -> Limits:
    return Limits(memory=spec.memory, cpu_millis=spec.cpu_millis, pids=spec.pids)


def recorded(container: Container) -> Limits:
    """What the engine says it will enforce: it drops, with a mere warning, what its kernel cannot do."""
    host = container.host_config
    return Limits(
        memory=host.memory or UNLIMITED,
        cpu_millis=states.cpu_limit(container) or UNLIMITED,
        pids=host.pids_limit if (host.pids_limit or 0) > 0 else UNLIMITED,
    )


def check(wanted: Limits, actual: Limits) -> None:
    """Raise Unsupported if something larger than ``wanted`` is enforced. What could not be read passes."""
    for want, have, unit in (
        (wanted.memory, actual.memory, "bytes"),
        (wanted.cpu_millis, actual.cpu_millis, "millicpu"),
        (wanted.pids, actual.pids, "processes"),
    ):
        if want is not None and have is not None and have > want:
            found = "none" if have >= UNLIMITED else f"{have} {unit}"
            raise Unsupported(
                f"Docker does not enforce the limit of {want} {unit}: found {found}",
                hint="the kernel may lack the cgroup controller: see 'docker info'",
            )
