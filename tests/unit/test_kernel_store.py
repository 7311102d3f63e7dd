"""The kernel store without a network: made-up kernels in a made-up /boot."""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vmctl.errors import BackendUnavailable, VmctlError
from vmctl.images import init, kernel
from vmctl.images.initramfs import build_initramfs, module_closure
from vmctl.images.kernel import KernelStore
from vmctl.images.vmlinuz import has_pvh_note, pvh_kernel

VERSION = "6.1.0-9-cloud-amd64"


def make_elf(note_type: int = 18) -> bytes:
    """A 64-bit ELF with one note segment."""
    note = struct.pack("<III", 4, 4, note_type) + b"Xen\0" + bytes(4)
    header = b"\x7fELF\x02\x01".ljust(32, b"\0") + struct.pack("<Q14xHH6x", 64, 56, 1)
    segment = struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(note), len(note), 4)
    return header + segment + note


def make_bzimage(payload: bytes) -> bytes:
    image = bytearray(2048)
    image[0x1F1] = 3
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 0, len(payload) + 4)
    return bytes(image) + payload + bytes(4)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with one cloud kernel, a busybox and an init that need no compiler."""
    modules = tmp_path / "modules" / VERSION
    (modules / "kernel").mkdir(parents=True)
    for name, depends in [
        ("virtio", ""),
        ("virtio_pci", "virtio"),
        ("virtio_console", "virtio"),
        ("virtio_blk", "virtio"),
        ("virtio-rng", "virtio"),
        ("overlay", ""),
    ]:
        (modules / "kernel" / f"{name}.ko").write_bytes(b"\x7fELF\0license=GPL\0depends=%s\0" % depends.encode())
    (modules / "modules.builtin").write_text("kernel/fs/erofs/erofs.ko\n")
    boot = tmp_path / "boot"
    boot.mkdir()
    (boot / f"vmlinuz-{VERSION}").write_bytes(make_bzimage(gzip.compress(make_elf())))
    for name in ("busybox", "init"):
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.setattr(kernel, "find_busybox", lambda: tmp_path / "busybox")
    monkeypatch.setattr(kernel, "ensure_init", lambda cache: tmp_path / "init")
    return tmp_path


def store(host: Path) -> KernelStore:
    return KernelStore(host / "state", boot=host / "boot", modules=host / "modules")


def test_kernel_of_the_host_is_unpacked_and_kept(host: Path) -> None:
    made = store(host).ensure()
    assert made.version == VERSION
    assert made.path.read_bytes() == make_elf()
    assert b"modules/00-virtio.ko" in made.initramfs.read_bytes()
    (host / "boot" / f"vmlinuz-{VERSION}").unlink()
    assert store(host).ensure() == made


def test_a_new_init_makes_a_new_key(host: Path) -> None:
    before = store(host).ensure()
    (host / "init").write_bytes(b"another init")
    after = store(host).ensure()
    assert after.key != before.key
    assert after.path == before.path
    assert before.initramfs.exists()  # machines may be booting from it


def test_many_at_once_agree(host: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len({made.key for made in pool.map(lambda _: store(host).ensure(), range(8))}) == 1
    assert not list((host / "state" / "kernels").glob("tmp-*"))


def test_damaged_record_is_made_anew(host: Path) -> None:
    made = store(host).ensure()
    (host / "state" / "kernels" / "current.json").write_text("{")
    assert store(host).ensure() == made


class Apt:
    """Stands in for apt and dpkg-deb: knows ``packages`` (name -> Depends), and what lies in each."""

    def __init__(self, packages: dict[str, str], download_fails: str = "") -> None:
        self.packages = packages
        self.download_fails = download_fails
        self.downloaded: list[str] = []

    def __call__(self, command: tuple[str, ...], cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        package = command[-1]
        if command[0] == "apt-cache":
            if package in self.packages:
                shown = f"Package: {package}\nDepends: {self.packages[package]}\n"
                return subprocess.CompletedProcess((), 0, shown, "")
            return subprocess.CompletedProcess((), 100, "", f"E: no {package}\n")
        if command[0] == "apt-get":
            if self.download_fails:
                return subprocess.CompletedProcess((), 100, "", self.download_fails)
            self.downloaded.append(package)
            (cwd / f"{package}.deb").touch()
            return subprocess.CompletedProcess((), 0, "", "")
        tree = Path(package)
        if "linux-modules" in command[2] or "cloud" in command[2]:
            version = Path(command[2]).stem.split("-", 2)[2]
            shutil.copytree(cwd.parents[2] / "modules" / VERSION, tree / "lib" / "modules" / version)
        if "linux-image" in command[2]:
            (tree / "boot").mkdir(parents=True)
            shutil.copy(cwd.parents[2] / "vmlinuz", tree / "boot" / "vmlinuz-1")
        return subprocess.CompletedProcess((), 0, "", "")


@pytest.fixture
def apt_host(host: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``host`` without a kernel in /boot."""
    (host / "boot" / f"vmlinuz-{VERSION}").rename(host / "vmlinuz")
    monkeypatch.setattr(kernel.shutil, "which", lambda name: f"/usr/bin/{name}")
    return host


