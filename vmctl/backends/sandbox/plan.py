"""Specs into orders: what is refused, what is chosen, and the native plan that people and golden tests see. Pure."""

from __future__ import annotations

import hashlib
import posixpath
import signal
from typing import NamedTuple

import msgspec

from vmctl.backends.base import EMPTY_CONFIG, Body, NativePlan
from vmctl.backends.sandbox.bwrap import BOOT_ID, DEBIAN, Identity, options
from vmctl.backends.sandbox.cgroup import Group
from vmctl.backends.sandbox.order import Bind, Order
from vmctl.errors import Unsupported, UsageError
from vmctl.model.ids import as_uuid
from vmctl.model.process import Process
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Kind

NO_PORTS = "an application's network is loopback only, or the host's: it has no ports to publish"
NO_NETWORKS = "an application's network is loopback only (default, none), or the host's"
LEAST_MEMORY = 6 << 20

_FIRST_BASE, _BASES, _IDS = 0x8_0000, 28_664, 0x1_0000
"""Host ids 524288 to 1879048191 in ranges of 65536: what systemd's documentation sets aside for containers."""

_DEFAULT_STOP = "SIGTERM"


class Host(NamedTuple):
    """What an order depends on besides the body. ``root``: the caller is root, so ids inside get a range outside."""

    root: bool
    group: Group
    bwrap: str
    filters: tuple[str, ...]
    resolv_conf: str = ""


TYPICAL = Host(root=True, group={}, bwrap="/usr/bin/bwrap", filters=())


def check(spec: InstanceSpec) -> None:
    """Refuse what no application can have. Raises Unsupported, UsageError."""
    if spec.kind is not Kind.APP:
        raise Unsupported(f"the sandbox backend makes applications, not a {spec.kind}", hint="use --kind app")
    if spec.ports:
        raise Unsupported(f"ports cannot be published: {NO_PORTS}", hint="use --network host, or --kind container")
    if spec.network not in ("default", "none", "host"):
        raise Unsupported(f"network '{spec.network}': {NO_NETWORKS}", hint="use --kind container")
    if spec.memory < LEAST_MEMORY:
        raise UsageError(f"{spec.memory} bytes of memory are too few for a sandbox", hint="give it at least 6M")
    for mount in spec.mounts:
        if not mount.source.startswith("/"):
            raise Unsupported(
                f"volume '{mount.source}': the sandbox backend shares folders of the host, it has no volumes",
                hint="give an absolute path",
            )
        if not mount.target.startswith("/") or posixpath.normpath(mount.target) in ("/", "/proc", "/dev"):
            raise UsageError(f"'{mount.target}' is no place to mount on", hint="give an absolute path inside")
    if spec.stop_signal is not None:
        signal_number(spec.stop_signal)


def signal_number(name: str) -> int:
    """The number of ``TERM``, ``SIGTERM`` or ``15``. Raises UsageError."""
    text = name.upper().removeprefix("SIG")
    number = int(text) if text.isdecimal() else getattr(signal, f"SIG{text}", None)
    if not isinstance(number, int) or number not in signal.valid_signals():
        raise UsageError(f"no signal called '{name}'", hint="write TERM, SIGTERM or 15")
    return int(number)


def order_of(body: Body, host: Host) -> Order:
    """The supervisor's order. Raises UsageError for a body without a process."""
    spec, process = body.spec, body.process
    if process is None:
        raise UsageError("no command to run", hint="add one after '--'")
    config = body.image.config if body.image else EMPTY_CONFIG
    hostname = spec.hostname or body.name
    return Order(
        id=body.id,
        ledger=body.ledger,
        claim=body.claim,
        name=body.name,
        tree=str(body.image.tree) if body.image and body.image.tree else "",
        argv=list(process.argv),
        env=process.env,
        workdir=process.workdir,
        user=process.user,
        tty=process.tty,
        stdin=process.stdin,
        hostname=hostname,
        network="host" if spec.network == "host" else "none",
        read_only=spec.read_only,
        binds=[
            Bind(source=m.source, target=posixpath.normpath(m.target), read_only=m.read_only) for m in spec.mounts
        ],
        files=_files(body, hostname, host.resolv_conf if spec.network == "host" else ""),
        memory=spec.memory,
        cpu_millis=spec.cpu_millis,
        pids=spec.pids,
        group=host.group,
        id_base=_id_base(body.id) if host.root else 0,
        filters=list(host.filters),
        restart=spec.restart.value,
        restart_max=spec.restart_max,
        stop_signal=signal_number(spec.stop_signal or config.stop_signal or _DEFAULT_STOP),
        bwrap=host.bwrap,
    )


def _id_base(instance_id: str) -> int:
    """The first of the host's ids that stand for those inside: 65536 of its own for each instance, but for chance."""
    digest = hashlib.sha256(instance_id.encode()).digest()
    return _FIRST_BASE + int.from_bytes(digest[:8]) % _BASES * _IDS


def _files(body: Body, hostname: str, resolv_conf: str) -> dict[str, str]:
    files = {
        "/etc/hosts": f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
        "/etc/hostname": f"{hostname}\n",
        "/etc/resolv.conf": resolv_conf,
        BOOT_ID: f"{as_uuid(body.id)}\n",
    }
    if body.image is None:
        files["/etc/passwd"] = (
            "root:x:0:0:root:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        )
        files["/etc/group"] = "root:x:0:\nnogroup:x:65534:\n"
    return files


def has_writable_bind(spec: InstanceSpec) -> bool:
    """Whether it writes into folders of the host: then no setuid file may be made."""
    return any(not mount.read_only for mount in spec.mounts)


def native_plan(body: Body) -> NativePlan:
    """The command line on a typical host, as root, with what the supervisor enforces around it."""
    order = order_of(body, TYPICAL)
    shown = {
        "argv": ["bwrap", *options(order, DEBIAN, _shown_identity(body.process), 3), "--", *order["argv"]],
        "seccomp": ["docker-default", "vmctl-deny"],
        "limits": {"memory": order["memory"], "cpu_millis": order["cpu_millis"], "pids": order["pids"]},
        "tree": order["tree"],
        "binds": order["binds"],
        "files": order["files"],
        "restart": {"policy": order["restart"], "max": order["restart_max"]},
        "stop_signal": order["stop_signal"],
    }
    return NativePlan("application/json", msgspec.json.format(msgspec.json.encode(shown), indent=2).decode() + "\n")


def _shown_identity(process: Process | None) -> Identity:
    """Names are looked up in the image at each start; a plan shows them as root."""
    uid, _, gid = (process.user if process else "").partition(":")
    return Identity(int(uid) if uid.isdecimal() else 0, int(gid) if gid.isdecimal() else 0, (), "/root")
