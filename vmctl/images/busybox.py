"""The smallest useful image: this host's static busybox with a link for each of its applets."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from vmctl.errors import BackendUnavailable
from vmctl.images import oci
from vmctl.images.layer import LayerWriter
from vmctl.images.layout import BlobWriter
from vmctl.images.tools import find_tool
from vmctl.model.process import DEFAULT_PATH

_FOLDERS = {
    "bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "lib": 0o755, "mnt": 0o755, "opt": 0o755, "proc": 0o555,
    "root": 0o700, "run": 0o755, "sbin": 0o755, "srv": 0o755, "sys": 0o555, "tmp": 0o1777, "usr": 0o755,
    "usr/bin": 0o755, "usr/sbin": 0o755, "var": 0o755, "var/log": 0o755, "var/tmp": 0o1777,
}  # fmt: skip
_FILES = {
    "etc/group": "root:x:0:\ndaemon:x:1:\ntty:x:5:\nusers:x:100:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/os-release": 'ID=busybox\nNAME="BusyBox"\nPRETTY_NAME="BusyBox"\n',
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/profile": f"export PATH={DEFAULT_PATH}\n",
    "etc/resolv.conf": "",
}
_PROGRAM = "bin/busybox"
_INTERPRETER = 3  # PT_INTERP: the program header that asks for a dynamic loader

RUN = oci.RunConfig(cmd=["sh"], env=[f"PATH={DEFAULT_PATH}"])


def write_layer(sink: BlobWriter) -> int:
    """Write the root file system; its time stamp, which is the program's. Raises BackendUnavailable without busybox."""
    program = Path(find_tool("busybox"))
    content = program.read_bytes()
    if not _is_static(content):
        raise BackendUnavailable("this host's busybox needs shared libraries", hint="apt-get install busybox-static")
    listed = subprocess.run([program, "--list-full"], capture_output=True, text=True, check=True).stdout.split()
    mtime = int(program.stat().st_mtime)
    entries: dict[str, tuple[int, bytes | None]] = {name: (mode, None) for name, mode in _FOLDERS.items()}
    entries |= {name: (0o644, text.encode()) for name, text in _FILES.items()}
    entries[_PROGRAM] = (0o755, content)
    applets = {name for name in listed if name not in entries and name.rpartition("/")[0] in _FOLDERS}
    writer = LayerWriter(sink, mtime)
    for name in sorted({*entries, *applets}):
        if name in applets:
            writer.symlink(name, f"/{_PROGRAM}")
        else:
            mode, data = entries[name]
            if data is None:
                writer.folder(name, mode)
            else:
                writer.file(name, data, mode)
    writer.close()
    return mtime


def _is_static(program: bytes) -> bool:
    """Whether a 64-bit little-endian ELF program runs without a loader."""
    if program[:6] != b"\x7fELF\x02\x01":
        return False
    (table,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    kinds = [struct.unpack_from("<I", program, table + number * size)[0] for number in range(count)]
    return _INTERPRETER not in kinds
