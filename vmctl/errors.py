"""Every error that vmctl reports on purpose.

An error class owns a stable ``code`` (part of the machine output) and an ``exit_code`` (part of the shell
contract); both are documented by a generated page and MUST NOT be reused. An error carries one line of
message and, where the user can do something, one line of hint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class VmctlError(Exception):
    """A failure without a code of its own. (The base of all others.)"""

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1
    usual_hint: ClassVar[str] = "'vmctl doctor' checks every part of this host"
    """Shown where an error carries no hint of its own."""

    def __init__(self, message: str, *, hint: str = "", details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details: dict[str, object] = dict(details or {})


class UsageError(VmctlError):
    """The words of the command, a flag's value, or a file's content cannot be understood."""

    code = "usage"
    exit_code = 2


class NotFound(VmctlError):
    """No instance, image, network or other object of that name."""

    code = "not-found"
    exit_code = 3
    usual_hint = "check the spelling"


class Conflict(VmctlError):
    """The name is taken, or the object is in use."""

    code = "conflict"
    exit_code = 4
    usual_hint = "'vmctl ps -a' shows what there is"


class WrongState(Conflict):
    """The instance exists, but its state does not allow the operation."""

    code = "wrong-state"
    usual_hint = "'vmctl ps -a' shows the state of each instance"


class NeverFits(VmctlError):
    """The claim is larger than this host or its quota can ever grant."""

    code = "never-fits"
    exit_code = 5


class BackendUnavailable(VmctlError):
    """The backend's daemon or program is missing, down or not answering."""

    code = "backend-unavailable"
    exit_code = 6


class Unsupported(VmctlError):
    """The backend cannot do this; the message names the feature and the reason."""

    code = "unsupported"
    exit_code = 7
    usual_hint = "'vmctl backend ls' shows the backends; README.md has the table of what they can do"


class PermissionDenied(VmctlError):
    """The caller lacks a right that the operation needs."""

    code = "permission"
    exit_code = 8
    usual_hint = "run as root, or as the user who owns it"


class Partial(VmctlError):
    """Some of several operations succeeded, some did not."""

    code = "partial"
    exit_code = 9
    usual_hint = ""  # each failure has said its own


class LedgerError(VmctlError):
    """The ledger cannot be read or written, or is not what it should be."""

    code = "ledger"
    exit_code = 10


class DoesNotFitNow(VmctlError):
    """The claim fits this host, but not beside what is claimed at this moment (sysexits' EX_TEMPFAIL)."""

    code = "does-not-fit-now"
    exit_code = 75


class TimedOut(VmctlError):
    """A wait ran out of time (the code of timeout(1))."""

    code = "timed-out"
    exit_code = 124
    usual_hint = "'vmctl ps -a' shows what goes on; try again with a longer time"


class AttachFailed(VmctlError):
    """vmctl itself failed while a workload was, or was to be, attached (docker run's 125)."""

    code = "attach-failed"
    exit_code = 125


class CannotInvoke(VmctlError):
    """The workload's program exists but cannot be executed."""

    code = "cannot-invoke"
    exit_code = 126
    usual_hint = "are program, folder (-w) and user (-u) there inside, and may that user run it?"


class ProgramNotFound(VmctlError):
    """The workload's program does not exist inside the instance."""

    code = "program-not-found"
    exit_code = 127
    usual_hint = "is it in the image, and is PATH right?"


class Interrupted(VmctlError):
    """SIGINT reached vmctl."""

    code = "interrupted"
    exit_code = 130


class Terminated(VmctlError):
    """SIGTERM reached vmctl."""

    code = "terminated"
    exit_code = 143


class HungUp(VmctlError):
    """SIGHUP reached vmctl: its terminal has gone."""

    code = "hung-up"
    exit_code = 129
