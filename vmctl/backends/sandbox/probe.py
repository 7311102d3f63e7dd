"""What this host offers to sandboxes, asked for real."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from vmctl.backends.sandbox import cgroup
from vmctl.model.observed import Health, Probe

PROGRAM = "bwrap"
_OLDEST = (0, 8)
_TIMEOUT = 10.0
_INSTALL = "apt-get install bubblewrap"
_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_COUNT = Path("/proc/sys/user/max_user_namespaces")
_DEBIAN_SWITCH = Path("/proc/sys/kernel/unprivileged_userns_clone")


def find_bwrap() -> str | None:
    """bubblewrap's path."""
    return shutil.which(PROGRAM)


def probe_host() -> Probe:
    """Make a sandbox; say what came of it."""
    program = find_bwrap()
    if program is None:
        return Probe(health=Health.UNDETECTED, reason="bubblewrap is not installed", hint=_INSTALL)
    try:
        version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        line = [program, "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--", "/bin/true"]
        trial = subprocess.run(line, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Probe(health=Health.UNHEALTHY, reason=f"bubblewrap does not run: {error}", hint=_INSTALL)
    number = version.stdout.strip().removeprefix("bubblewrap ")
    facts = _facts()
    if _as_numbers(number) < _OLDEST:
        reason = f"bubblewrap {number} is too old: it lacks --disable-userns, --size or --add-seccomp-fd"
        return Probe(health=Health.UNHEALTHY, version=number, reason=reason, hint="install 0.8 or later", facts=facts)
    if trial.returncode:
        reason = f"bubblewrap cannot make a sandbox: {trial.stderr.strip() or trial.returncode}"
        return Probe(health=Health.UNHEALTHY, version=number, reason=reason, hint=_remedy(), facts=facts)
    return Probe(health=Health.HEALTHY, version=number, facts=facts)


def _facts() -> dict[str, str]:
    group = cgroup.plan_group("probe")
    where = {1: "cgroup v1", 2: "cgroup v2", 0: "no cgroup"}[cgroup.version()]
    weaker = "no group writable: memory is limited for each process only, CPU time not at all"
    return {
        "identity": "root: 65536 host ids of its own for each sandbox" if os.geteuid() == 0 else "the caller's own id",
        "limits": where if group else f"{where}, {weaker}",
        "seccomp": "Docker's default profile and vmctl's deny list",
    }


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _remedy() -> str:
    """The usual reasons why user namespaces are refused, each with what to type."""
    if _value(_APPARMOR) == "1":
        return "AppArmor forbids it: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    if _value(_DEBIAN_SWITCH) == "0":
        return "sysctl -w kernel.unprivileged_userns_clone=1"
    if _value(_COUNT) == "0":
        return "sysctl -w user.max_user_namespaces=10000"
    return "user namespaces must be allowed here; inside a container that takes a privileged one"


def _value(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
