"""Whether the real things that a test needs answer on this machine, asked once per process."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

REAL = ("libvirt", "docker", "sandbox")
"""Markers of tests that need a real daemon or program; the words of VMCTL_TEST_REQUIRE."""


def required() -> frozenset[str]:
    """Markers whose tests must run here: ``VMCTL_TEST_REQUIRE=libvirt,docker,sandbox``. ValueError for other words."""
    words = {word.strip() for word in os.environ.get("VMCTL_TEST_REQUIRE", "").split(",")} - {""}
    if unknown := words - set(REAL):
        raise ValueError(f"VMCTL_TEST_REQUIRE names {', '.join(sorted(unknown))}; known are {', '.join(REAL)}")
    return frozenset(words)


@functools.cache
def why_absent(marker: str) -> str:
    """Empty when the thing behind ``marker`` serves, else the reason in a clause."""
    return {"libvirt": _libvirt, "docker": _docker, "sandbox": _sandbox}[marker]()


def _libvirt() -> str:
    import libvirt

    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    try:
        libvirt.open("qemu:///system").close()
    except libvirt.libvirtError as error:
        return f"libvirt does not answer: {error}"
    return ""


def _docker() -> str:
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=10)
        client.ping()
        client.close()
    except DockerException as error:
        return f"Docker does not answer: {error}"
    return ""


def _sandbox() -> str:
    if os.geteuid() != 0:
        return "no writable cgroup: not root"
    if not (bwrap := shutil.which("bwrap")):
        return "bubblewrap is not installed"
    probe = subprocess.run(
        [bwrap, "--unshare-all", "--ro-bind", "/", "/", "true"], capture_output=True, text=True, timeout=10, check=False
    )
    return f"bubblewrap does not work: {probe.stderr.strip()}" if probe.returncode else ""
