"""The backend contract. One suite (``tests/contract``) runs over every backend, the fake included.

Rules for every backend:

* A backend MUST NOT import the ledger, the CLI or another backend. It MUST NOT print.
* Native ids, states and exceptions MUST stop at the adapter: every public method raises only subclasses of
  ``VmctlError``. A lost connection is BackendUnavailable; an absent object is NotFound.
* The native object is called ``native_name(body.id)`` and carries (labels, metadata, state file) id, ledger, claim,
  name and spec, so that ``instances`` can rebuild a lost ledger. The user's name is a label only: rename never
  touches the body.
* Every step is idempotent: ``create`` of what exists with this id, ``start`` of what runs, ``stop`` of what is
  stopped and ``delete`` of what is gone succeed silently.
* Nothing heavy may be imported when the backend's package is imported: libraries and connections are opened at
  first use and shared by all calls of one object. ``close`` releases them.
* Optional abilities are protocols (``CanExec`` ...). ``capabilities()[feature]`` is "" exactly when the protocol is
  implemented, else the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import msgspec

from vmctl.model.capability import Capabilities
from vmctl.model.event import Event, LogRecord
from vmctl.model.image import ImageConfig, ImageForm, PreparedImage
from vmctl.model.observed import Foreign, Observed, Overhead, Probe, Usage
from vmctl.model.process import Process
from vmctl.model.spec import InstanceSpec
from vmctl.model.state import Exit, Kind


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """The order for one body: everything a backend needs to make it, and nothing else.

    ``directory`` is the instance's own folder on the host (logs, sockets, overlays): the backend creates it in
    ``create`` and removes it in ``delete``. ``process`` is None for a machine that boots by itself.
    """

    id: str
    ledger: str
    claim: str
    name: str
    spec: InstanceSpec
    directory: Path
    process: Process | None
    image: PreparedImage | None = None


class Ref(msgspec.Struct, frozen=True):
    """Names an existing body: what every operation after ``create`` takes."""

    id: str
    directory: Path


class NativePlan(msgspec.Struct, frozen=True):
    """The native form of a body for people and golden tests: domain XML, API body as JSON, argv as JSON."""

    media_type: str
    text: str


@dataclass(frozen=True)
class Stdio:
    """The caller's ends of an attached session: file descriptors that the attachment reads and writes.

    ``stdin`` None: nothing is forwarded. ``signals``: a descriptor from which one byte per signal that reached vmctl
    can be read (``signal.set_wakeup_fd``); SIGWINCH means "the terminal's size changed, ask it", any other signal
    MUST be forwarded to the workload, except that a TTY session's keys travel as input.
    """

    stdin: int | None
    stdout: int
    stderr: int
    tty: bool = False
    signals: int | None = None


class Attachment(Protocol):
    """A connected session: the main process's (attach) or that of a process of its own (exec)."""

    def pump(self, stdio: Stdio) -> Exit | None:
        """Forward both ways until the process ends; its Exit. None: the session was cut, the process may live on.

        stdout and stderr arrive apart unless a TTY was asked for. End of file on stdin is forwarded.
        Raises CannotInvoke or ProgramNotFound when the program could not be started.
        """
        ...

    def close(self) -> None:
        """Let go without ending the main process; a process started by exec is ended."""
        ...