def test_without_a_kernel_and_network(apt_host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = Apt({"linux-image-cloud-amd64": f"linux-image-{VERSION} (= 1)"}, "E: Could not resolve 'mirror.invalid'\n")
    monkeypatch.setattr(kernel.subprocess, "run", apt)
    with pytest.raises(BackendUnavailable, match="Could not resolve") as caught:
        store(apt_host).ensure()
    assert "apt-get update" in caught.value.hint
    assert not list((apt_host / "state" / "kernels").glob("tmp-*"))


def test_apt_that_knows_no_kernel(apt_host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel.subprocess, "run", Apt({}))
    with pytest.raises(BackendUnavailable, match="linux-image-cloud-amd64 or linux-image-virtual"):
        store(apt_host).ensure()


def test_debian_has_the_modules_with_the_kernel(apt_host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = Apt({"linux-image-cloud-amd64": f"linux-image-{VERSION} (= 1)"})
    monkeypatch.setattr(kernel.subprocess, "run", apt)
    assert store(apt_host).ensure().version == VERSION
    assert apt.downloaded == [f"linux-image-{VERSION}"]


def test_ubuntu_has_the_modules_apart(apt_host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = "6.8.0-41-generic"
    names = [f"linux-image-{version}", f"linux-modules-{version}"]
    apt = Apt({"linux-image-virtual": f"{names[0]}, linux-headers-virtual", names[1]: "nothing"})
    monkeypatch.setattr(kernel.subprocess, "run", apt)
    assert store(apt_host).ensure().version == version
    assert apt.downloaded == names


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init.shutil, "which", lambda name: None)
    with pytest.raises(BackendUnavailable, match="compiler") as caught:
        init.build_init(tmp_path / "out", "hash")
    assert "musl-tools" in caught.value.hint


def test_modules_come_after_what_they_need(host: Path) -> None:
    names = list(module_closure(host / "modules" / VERSION))
    assert names == ["virtio", "virtio_pci", "virtio_console", "virtio_blk", "virtio_rng", "overlay"]


def test_missing_module_is_named(host: Path) -> None:
    (host / "modules" / VERSION / "kernel" / "overlay.ko").unlink()
    with pytest.raises(VmctlError, match="overlay"):
        module_closure(host / "modules" / VERSION)


def test_initramfs_is_a_cpio_and_the_same_twice(tmp_path: Path) -> None:
    archive = build_initramfs(b"INIT", b"BUSYBOX", {"a": b"one", "b": b"two!"})
    assert archive == build_initramfs(b"INIT", b"BUSYBOX", {"a": b"one", "b": b"two!"})
    subprocess.run(["/bin/busybox", "cpio", "-id"], input=archive, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "init").read_bytes() == b"INIT"
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755
    assert sorted(file.name for file in (tmp_path / "modules").iterdir()) == ["00-a.ko", "01-b.ko"]


@pytest.mark.parametrize(
    "image",
    [b"", b"MZ" * 4000, make_bzimage(b"unknown packing"), make_bzimage(b"\x1f\x8bbroken"), make_bzimage(make_elf(1))],
    ids=["empty", "no-header", "unknown", "broken", "no-note"],
)
def test_what_has_no_pvh_entry_is_booted_as_it_is(image: bytes) -> None:
    assert pvh_kernel(image) is None


def test_pvh_note_is_found() -> None:
    assert has_pvh_note(make_elf())
    assert pvh_kernel(make_bzimage(make_elf())) == make_elf()
    assert not has_pvh_note(make_elf()[:100])
