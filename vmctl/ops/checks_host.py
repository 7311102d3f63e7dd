"""``vmctl doctor``: what the host's kernel gives, tried for real wherever trying is harmless."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from vmctl.model.views import Check
from vmctl.units import format_size

_CGROUP = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpu", "memory", "pids")
_GROUPS = ("libvirt", "docker")
_LEAST_DISK = 2 << 30
_TRY_SECONDS = 10.0


def host_checks(state: Path) -> Iterator[Check]:
    """Permissions, disk, cgroups, name spaces, filters. Each failing check says what to type."""
    yield permissions()
    yield reach_of_qemu(state)
    yield free_disk(state)
    yield cgroups()
    yield user_namespaces()
    yield apparmor()
    yield seccomp()
    yield bubblewrap()


def permissions() -> Check:
    """Root may everything; others need the groups that own the daemons' sockets."""
    if os.geteuid() == 0:
        return Check(part="permissions", ok=True, detail="root")
    import grp
    import pwd

    names = {grp.getgrgid(gid).gr_name for gid in os.getgroups()}
    user = pwd.getpwuid(os.geteuid()).pw_name
    lacking = [group for group in _GROUPS if group not in names]
    if not lacking:
        return Check(part="permissions", ok=True, detail=f"{user}, in groups {', '.join(_GROUPS)}")
    return Check(
        part="permissions",
        ok=False,
        detail=f"{user} is not in group {' and '.join(lacking)}",
        remedy=f"sudo usermod -aG {','.join(lacking)} {user}, then log in again",
        needed=False,
    )


def reach_of_qemu(state: Path) -> Check:
    """It can be written; and QEMU of the system daemon, a user of its own, can pass through every folder."""
    part = "state folder"
    closed = [folder for folder in (state, *state.parents) if folder.exists() and not folder.stat().st_mode & 0o001]
    if closed and os.geteuid() == 0:
        return Check(
            part=part,
            ok=False,
            detail=f"{closed[-1]} is closed to QEMU's user",
            remedy=f"chmod o+x {closed[-1]}, or set VMCTL_STATE_DIR to a folder that others may enter",
        )
    present = next(folder for folder in (state, *state.parents) if folder.exists())
    if not os.access(present, os.W_OK):
        remedy = "run as its owner, or set VMCTL_STATE_DIR to a folder that can be written"
        return Check(part=part, ok=False, detail=f"{present} cannot be written", remedy=remedy)
    return Check(part=part, ok=True, detail=str(state))


def free_disk(state: Path) -> Check:
    """Room for images and for what instances write."""
    present = next(folder for folder in (state, *state.parents) if folder.exists())
    free = shutil.disk_usage(present).free
    enough = free >= _LEAST_DISK
    remedy = f"make {format_size(_LEAST_DISK)} free: vmctl system df, vmctl system prune"
    detail = f"{format_size(free)} free below {present}"
    return Check(part="free disk", ok=enough, detail=detail, remedy="" if enough else remedy)


def cgroups() -> Check:
    """Which hierarchy holds the controllers, and whether a group can be made in it."""
    part = "cgroups"
    unified = (_CGROUP / "cgroup.controllers").is_file()
    if unified:
        have = set((_CGROUP / "cgroup.controllers").read_text().split())
        parents = [_own_group()]
    else:
        have = {name for name in _CONTROLLERS if (_CGROUP / name / "tasks").is_file()}
        parents = [_CGROUP / name for name in sorted(have)]
    version = "v2" if unified else "v1"
    if lacking := [name for name in _CONTROLLERS if name not in have]:
        return Check(
            part=part,
            ok=False,
            detail=f"{version} without {', '.join(lacking)}",
            remedy="boot with systemd.unified_cgroup_hierarchy=1 cgroup_enable=memory, or mount the controllers",
        )
    if locked := [folder for folder in parents if not _can_make_group(folder)]:
        delegated = " or in a delegated session: systemd-run --user --scope -p Delegate=yes bash" if unified else ""
        return Check(
            part=part,
            ok=False,
            detail=f"{version}, but no group can be made below {locked[0]}",
            remedy="run vmctl as root" + delegated,
            needed=os.geteuid() == 0,
        )
    return Check(part=part, ok=True, detail=f"{version} with {', '.join(_CONTROLLERS)}, writable")


def _own_group() -> Path:
    """The v2 group below which this caller may make others: root's is the top."""
    if os.geteuid() == 0:
        return _CGROUP
    path = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip()
    return _CGROUP / path.lstrip("/")


def _can_make_group(parent: Path) -> bool:
    group = parent / f"vmctl-doctor-{os.getpid()}"
    try:
        group.mkdir()
        group.rmdir()
    except OSError:
        return False
    return True


def user_namespaces() -> Check:
    """Made in a child, as bubblewrap makes them."""
    works, words = _try("unshare", "--user", "--map-root-user", "true")
    remedy = "sudo sysctl -w user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1"
    return Check(
        part="user namespaces",
        ok=works,
        detail="a child can make one" if works else words,
        remedy="" if works else remedy,
    )


def apparmor() -> Check:
    """Ubuntu since 23.10 lets only profiled programs use user namespaces."""
    switch = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    restricted = switch.is_file() and switch.read_text().strip() == "1"
    return Check(
        part="AppArmor",
        ok=not restricted,
        detail="restricts user namespaces of ordinary users" if restricted else "does not restrict user namespaces",
        remedy="sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" if restricted else "",
        needed=os.geteuid() != 0,
    )


def seccomp() -> Check:
    """The kernel's filters, and the library that writes them."""
    part = "seccomp"
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    if not actions.is_file() or "errno" not in actions.read_text().split():
        remedy = "use a kernel with CONFIG_SECCOMP_FILTER"
        return Check(part=part, ok=False, detail="the kernel has no system call filters", remedy=remedy)
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return Check(part=part, ok=False, detail="libseccomp is missing", remedy="apt-get install libseccomp2")
    return Check(part=part, ok=True, detail=f"filters in kernel {platform.release()}, libseccomp")


def bubblewrap() -> Check:
    """Found, and able to make all its namespaces."""
    part = "bubblewrap"
    if not (program := shutil.which("bwrap")):
        return Check(part=part, ok=False, detail="not installed", remedy="apt-get install bubblewrap")
    version = _try(program, "--version")[1].removeprefix("bubblewrap ")
    works, words = _try(program, "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true")
    if works:
        return Check(part=part, ok=True, detail=f"{version} makes a sandbox")
    return Check(part=part, ok=False, detail=f"{version}: {words}", remedy="see 'user namespaces' and 'AppArmor' above")


def _try(*command: str) -> tuple[bool, str]:
    """Whether ``command`` succeeds, and its last line."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TRY_SECONDS, check=False
        )
    except FileNotFoundError:
        return False, f"{command[0]} is not installed"
    except subprocess.TimeoutExpired:
        return False, f"{command[0]} did not end within {_TRY_SECONDS:.0f} s"
    lines = (done.stdout + done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"{command[0]} ended with {done.returncode}"
