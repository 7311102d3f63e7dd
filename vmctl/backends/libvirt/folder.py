"""What an instance's folder holds for this backend: file names, the order that ``start`` needs, and marks of its life.

libvirt forgets why a machine is off when its daemon restarts, and cannot say "never started": the marks can.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from vmctl.backends.base import Body
from vmctl.backends.wire import machine
from vmctl.backends.wire.logfile import RecordParser, read_records
from vmctl.errors import NotFound, PermissionDenied, VmctlError
from vmctl.model.process import Process
from vmctl.model.state import Exit, RestartPolicy

_ORDER = "order.json"
_MARKS = "marks.json"
_SUN_PATH = 107
_TAIL = 4096
"""An EXIT record is the last thing an init writes: a few dozen bytes."""

FORCED = 137


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What ``create`` was asked for and ``start`` has to tell the machine's init; no init, no ``process``."""

    name: str
    hostname: str
    process: Process | None
    root_fs: str = ""
    upper: bool = False
    read_only: bool = False
    network: str = "default"
    restart: RestartPolicy = RestartPolicy.NO
    restart_max: int = 0
    stop_signal: str = "SIGTERM"


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """``started_at``: nanoseconds since the epoch, of the last start. ``booted``: its init has the main process.

    ``forced``: this backend ended it, so that nothing inside could say how; with an ``error``: it never came up.
    """

    started_at: int | None = None
    booted: bool = False
    forced: Exit | None = None


def console_log(directory: Path) -> Path:
    """Everything the serial console ever said."""
    return directory / "console.log"


def console_socket(directory: Path) -> Path:
    """The serial console, both ways."""
    return directory / "console.sock"


def agent_socket(directory: Path) -> Path:
    """The guest agent's channel, which libvirt talks to (its own place for it is not always tidied up)."""
    return directory / "agent.sock"


def overlay_disk(directory: Path) -> Path:
    """A disk machine's own disk, a linked clone of what it was made from."""
    return directory / "disk.qcow2"


def upper_disk(directory: Path) -> Path:
    """What an image machine writes to its root, over the read-only image; kept from one start to the next."""
    return directory / "upper.raw"


def is_image_machine(body: Body) -> bool:
    """Whether our init runs in it (it boots an image), as opposed to a system that boots by itself."""
    return body.process is not None and body.image is not None


def has_upper(body: Body) -> bool:
    """Whether it has a disk for what it writes; a sealed root needs none."""
    return is_image_machine(body) and not body.spec.read_only


def order_of(body: Body) -> Order:
    """The part of ``body`` that is needed after ``create``."""
    spec = body.spec
    signal = spec.stop_signal or (body.image.config.stop_signal if body.image else "") or "SIGTERM"
    return Order(
        name=body.name,
        hostname=spec.hostname or body.name or body.id,
        process=body.process if is_image_machine(body) else None,
        root_fs=body.image.root_fs if body.image else "",
        upper=has_upper(body),
        read_only=spec.read_only,
        network=spec.network,
        restart=spec.restart,
        restart_max=spec.restart_max,
        stop_signal=signal,
    )


def make(directory: Path) -> None:
    """The folder, searchable by QEMU's user (0711), with log files that belong to the caller.

    Raises VmctlError when the path is too long for the sockets in it.
    """
    room = _SUN_PATH - len(os.fsencode(console_socket(directory)))
    if room < 0:
        raise VmctlError(
            f"the path of {directory} is {-room} bytes too long for the sockets in it",
            hint="set VMCTL_STATE_DIR to a shorter path",
        )
    try:
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        directory.chmod(0o711)
        for log in (console_log(directory), machine.log_path(directory)):
            os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
    except PermissionError as error:
        raise PermissionDenied(f"cannot write to {error.filename}", hint="whose folder is it?") from error
    except OSError as error:
        raise VmctlError(f"cannot make {directory}: {error.strerror}", hint="is the disk full?") from error


def save_order(directory: Path, order: Order) -> None:
    """Kept private: an environment may hold secrets."""
    _write(directory / _ORDER, msgspec.json.encode(order))


def load_order(directory: Path) -> Order:
    """Raises NotFound when the folder is not one that ``create`` finished."""
    try:
        return msgspec.json.decode((directory / _ORDER).read_bytes(), type=Order)
    except (FileNotFoundError, msgspec.DecodeError) as error:
        raise NotFound(f"the instance's folder {directory} is incomplete", hint="vmctl rm -f it") from error
    except PermissionError as error:
        raise PermissionDenied(f"cannot read {error.filename}", hint="the instance is another user's") from error


def find_order(directory: Path) -> Order | None:
    """The order, or None where there is none or it is not ours to read."""
    try:
        return load_order(directory)
    except (NotFound, PermissionDenied):
        return None


def save_marks(directory: Path, marks: Marks) -> None:
    """Replace the marks, atomically."""
    _write(directory / _MARKS, msgspec.json.encode(marks))


def load_marks(directory: Path) -> Marks:
    """The marks; empty ones where there are none or they are not ours to read."""
    try:
        return msgspec.json.decode((directory / _MARKS).read_bytes(), type=Marks)
    except (OSError, msgspec.DecodeError):
        return Marks()


def recorded_exit(directory: Path, since: int) -> Exit | None:
    """How the main process ended after ``since`` (nanoseconds), by the init's log; None if the log does not say.

    Reads only the log's end, so that listing many ended machines stays cheap.
    """
    log = machine.log_path(directory)
    try:
        tail = _tail(log)
        if len(tail) < _TAIL:  # rotated a moment ago
            tail = _tail(log.with_name(f"{log.name}.0")) + tail
    except PermissionError:
        return None
    ends = [record for record in RecordParser().feed(tail) if isinstance(record, Exit)]
    return ends[-1] if ends and (ends[-1].at or 0) >= since else None


def recorded_exits(directory: Path, since: int) -> int:
    """How often the main process has ended after ``since``. Reads the whole log."""
    try:
        records = read_records(machine.log_path(directory))
        return sum(isinstance(record, Exit) and (record.at or 0) >= since for record in records)
    except PermissionError:
        return 0


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL))
            return stream.read()
    except FileNotFoundError:
        return b""


def forced_exit() -> Exit:
    """The end of a machine that was switched off: what SIGKILL is to a process."""
    return Exit(code=FORCED, signal=9, at=time.time_ns())


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as stream:
        stream.write(data)
    temporary.replace(path)
