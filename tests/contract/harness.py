"""What the contract suite needs of each backend: bodies of its kind, from one image, in a folder of their own."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmctl.backends.base import Attachment, Body, Ref, Stdio, TakesImages
from vmctl.backends.registry import open_backend
from vmctl.images.store import ImageStore
from vmctl.model.ids import new_id
from vmctl.model.image import ImageConfig, PreparedImage
from vmctl.model.process import Process, resolve_process
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Exit, Kind

KINDS = {"fake": Kind.APP, "docker": Kind.CONTAINER, "sandbox": Kind.APP, "libvirt": Kind.VM}
LEDGER = "contract-suite"
IDLE = ("sh", "-c", "trap 'exit 7' TERM; echo ready; echo complaint >&2; sleep 600 & wait")
STUBBORN = ("sh", "-c", "trap '' TERM; echo ready; sleep 600")
PATH = {"PATH": "/bin:/usr/bin:/sbin:/usr/sbin"}


@dataclass(frozen=True)
class Outcome:
    """How an attached session went."""

    exit: Exit | None
    out: bytes
    err: bytes

    @property
    def code(self) -> int:
        assert self.exit is not None, f"the session was cut: {self}"
        return self.exit.code


@dataclass
class Harness:
    """One backend under test; every body it orders is deleted by ``clean``."""

    name: str
    folder: Path
    image: PreparedImage | None
    backend: Any  # a Backend, and every optional protocol that it declares
    made: list[Ref] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        return KINDS[self.name]

    def body(self, *argv: str, stdin: bool = False, tty: bool = False, **wanted: Any) -> Body:
        """The order for a body that runs ``argv``; not made yet."""
        instance_id = new_id()
        spec = InstanceSpec(
            kind=self.kind,
            name=f"contract-{instance_id[-6:]}",
            backend=self.name,
            image="busybox",
            command=argv,
            stdin=stdin,
            tty=tty,
            **{"memory": 256 << 20, "cpu_millis": 1000, "pids": 128, "network": "none"} | wanted,
        )
        directory = self.folder / "instances" / instance_id  # as vmctl.paths has it
        self.made.append(Ref(instance_id, directory))
        return Body(
            id=instance_id,
            ledger=LEDGER,
            claim=new_id(),
            name=spec.name,
            spec=spec,
            directory=directory,
            process=resolve_process(spec, self.image.config if self.image else ImageConfig(env=("PATH=/bin",))),
            image=self.image,
        )

    def create(self, *argv: str, **wanted: Any) -> Ref:
        body = self.body(*argv, **wanted)
        self.backend.create(body)
        return ref_of(body)

    def start(self, *argv: str, **wanted: Any) -> Ref:
        """A body that runs ``argv`` and has written its first line, if it is one of ours that does."""
        ref = self.create(*argv, **wanted)
        self.backend.start(ref)
        if argv in (IDLE, STUBBORN):
            until(lambda: b"ready" in self.log(ref))
        return ref

    def run(self, *argv: str, stdin: bytes | None = None, **wanted: Any) -> tuple[Outcome, Ref]:
        """Start attached, to the end."""
        ref = self.create(*argv, stdin=stdin is not None, **wanted)
        attachment = self.backend.start(ref, attach=True)
        assert attachment is not None
        return pump(attachment, stdin), ref

    def exec(self, ref: Ref, *argv: str, stdin: bytes | None = None, **process: Any) -> Outcome:
        wanted = {"env": PATH} | process
        attachment = self.backend.exec(ref, Process(argv=argv, stdin=stdin is not None, **wanted))
        return pump(attachment, stdin)

    def log(self, ref: Ref, **options: Any) -> bytes:
        return b"".join(record.data for record in self.backend.logs(ref, **options))

    def clean(self) -> None:
        while self.made:
            self.backend.delete(self.made.pop())


def ref_of(body: Body) -> Ref:
    return Ref(body.id, body.directory)


def pump(attachment: Attachment, stdin: bytes | None = None, **stdio: Any) -> Outcome:
    """Forward ``stdin`` and collect both outputs."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as source:
        source.write(stdin or b"")
        source.seek(0)
        try:
            fd = None if stdin is None else source.fileno()
            end = attachment.pump(Stdio(fd, out.fileno(), err.fileno(), **stdio))
        finally:
            attachment.close()
        return Outcome(end, *(read_all(file.fileno()) for file in (out, err)))


def read_all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def until(condition: Callable[[], object], timeout: float = 15.0) -> None:
    """Wait for ``condition``; AssertionError after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@contextmanager
def harness(name: str, root: Path, images: ImageStore | None) -> Iterator[Harness]:
    """The harness for backend ``name``, with its image prepared; afterwards nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix=f"c-{name}-", dir=root))
    folder.chmod(0o711)
    backend = open_backend(name, folder)
    image = None
    if backend.image_form is not None:
        assert images is not None
        image = images.prepare("busybox", backend.image_form)
        if isinstance(backend, TakesImages) and not backend.has_image(image.config_digest):
            backend.load_image(images.docker_archive("busybox"))
    one = Harness(name, folder, image, backend)
    try:
        yield one
    finally:
        one.clean()
        backend.close()
