"""What goes over the wire: the parts of Docker's answers that vmctl reads (the rest is ignored), and JSON to it."""

from __future__ import annotations

import msgspec

from vmctl.errors import UsageError


class _Native(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Docker writes keys in PascalCase and null for empty collections."""


class ContainerState(_Native, frozen=True):
    status: str
    running: bool = False
    paused: bool = False
    restarting: bool = False
    oom_killed: bool = msgspec.field(name="OOMKilled", default=False)
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_at: str = ""
    finished_at: str = ""


class RestartPolicy(_Native, frozen=True):
    name: str = ""
    maximum_retry_count: int = 0


class HostConfig(_Native, frozen=True):
    memory: int = 0
    nano_cpus: int = 0
    cpu_quota: int = 0
    cpu_period: int = 0
    pids_limit: int | None = None
    restart_policy: RestartPolicy = RestartPolicy()


class ContainerConfig(_Native, frozen=True):
    labels: dict[str, str] | None = None
    tty: bool = False
    open_stdin: bool = False
    stop_signal: str = ""


class PortBinding(_Native, frozen=True):
    host_ip: str = ""
    host_port: str = ""


class Endpoint(_Native, frozen=True):
    ip_address: str = msgspec.field(name="IPAddress", default="")
    global_ipv6_address: str = msgspec.field(name="GlobalIPv6Address", default="")


class NetworkSettings(_Native, frozen=True):
    networks: dict[str, Endpoint | None] | None = None
    ports: dict[str, list[PortBinding] | None] | None = None


class Container(_Native, frozen=True):
    """``GET /containers/{id}/json``."""

    id: str
    state: ContainerState
    config: ContainerConfig
    host_config: HostConfig
    name: str = ""
    restart_count: int = 0
    network_settings: NetworkSettings = NetworkSettings()

    @property
    def labels(self) -> dict[str, str]:
        return self.config.labels or {}


class Listed(_Native, frozen=True):
    """One item of ``GET /containers/json``."""

    id: str
    names: list[str] | None = None
    labels: dict[str, str] | None = None


class Created(_Native, frozen=True):
    """``POST /containers/create``."""

    id: str
    warnings: list[str] | None = None


class Image(_Native, frozen=True):
    """``GET /images/{id}/json``."""

    id: str
    repo_tags: list[str] | None = None


class ExecCreated(_Native, frozen=True):
    """``POST /containers/{id}/exec``."""

    id: str


class ExecState(_Native, frozen=True):
    """``GET /exec/{id}/json``; ``pid`` is the host's, 0 when it was never started."""

    container_id: str = msgspec.field(name="ContainerID", default="")
    running: bool = False
    exit_code: int | None = None
    pid: int = 0


class Waited(_Native, frozen=True):
    """``POST /containers/{id}/wait``."""

    status_code: int


class Version(_Native, frozen=True):
    """``GET /version``."""

    version: str = ""
    api_version: str = ""
    kernel_version: str = ""


class Info(_Native, frozen=True):
    """``GET /info``."""

    driver: str = ""
    cgroup_driver: str = ""
    cgroup_version: str = ""
    default_runtime: str = ""
    docker_root_dir: str = ""
    memory_limit: bool = False
    cpu_cfs_quota: bool = msgspec.field(name="CpuCfsQuota", default=False)
    pids_limit: bool = False
    swap_limit: bool = False
    security_options: list[str] | None = None


class Failure(msgspec.Struct, frozen=True):
    """The body of every answer with a status of 400 and more."""

    message: str = ""


def encoded(body: object) -> bytes:
    """JSON, which cannot carry bytes that are not UTF-8: Raises UsageError for them."""
    try:
        return msgspec.json.encode(body, order="sorted")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"Docker cannot take bytes that are not UTF-8: {error.object!r}", hint="pass them in a file, or on stdin"
        ) from error
