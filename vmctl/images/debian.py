"""A minimal Debian or Ubuntu by mmdebstrap, from the archive that this host's apt is set up for."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import BinaryIO, cast

from vmctl.errors import UsageError, VmctlError
from vmctl.images import oci
from vmctl.images.layer import copy_rootfs
from vmctl.images.layout import BlobWriter
from vmctl.images.progress import Progress
from vmctl.images.recipe import BuildRecipe
from vmctl.images.tools import failure, find_tool, run_tool
from vmctl.model.process import DEFAULT_PATH

_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_DAY = 86400
_OPTIONS = (
    "--variant=minbase",
    "--format=tar",
    # As in Debian's own slim images: nobody reads manuals in an image; licences stay.
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/info/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
)
_SOURCE = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"

RUN = oci.RunConfig(cmd=["bash"], env=[f"PATH={DEFAULT_PATH}"])


def write_layer(recipe: BuildRecipe, sink: BlobWriter, folder: Path, limit: int, progress: Progress) -> int:
    """Write the root file system; its time stamp: SOURCE_DATE_EPOCH, or the beginning of this day.

    The same archive, recipe and time stamp give the same bytes. Raises BackendUnavailable without mmdebstrap,
    UsageError for names that are none, VmctlError with its last words when mmdebstrap fails.
    """
    for package in recipe.include:
        if not _NAME.fullmatch(package):
            raise UsageError(f"'{package}' is not a package name", hint="packages are separated by commas")
    suite = recipe.suite or _host_suite()
    if not _NAME.fullmatch(suite):
        raise UsageError(f"'{suite}' is not the name of a suite", hint="such as bookworm or noble")
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time() // _DAY * _DAY)
    folder.chmod(0o711)  # apt downloads as a user of its own
    # Whatever ends vmctl ends the build.
    command = [find_tool("setpriv"), "--pdeathsig", "TERM", find_tool("mmdebstrap"), *_OPTIONS]
    if recipe.include:
        command.append("--include=" + ",".join(sorted(recipe.include)))
    command += [suite, "-", "-"]
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "LC_ALL": "C.UTF-8", "TMPDIR": str(folder)}
    with tempfile.TemporaryFile(dir=folder) as sources, tempfile.TemporaryFile(dir=folder) as log:
        sources.write("".join(f"{line}\n" for line in _sources(suite)).encode())
        sources.seek(0)
        with subprocess.Popen(
            command, stdin=sources, stdout=subprocess.PIPE, stderr=log, env=env, process_group=0
        ) as process:  # a group of its own, for mmdebstrap ends with all its group
            try:
                _copy(process, sink, limit, progress)
            except UsageError:
                if not process.wait():
                    raise
            except BaseException:
                process.terminate()
                raise
            code = process.wait()
        if code:
            log.seek(0)
            said = log.read().decode(errors="replace")
            raise failure("mmdebstrap", code, said, folder, _hint(said))
    return epoch


def _copy(process: subprocess.Popen[bytes], sink: BlobWriter, limit: int, progress: Progress) -> None:
    """The tar arrives at the end, after all packages are set up; a failed mmdebstrap shows as a damaged one."""
    if process.stdout is None:
        raise VmctlError("mmdebstrap could not be started")
    progress("installing packages", 0, None)
    copy_rootfs(cast(BinaryIO, process.stdout), sink, limit)
    process.stdout.read()
    progress("installing packages", sink.size, sink.size)


def _hint(said: str) -> str:
    if "chroot mode" in said:
        return "run as root, or give this user a range of user ids in /etc/subuid and /etc/subgid"
    return "check suite and packages, then 'apt-get update'"


def _host_suite() -> str:
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    if not suite:
        raise UsageError("this host's distribution has no suite name", hint="say one: --suite bookworm")
    return suite


def _sources(suite: str) -> list[str]:
    """Lines for apt: what this host has for ``suite``; for a suite it does not use, the same mirror's main archive.

    Only the distribution's own archives count: other sources of the host are none of the image's business.
    """
    identity = platform.freedesktop_os_release()
    origin = {"debian": "Debian", "ubuntu": "Ubuntu"}.get(identity.get("ID", ""))
    if origin is None:
        raise UsageError("images of Debian are built on Debian and Ubuntu", hint="use 'vmctl image import' instead")
    listed = run_tool(
        "apt-get", ["indextargets", "--format", _SOURCE, "Created-By: Packages", f"Origin: {origin}"], folder=Path("/")
    )
    lines = list(dict.fromkeys(listed.splitlines()))
    own = [line for line in lines if re.fullmatch(rf"{re.escape(suite)}(-updates|-security)?", line.split()[2])]
    if own:
        return own
    host = identity.get("VERSION_CODENAME", "")
    fields = [line.split() for line in lines]
    others = [f"deb {uri} {suite} {component}" for _, uri, release, component in fields if release == host]
    if not others:
        raise VmctlError("apt on this host knows no archive to build from", hint="apt-get update")
    return others
