"""The programs the store leaves work to, each with the package that brings it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from vmctl.errors import BackendUnavailable, VmctlError
from vmctl.images.files import disk_full

_PACKAGES = {
    "mmdebstrap": "mmdebstrap",
    "umoci": "umoci",
    "mkfs.erofs": "erofs-utils",
    "busybox": "busybox-static",
    "zstd": "zstd",
    "apt-get": "apt",
    "setpriv": "util-linux",
}


def find_tool(name: str) -> str:
    """The path of program ``name``. Raises BackendUnavailable with what to install."""
    system = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin"))  # not on every user's PATH
    path = shutil.which(name) or shutil.which(name, path=system)
    if path is None:
        raise BackendUnavailable(f"'{name}' is not installed", hint=f"apt-get install {_PACKAGES.get(name, name)}")
    return path


def run_tool(name: str, arguments: Sequence[str | Path], *, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Run ``name``, which writes below ``folder``, to its end; its stdout. Raises VmctlError with its last words."""
    command = [find_tool(name), *map(str, arguments)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=_env(env), check=False
    )
    if done.returncode != 0:
        raise failure(name, done.returncode, done.stderr, folder, f"run by hand: {' '.join(command)}")
    return done.stdout


def failure(name: str, code: int, output: str, folder: Path, hint: str) -> VmctlError:
    """The error for a tool that ended with ``code`` and said ``output``."""
    if "No space left on device" in output:
        return disk_full(folder)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    words = next((line for line in lines if line.startswith("E:")), lines[-1] if lines else "it said nothing")
    return VmctlError(f"{name} failed ({code}): {words[:300]}", hint=hint, details={"output": "\n".join(lines[-20:])})


def _env(extra: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8", **(extra or {})}
