"""Sandboxes for tests: their own folder, a tree of busybox, and nothing left afterwards."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.contract.harness import Outcome, pump, until
from vmctl.backends.base import Body, Ref
from vmctl.backends.sandbox.adapter import SandboxBackend
from vmctl.model.ids import new_id
from vmctl.model.image import ImageConfig, PreparedImage
from vmctl.model.process import DEFAULT_PATH, Process, resolve_process
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Kind

_USERS = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/sh\n"
_APPLETS = ("cat chmod cp dd echo env head hostname id ls mkdir mknod mount ps readlink rm sh sleep stat stty tar "
            "touch true tty wc yes")


class Run(NamedTuple):
    """An attached run and the body it leaves."""

    outcome: Outcome
    ref: Ref


class Sandboxes:
    """A backend with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backend = SandboxBackend(folder)
        self.made: list[Ref] = []

    def body(self, *argv: str, image: PreparedImage | None = None, **wanted: Any) -> Body:
        instance_id = new_id()
        defaults = {"memory": 128 << 20, "cpu_millis": 1000, "pids": 64}
        spec = InstanceSpec(kind=Kind.APP, name="t", command=argv, **(defaults | wanted))
        directory = self.folder / "instances" / instance_id
        process = resolve_process(spec, ImageConfig())
        return Body(id=instance_id, ledger="tests", claim="c", name="t", spec=spec, directory=directory,
                    process=process, image=image)

    def create(self, *argv: str, **wanted: Any) -> Ref:
        body = self.body(*argv, **wanted)
        self.backend.create(body)
        self.made.append(Ref(body.id, body.directory))
        return self.made[-1]

    def start(self, *argv: str, **wanted: Any) -> Ref:
        ref = self.create(*argv, **wanted)
        self.backend.start(ref)
        return ref

    def run(self, *argv: str, stdin: bytes | None = None, **wanted: Any) -> Run:
        ref = self.create(*argv, stdin=stdin is not None, **wanted)
        attachment = self.backend.start(ref, attach=True)
        assert attachment is not None
        return Run(pump(attachment, stdin), ref)

    def exec(self, ref: Ref, *argv: str, stdin: bytes | None = None, **wanted: Any) -> Outcome:
        process = Process(argv=argv, stdin=stdin is not None, env={"PATH": DEFAULT_PATH}, **wanted)
        return pump(self.backend.exec(ref, process), stdin)

    def log(self, ref: Ref) -> bytes:
        return b"".join(record.data for record in self.backend.logs(ref))

    @staticmethod
    def until(condition: Callable[[], object]) -> None:
        until(condition)

    def clean(self) -> None:
        while self.made:
            self.backend.delete(self.made.pop())


def tree_of(folder: Path) -> PreparedImage:
    """An unpacked image: busybox and two users."""
    root = folder / "tree"
    for name in ("bin", "etc", "tmp", "proc", "dev", "root"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static is not installed"
    shutil.copy2(busybox, root / "bin/busybox")
    for applet in _APPLETS.split():
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text(_USERS)
    (root / "etc/group").write_text("root:x:0:\ndaemon:x:1:\n")
    return PreparedImage(name="tree", digest="", config_digest="", config=ImageConfig(), tree=root)


def gone(pid: int, patience: float = 5.0) -> bool:
    """Whether the process has ended; one that is dead and not yet reaped has."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False
