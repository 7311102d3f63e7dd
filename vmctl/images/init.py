"""The init of image machines: found where it was shipped or built before, else compiled from ``guest/*.c``."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from vmctl.errors import BackendUnavailable, VmctlError

SOURCES = Path(__file__).parent / "guest"
_FLAGS = ("-static", "-Os", "-s", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE")
# musl-gcc hides the system's headers; the kernel's are needed, after musl's own.
_HEADERS = ("-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu")
_TIMEOUT = 120.0


def source_hash() -> str:
    """The identity of the sources; the binary carries it, so that an outdated one is never used."""
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for file in _source_files():
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:32]


def _source_files() -> list[Path]:
    return sorted(file for file in SOURCES.iterdir() if file.suffix in (".c", ".h"))


def ensure_init(cache: Path) -> Path:
    """The init's path: the shipped one if it fits the sources, else one built (once) below ``cache``.

    Raises BackendUnavailable without a compiler, VmctlError when compiling fails.
    """
    identity = source_hash()
    shipped = SOURCES / "vmctl-init"
    if shipped.exists() and identity.encode() in shipped.read_bytes():
        return shipped
    built = cache / f"vmctl-init-{identity}"
    if not built.exists():
        build_init(built, identity)
    return built


def build_init(target: Path, identity: str) -> None:
    """Compile into ``target``, which appears complete or not at all."""
    compiler = shutil.which("musl-gcc")
    if compiler is None:
        raise BackendUnavailable("no compiler for the machines' init", hint="apt-get install musl-tools gcc")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        output = Path(folder) / "vmctl-init"
        sources = [str(file) for file in _source_files() if file.suffix == ".c"]
        command = (compiler, *_FLAGS, *_HEADERS, f'-DVMCTL_SOURCE_HASH="{identity}"', "-o", str(output), *sources)
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no message"])[0]
            hint = "apt-get install musl-tools gcc linux-libc-dev"
            raise VmctlError(f"compiling the machines' init failed: {reason}", hint=hint)
        os.rename(output, target)