class Backend(Protocol):
    """What every backend MUST do."""

    @property
    def name(self) -> str: ...

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of instances it makes: one, except for the fake."""
        ...

    @property
    def image_form(self) -> ImageForm | None:
        """The form in which it takes images; None if it takes none."""
        ...

    def probe(self) -> Probe:
        """Ask the real thing. MUST NOT raise, whatever state the host is in."""
        ...

    def capabilities(self) -> Capabilities:
        """Every Feature, with "" or a reason. MUST NOT connect; host-dependent reasons may come from files."""
        ...

    def overhead(self, spec: InstanceSpec) -> Overhead:
        """What the body will cost beyond the spec; from measurement (see contrib/docs), never connecting."""
        ...

    def validate(self, spec: InstanceSpec) -> None:
        """Refuse (Unsupported, UsageError) what cannot be made, before anything is claimed. Never connects."""
        ...

    def plan(self, body: Body) -> NativePlan:
        """Pure: the native form of ``body``. The same body MUST give the same text."""
        ...

    def create(self, body: Body) -> None:
        """Make the body, not running. On failure nothing of it may be left."""
        ...

    def start(self, ref: Ref, *, attach: bool = False) -> Attachment | None:
        """Start it; with ``attach`` connected before the first instruction, so that no output is lost.

        MUST return only when the workload runs (or has ended already); a limit that cannot be enforced is an error.
        Raises WrongState for a paused body, ProgramNotFound and CannotInvoke where the backend can tell.
        """
        ...

    def stop(self, ref: Ref, *, timeout: float, signal: str | None = None) -> None:
        """Ask the workload to end (``signal``, or what the spec or image says, or SIGTERM; a disk machine: ACPI).

        After ``timeout`` seconds end it by force. Returns when it has ended. A restart policy MUST NOT revive it.
        """
        ...

    def kill(self, ref: Ref, *, signal: str = "SIGKILL") -> None:
        """Send a signal to the main process. SIGKILL ends the body at once. Raises WrongState if not running."""
        ...

    def delete(self, ref: Ref) -> None:
        """Remove the body, by force if it runs, with everything made for it. Silent when already gone."""
        ...

    def inspect(self, ref: Ref) -> Observed:
        """The body now. Raises NotFound."""
        ...

    def instances(self) -> list[Observed]:
        """All bodies that carry our label, of every ledger, in bulk (constant number of calls)."""
        ...

    def foreign(self) -> list[Foreign]:
        """All running workloads without our label, with what they can take."""
        ...

    def wait(self, ref: Ref, timeout: float | None = None) -> Exit:
        """Block until the main process has ended for good. Raises TimedOut, NotFound."""
        ...

    def logs(self, ref: Ref, *, follow: bool = False, tail: int | None = None) -> Iterator[LogRecord]:
        """Output since the body was made, oldest first; ``tail`` counts lines; ``follow`` ends with the body."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class CanAttach(Protocol):
    def attach(self, ref: Ref) -> Attachment:
        """Join the running main process. Raises WrongState if it does not run."""
        ...


@runtime_checkable
class CanExec(Protocol):
    def exec(self, ref: Ref, process: Process) -> Attachment:
        """Run another process inside, under the same confinement. Raises WrongState if not running."""
        ...


@runtime_checkable
class CanCopy(Protocol):
    """Copies as a tar stream: one format, no temporary files, no Python needed inside."""

    def copy_in(self, ref: Ref, path: str, archive: BinaryIO) -> None:
        """Unpack ``archive`` into the folder ``path`` inside. Raises NotFound; Conflict if it is not a folder."""
        ...

    def copy_out(self, ref: Ref, path: str, archive: BinaryIO) -> None:
        """Write ``path`` (file or folder; its base name is the archive's root) as tar. Raises NotFound."""
        ...


@runtime_checkable
class CanPause(Protocol):
    def pause(self, ref: Ref) -> None:
        """Freeze; silent when paused. Raises WrongState if not running."""
        ...

    def resume(self, ref: Ref) -> None:
        """Silent when running. Raises WrongState if neither paused nor running."""
        ...


@runtime_checkable
class CanStats(Protocol):
    def stats(self, refs: list[Ref]) -> list[Usage]:
        """One sample of each that runs, in bulk; the others are left out."""
        ...


@runtime_checkable
class CanEvents(Protocol):
    def events(self, callback: Callable[[Event], None], stop: Callable[[], bool]) -> None:
        """Call back for each event of our bodies until ``stop()`` is true (asked at least every 0.5 s)."""
        ...


@runtime_checkable
class CanConsole(Protocol):
    def console(self, ref: Ref) -> Attachment:
        """The machine's serial console, both ways."""
        ...


@runtime_checkable
class Advises(Protocol):
    def advice(self) -> str:
        """One line on what makes this backend slow or weak on this host, and the remedy; empty if nothing does.

        It is said once per host and text, before the first start.
        """
        ...


@runtime_checkable
class TakesImages(Protocol):
    """Backends with an image store of their own (ImageForm.DOCKER)."""

    def has_image(self, config_digest: str) -> bool: ...

    def load_image(self, archive: Iterator[bytes]) -> None:
        """Load a docker-archive tar stream."""
        ...

    def save_image(self, reference: str) -> Iterator[bytes]:
        """The engine's image as a docker-archive tar stream. Raises NotFound."""
        ...

    def drop_image(self, config_digest: str) -> None:
        """Forget a loaded image; silent when absent. Raises Conflict while a container uses it."""
        ...


BackendFactory = Callable[[Path], Backend]
"""Made with the state directory (fakes and locks live below it)."""

EMPTY_CONFIG = ImageConfig()

__all__ = [
    "EMPTY_CONFIG",
    "Advises",
    "Attachment",
    "Backend",
    "BackendFactory",
    "Body",
    "CanAttach",
    "CanConsole",
    "CanCopy",
    "CanEvents",
    "CanExec",
    "CanPause",
    "CanStats",
    "NativePlan",
    "Ref",
    "Stdio",
    "TakesImages",
]
