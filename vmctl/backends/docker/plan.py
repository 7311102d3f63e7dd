"""The body of ``POST /containers/create`` for an instance: pure."""

from __future__ import annotations

import msgspec

from vmctl.backends.base import Body
from vmctl.backends.docker import states
from vmctl.backends.docker.native import encoded
from vmctl.errors import Unsupported, UsageError
from vmctl.model.observed import Overhead
from vmctl.model.process import Process
from vmctl.model.spec import InstanceSpec, Mount
from vmctl.model.state import Kind, RestartPolicy

MIN_CPU_MILLIS = 10
MIN_MEMORY = 6 << 20
_SHIM_MEMORY, _SHIM_THREADS = 12 << 20, 12
_PROXY_MEMORY, _PROXY_THREADS = 1 << 20, 8
_LONGEST_HOSTNAME = 64
_PROTOCOLS = ("tcp", "udp", "sctp")
_LOG = {"Type": "local", "Config": {"max-size": "20m", "max-file": "5"}}

Json = dict[str, object]


def validate(spec: InstanceSpec) -> None:
    """Refuse what Docker cannot make, before anything is claimed. Raises Unsupported, UsageError."""
    if spec.kind is not Kind.CONTAINER:
        raise Unsupported(f"the docker backend makes containers, not kind '{spec.kind}'")
    if spec.image is None:
        raise UsageError("a container needs an image", hint="see 'vmctl image ls'; --kind app runs a host's program")
    if spec.cpu_millis < MIN_CPU_MILLIS:
        raise UsageError(f"{spec.cpu_millis}m CPU is too little for a container", hint="Docker's least is 10m (0.01)")
    if spec.memory < MIN_MEMORY:
        raise UsageError(f"{spec.memory} bytes of memory are too little for a container", hint="Docker's least is 6M")
    if spec.pids < 1:
        raise UsageError("a container needs at least 1 process", hint="the default is 1024")
    if spec.ports and spec.network in ("none", "host"):
        raise UsageError(f"ports cannot be published on network '{spec.network}'", hint="drop --publish or --network")
    for port in spec.ports:
        if port.protocol not in _PROTOCOLS:
            raise UsageError(f"'{port.protocol}' is not a protocol of a port", hint="use " + ", ".join(_PROTOCOLS))
    if spec.hostname is not None and len(spec.hostname) > _LONGEST_HOSTNAME:
        raise UsageError(f"host name '{spec.hostname}' is too long", hint=f"at most {_LONGEST_HOSTNAME} characters")
    targets = [mount.target for mount in spec.mounts]
    for target in targets:
        if not target.startswith("/") or targets.count(target) > 1:
            raise UsageError(f"'{target}' cannot be a mount point", hint="use absolute targets, each once")


def overhead(spec: InstanceSpec) -> Overhead:
    """What a container costs beside its limits.

    Measured with Docker 20.10, containerd 1.6 and Linux 6.18 on x86-64, 16 containers of ``sleep``: MemAvailable fell
    by 9.3 MiB for each (its shim's own pages 2.5 MiB, the rest kernel memory, page tables and cache; the first shim
    brings 9.4 MiB of shared text, so one alone costs 12). A shim has 11 to 12 threads; a published port has a proxy
    with a PSS of 0.9 MiB and 7 to 8 threads. Their CPU time at rest is nothing that can be measured.
    """
    ports = len(spec.ports)
    return Overhead(memory=_SHIM_MEMORY + ports * _PROXY_MEMORY, pids=_SHIM_THREADS + ports * _PROXY_THREADS)


def create_body(body: Body) -> Json:
    """What is sent. Same ``body``, same answer."""
    if body.process is None or body.image is None:
        raise UsageError("a container needs an image and a command")
    spec, process = body.spec, body.process
    return {
        "Image": body.image.config_digest,
        **_process(process),
        "Hostname": spec.hostname or body.name,
        "Labels": _labels(body),
        "StopSignal": spec.stop_signal or body.image.config.stop_signal or "SIGTERM",
        "StopTimeout": round(spec.stop_timeout),
        "ExposedPorts": {f"{port.port}/{port.protocol}": {} for port in spec.ports},
        "HostConfig": _host(spec),
    }


def encode(plan: Json) -> str:
    """The plan for people and golden tests."""
    return msgspec.json.format(encoded(plan), indent=2).decode() + "\n"


def exec_body(process: Process) -> Json:
    """The body of ``POST /containers/{id}/exec``."""
    return {
        "Cmd": list(process.argv),
        "Env": _environment(process),
        "WorkingDir": process.workdir,
        "User": process.user or "0",
        "Tty": process.tty,
        "AttachStdin": process.stdin,
        "AttachStdout": True,
        "AttachStderr": True,
    }


def restart_policy(spec: InstanceSpec) -> Json:
    """The spec's restart policy in Docker's words."""
    tries = spec.restart_max if spec.restart is RestartPolicy.ON_FAILURE else 0
    return {"Name": spec.restart.value, "MaximumRetryCount": tries}


def _process(process: Process) -> Json:
    return {
        # All of argv as entrypoint: with an entrypoint given, Docker adds neither the image's nor its CMD.
        "Entrypoint": list(process.argv),
        "Cmd": [],
        "Env": _environment(process),
        "WorkingDir": process.workdir,
        "User": process.user or "0",  # empty would mean the image's user
        "Tty": process.tty,
        "OpenStdin": process.stdin,
        "StdinOnce": process.stdin,  # else the workload never sees the end of its stdin
    }


def _environment(process: Process) -> list[str]:
    return [f"{name}={value}" for name, value in process.env.items()]


def _labels(body: Body) -> dict[str, str]:
    """The user's labels, and over them what rebuilds a lost ledger."""
    return dict(body.spec.labels) | {
        states.LABEL_ID: body.id,
        states.LABEL_LEDGER: body.ledger,
        states.LABEL_CLAIM: body.claim,
        states.LABEL_NAME: body.name,
        states.LABEL_SPEC: encoded(body.spec).decode(),
    }


def _host(spec: InstanceSpec) -> Json:
    bindings: dict[str, list[Json]] = {}
    for port in spec.ports:
        entry: Json = {"HostIp": port.host_address, "HostPort": str(port.host_port or "")}
        bindings.setdefault(f"{port.port}/{port.protocol}", []).append(entry)
    return {
        "NanoCpus": spec.cpu_millis * 1_000_000,
        "Memory": spec.memory,
        "MemorySwap": spec.memory,  # memory and swap together: no swap
        "PidsLimit": spec.pids,
        "RestartPolicy": restart_policy(spec),
        "NetworkMode": "bridge" if spec.network == "default" else spec.network,
        "PortBindings": bindings,
        "Mounts": [_mount(mount) for mount in spec.mounts],
        "ReadonlyRootfs": spec.read_only,
        "LogConfig": _LOG,
    }


def _mount(mount: Mount) -> Json:
    """A bind of a host folder must exist (the older ``Binds`` would make it); a named volume is made at need."""
    kind = "bind" if mount.source.startswith("/") else "volume"
    return {"Type": kind, "Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only}
