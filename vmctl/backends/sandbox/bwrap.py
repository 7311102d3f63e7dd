"""The bubblewrap command line of an order: pure, so that golden tests hold it.

Sources are gathered below STAGE in a mount namespace of their own before bwrap runs (see ``launch``): the line never
holds a path of the instance's folder, and bwrap needs no right to walk there.
"""

from __future__ import annotations

from typing import NamedTuple

from vmctl.backends.sandbox.order import Order

STAGE = "/tmp"  # noqa: S108 - only a place to mount on; exists on every host
STAGE_ROOT = f"{STAGE}/root"

MASKED = ("keys", "key-users", "timer_list", "sched_debug", "interrupts", "config.gz", "kcore", "kallsyms", "kmsg",
          "sysrq-trigger", "latency_stats", "timer_stats", "acpi", "scsi", "asound")
"""Entries of /proc that tell of the host or steer it. Not every kernel has each."""

SYSTEM_FOLDERS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt")
SYSTEM_FILES = ("alternatives", "ca-certificates", "ca-certificates.conf", "fonts", "ld.so.cache", "ld.so.conf",
                "ld.so.conf.d", "localtime", "magic", "mime.types", "nsswitch.conf", "os-release", "pki", "protocols",
                "services", "ssl", "terminfo", "timezone")
"""What of the host's /etc a program of the host sees: nothing that names people or holds keys of this host."""

BOOT_ID = "/proc/sys/kernel/random/boot_id"
_SHM_SIZE = 64 << 20


class Facts(NamedTuple):
    """What a command line depends on besides the order. ``folders``: name -> link target, or "" for a real folder."""

    masked: tuple[str, ...]
    masked_folders: tuple[str, ...]
    folders: dict[str, str]
    files: tuple[str, ...]


DEBIAN = Facts(
    masked=("keys", "timer_list", "interrupts", "kcore", "sysrq-trigger"),
    masked_folders=("acpi",),
    folders={"usr": "", "bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "opt": ""},
    files=("alternatives", "ld.so.cache", "nsswitch.conf", "ssl"),
)
"""A typical host, for showing a plan without asking this one."""


class Identity(NamedTuple):
    """As whom the program runs, inside."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def options(order: Order, facts: Facts, identity: Identity, userns: int | None) -> list[str]:
    """bwrap's options but for the descriptors of filters and status. ``userns`` None: bwrap makes its own."""
    line = ["--unshare-user", "--disable-userns"] if userns is None else _join(userns)
    line += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup"]
    if order["network"] != "host":
        line.append("--unshare-net")
    line += ["--uid", str(identity.uid), "--gid", str(identity.gid), "--hostname", order["hostname"]]
    line += ["--cap-drop", "ALL", "--die-with-parent", "--clearenv"]
    if not order["tty"]:
        line.append("--new-session")
    for name, value in {"HOME": identity.home, **order["env"]}.items():
        line += ["--setenv", name, value]
    line += _root(order, facts)
    line += _kernel_views(facts)
    line += ["--ro-bind", staged_file(BOOT_ID), BOOT_ID, "--remount-ro", "/proc"]
    for path in sorted(set(order["files"]) - {BOOT_ID}):
        line += ["--bind" if order["tree"] else "--ro-bind", staged_file(path), path]
    for index, bind in enumerate(order["binds"]):
        line += ["--ro-bind" if bind["read_only"] else "--bind", staged_bind(index), bind["target"]]
    if not order["tree"]:
        line += ["--remount-ro", "/"]
    return [*line, "--chdir", order["workdir"]]


def _join(userns: int) -> list[str]:
    """bwrap leaves the namespace's descriptor to the program; as its --block-fd it is closed (nothing can be read)."""
    return ["--userns", str(userns), "--block-fd", str(userns)]


def staged_file(path: str) -> str:
    """Where the text shown at ``path`` inside waits."""
    return f"{STAGE}/file{path.replace('/', '-')}"


def staged_bind(index: int) -> str:
    """Where the source of a bind waits."""
    return f"{STAGE}/bind-{index}"


def _root(order: Order, facts: Facts) -> list[str]:
    temporary = ["--perms", "1777", "--size", str(order["memory"] // 2), "--tmpfs", "/tmp"]  # noqa: S108 - inside
    if order["tree"]:
        if order["read_only"]:
            return ["--ro-bind", STAGE_ROOT, "/", *temporary]
        return ["--bind", STAGE_ROOT, "/"]
    line: list[str] = []
    for name, link in facts.folders.items():
        line += ["--symlink", link, f"/{name}"] if link else ["--ro-bind", f"/{name}", f"/{name}"]
    for name in facts.files:
        line += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    return [*line, *temporary, "--size", str(_SHM_SIZE), "--tmpfs", "/run"]


def _kernel_views(facts: Facts) -> list[str]:
    line = ["--dev", "/dev", "--perms", "1777", "--size", str(_SHM_SIZE), "--tmpfs", "/dev/shm"]  # noqa: S108 - inside
    line += ["--remount-ro", "/dev", "--proc", "/proc"]
    for name in facts.masked:
        line += ["--ro-bind", "/dev/null", f"/proc/{name}"]
    for name in facts.masked_folders:
        line += ["--size", "4096", "--tmpfs", f"/proc/{name}", "--remount-ro", f"/proc/{name}"]
    return line
