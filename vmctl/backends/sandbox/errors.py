"""What the supervisor and the kernel report, as vmctl's errors."""

from __future__ import annotations

import errno
from pathlib import Path

from vmctl.errors import (
    CannotInvoke,
    NotFound,
    PermissionDenied,
    ProgramNotFound,
    VmctlError,
    WrongState,
)

_SUPERVISOR_DIED = "the sandbox's supervisor ended before it could start the program"


def start_error(line: str, complaints: Path) -> VmctlError:
    """The error for a start that was answered by ``error CODE MESSAGE``, or by nothing."""
    word, _, rest = line.strip().partition(" ")
    code, _, message = rest.partition(" ")
    if word != "error":
        last = complaints.read_text(errors="replace").strip().rpartition("\n")[2] if complaints.exists() else ""
        return VmctlError(f"{_SUPERVISOR_DIED}{last and f' ({last})'}", hint=f"see {complaints}")
    match code:
        case "not-found":
            return ProgramNotFound(message, hint="is it in the image (or on this host), and is PATH right?")
        case "cannot-invoke":
            return CannotInvoke(message)
        case "busy":
            return WrongState(message)
        case _:
            return VmctlError(message, hint="'vmctl doctor' tests what a sandbox needs")


def os_error(error: OSError, what: str) -> VmctlError:
    """The error for a refusal of the kernel's."""
    text = f"{what}: {error.strerror or error}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(text)
    if error.errno == errno.ENOENT:
        return NotFound(text)
    if error.errno == errno.ENOSPC:
        return VmctlError(text, hint="free some space: 'vmctl system df' shows what takes it")
    return VmctlError(text)
