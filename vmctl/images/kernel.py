"""The kernel of image machines, with its initramfs: found on the host or fetched, prepared once, kept in the state.

``python -m vmctl.images.kernel`` prepares it (used by set-up).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from vmctl.errors import BackendUnavailable, VmctlError
from vmctl.images.init import ensure_init
from vmctl.images.initramfs import build_initramfs, module_closure
from vmctl.images.vmlinuz import pvh_kernel
from vmctl.model.image import Kernel
from vmctl.paths import default_paths

PACKAGES = ("linux-image-cloud-amd64", "linux-image-virtual")
"""Debian's and Ubuntu's names for "the newest kernel for virtual machines"; the first that apt knows is taken."""
_INSTALLED = ("vmlinuz-*-cloud-amd64", "vmlinuz-*-generic")
_HINT = f"check the network and 'apt-get update', or install {' or '.join(PACKAGES)}"
_TIMEOUT = 300.0
_FORMAT = 1  # of this folder's content and of the initramfs; a new number has everything made anew

Progress = Callable[[str], None]


class _Record(msgspec.Struct, frozen=True):
    """What ``current.json`` says: the kernel in use, and the inputs it was made from."""

    format: int
    version: str
    kernel: str
    initramfs: str
    key: str
    inputs: dict[str, tuple[int, int]]  # path -> size, modification time in ns


class _Source(msgspec.Struct, frozen=True):
    """A kernel image and its folder of modules, unpacked somewhere."""

    image: Path
    modules: Path


class KernelStore:
    """Kernels below ``<state>/kernels``: ``<version>/kernel``, ``<version>/initramfs-<hash>``, ``current.json``.

    Any number of processes may call ``ensure`` at the same time: one prepares, the others wait.
    """

    def __init__(self, state: Path, *, boot: Path = Path("/boot"), modules: Path = Path("/lib/modules")) -> None:
        self._root = state / "kernels"
        self._boot = boot
        self._modules = modules

    def ensure(self, progress: Progress | None = None) -> Kernel:
        """The kernel to boot image machines with; prepared at first use (seconds, and a download of 27 MB).

        Raises BackendUnavailable (no network, no compiler, no busybox), VmctlError.
        """
        if (kernel := self._current()) is not None:
            return kernel
        try:
            self._root.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise VmctlError(
                f"cannot create {self._root}: {error.strerror}", hint="run as root, or set VMCTL_STATE_DIR"
            ) from error
        with _locked(self._root / "lock"):
            return self._current() or self._prepare(progress or (lambda message: None))

    def _current(self) -> Kernel | None:
        """What was prepared before, unless an input has changed since."""
        try:
            record = msgspec.json.decode((self._root / "current.json").read_bytes(), type=_Record)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        if record.format != _FORMAT or any(_stamp(path) != stamp for path, stamp in record.inputs.items()):
            return None
        kernel, initramfs = self._root / record.kernel, self._root / record.initramfs
        if not (kernel.exists() and initramfs.exists()):
            return None
        return Kernel(version=record.version, path=kernel, initramfs=initramfs, key=record.key)

    def _prepare(self, progress: Progress) -> Kernel:
        busybox = find_busybox()
        init = ensure_init(self._root)
        prepared = self._prepared() or self._prepare_kernel(progress)
        version = prepared.name
        modules = {file.stem.split("-", 1)[1]: file.read_bytes() for file in sorted(prepared.glob("modules/*.ko"))}
        archive = build_initramfs(init.read_bytes(), busybox.read_bytes(), modules)
        initramfs = prepared / f"initramfs-{hashlib.sha256(archive).hexdigest()[:16]}"
        _write(initramfs, archive)
        with (prepared / "kernel").open("rb") as stream:
            kernel_hash = hashlib.file_digest(stream, "sha256").digest()
        key = hashlib.sha256(kernel_hash + hashlib.sha256(archive).digest()).hexdigest()
        guest = Path(__file__).parent / "guest"
        inputs = [busybox, init, *guest.glob("*.[ch]")]
        record = _Record(
            format=_FORMAT,
            version=version,
            kernel=f"{version}/kernel",
            initramfs=f"{version}/{initramfs.name}",
            key=key,
            inputs={str(path): _stamp(str(path)) for path in inputs},
        )
        _write(self._root / "current.json", msgspec.json.encode(record))
        return Kernel(version=version, path=prepared / "kernel", initramfs=initramfs, key=key)

    def _prepared(self) -> Path | None:
        """The newest kernel unpacked before."""
        folders = [folder for folder in self._root.iterdir() if (folder / f"complete-{_FORMAT}").exists()]
        return max(folders, key=lambda folder: _version_key(folder.name), default=None)

    def _prepare_kernel(self, progress: Progress) -> Path:
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=self._root) as scratch:
            source = self._installed() or _fetch(Path(scratch), progress)
            target = self._root / source.modules.name
            made = Path(scratch) / "made"
            (made / "modules").mkdir(parents=True)
            image = source.image.read_bytes()
            elf = pvh_kernel(image)
            progress(f"kernel {target.name}: {'unpacked' if elf else 'used as it is'}, SHA-256 {_short(image)}")
            (made / "kernel").write_bytes(elf or image)
            for number, (name, content) in enumerate(module_closure(source.modules).items()):
                (made / "modules" / f"{number:02}-{name}.ko").write_bytes(content)
            (made / f"complete-{_FORMAT}").touch()
            made.chmod(0o755)
            if target.exists():
                shutil.rmtree(target)
            made.rename(target)
        return target

    def _installed(self) -> _Source | None:
        """The newest such kernel that the host has in /boot, if its modules are there and it can be read."""
        found = [image for pattern in _INSTALLED for image in self._boot.glob(pattern)]
        images = sorted(found, key=lambda file: _version_key(file.name), reverse=True)
        for image in images:
            modules = self._modules / image.name.removeprefix("vmlinuz-")
            if (modules / "modules.builtin").exists() and os.access(image, os.R_OK):
                return _Source(image, modules)
        return None


def find_busybox() -> Path:
    """A static busybox of the host. Raises BackendUnavailable."""
    for candidate in (Path("/bin/busybox"), Path("/usr/bin/busybox")):
        if candidate.exists() and b"/lib64/ld-linux" not in candidate.read_bytes()[:4096]:
            return candidate
    raise BackendUnavailable("no static busybox for image machines", hint="apt-get install busybox-static")


def _fetch(folder: Path, progress: Progress) -> _Source:
    """Download the distribution's cloud kernel (apt checks its signature) and unpack it below ``folder``."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise BackendUnavailable(f"cannot fetch a kernel: no {program} on this host", hint=_HINT)
    image_package = _newest_image(folder)
    progress(f"fetching {image_package} (about 27 MB)")
    for package in (image_package, *_module_packages(image_package, folder)):
        _run(("apt-get", "download", package), folder)
    for file in folder.glob("*.deb"):
        _run(("dpkg-deb", "-x", str(file), str(folder / "tree")), folder)
    image = next(folder.glob("tree/boot/vmlinuz-*"), None)
    modules = next(folder.glob("tree/**/lib/modules/*"), None)
    if image is None or modules is None:
        raise VmctlError(f"package {image_package} holds no kernel", hint=_HINT)
    return _Source(image, modules)


