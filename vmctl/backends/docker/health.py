"""Whether Docker serves, asked of Docker itself."""

from __future__ import annotations

import os
import shutil

from vmctl.backends.docker.client import Client
from vmctl.backends.docker.errors import start_hint
from vmctl.backends.docker.native import Info, Version
from vmctl.errors import VmctlError
from vmctl.model.observed import Health, Probe


def probe(client: Client) -> Probe:
    """Never raises: what goes wrong is the answer."""
    try:
        version = client.call(Version, "GET", "/version")
        info = client.call(Info, "GET", "/info")
    except VmctlError as error:
        absent = shutil.which("dockerd") is None and not _socket_exists(client)
        health = Health.UNDETECTED if absent else Health.UNHEALTHY
        return Probe(health=health, reason=error.message, hint=error.hint or start_hint())
    facts = _facts(version, info)
    missing = [
        what
        for what, works in (("memory", info.memory_limit), ("CPU", info.cpu_cfs_quota), ("pids", info.pids_limit))
        if not works
    ]
    if missing:
        reason = f"the kernel gives Docker no limit of {' and '.join(missing)}"
        hint = "enable these cgroup controllers: see 'docker info'"
        return Probe(health=Health.UNHEALTHY, version=version.version, reason=reason, hint=hint, facts=facts)
    return Probe(health=Health.HEALTHY, version=version.version, facts=facts)


def _facts(version: Version, info: Info) -> dict[str, str]:
    security = (option.split(",")[0].removeprefix("name=") for option in info.security_options or ())
    return {
        "api": version.api_version,
        "storage": f"{info.driver} in {info.docker_root_dir}",
        "cgroup": f"v{info.cgroup_version}, {info.cgroup_driver}",
        "runtime": info.default_runtime,
        "security": " ".join(security),
        "swap limit": "yes" if info.swap_limit else "no",
    }


def _socket_exists(client: Client) -> bool:
    try:
        return os.path.exists(client.socket_path)
    except VmctlError:
        return False