def _newest_image(folder: Path) -> str:
    """The package with the kernel itself, such as linux-image-6.1.0-56-cloud-amd64."""
    for package in PACKAGES:
        shown = _shown(package, folder)
        if found := re.search(r"^Depends:.*?\b(linux-image-[0-9][\w.+-]*)", shown, re.MULTILINE):
            return found[1]
    raise BackendUnavailable(f"apt knows no package {' or '.join(PACKAGES)}", hint=_HINT)


def _module_packages(image_package: str, folder: Path) -> list[str]:
    """Ubuntu keeps the modules apart; in Debian they come with the kernel."""
    version = image_package.removeprefix("linux-image-")
    return [name for name in (f"linux-modules-{version}", f"linux-modules-extra-{version}") if _shown(name, folder)]


def _shown(package: str, folder: Path) -> str:
    """What apt knows of a package; empty if it does not know it."""
    try:
        return _run(("apt-cache", "show", "--no-all-versions", package), folder)
    except BackendUnavailable:
        return ""


def _run(command: tuple[str, ...], folder: Path) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise BackendUnavailable(f"{command[0]} took more than {_TIMEOUT:.0f} s", hint=_HINT) from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BackendUnavailable(f"{' '.join(command[:2])} failed: {reason}", hint=_HINT)
    return done.stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    """A file that is there complete or not at all; readable to the user QEMU runs as."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.chmod(0o644)
    temporary.rename(path)


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _version_key(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def main() -> int:
    """Prepare the kernel in the caller's state folder, and say so."""
    try:
        kernel = KernelStore(default_paths().state).ensure(lambda message: print(message, file=sys.stderr))
    except VmctlError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    print(f"kernel {kernel.version} ready: {kernel.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
