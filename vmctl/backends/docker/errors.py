"""Docker's failures become vmctl's: by status first, by the daemon's text where the status says too little."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from vmctl.errors import (
    BackendUnavailable,
    CannotInvoke,
    Conflict,
    NotFound,
    PermissionDenied,
    ProgramNotFound,
    UsageError,
    VmctlError,
)

_NATIVE = re.compile(r"\b[0-9a-f]{64}\b|/?\bvmctl-[0-9a-z]{26}\b")
_EXEC = re.compile(r'exec: "(?P<program>[^"]*)": (?P<reason>.*?)(: unknown)?$')
_NO_USER = re.compile(r"unable to find (user|group) [^:]*")
_MISSING = ("executable file not found", "no such file or directory")
_REFUSED = ("permission denied", "is a directory", "exec format error", "not a directory")


def start_hint() -> str:
    """How to get a daemon on this host."""
    if shutil.which("dockerd") is None:
        return "install Docker: apt install docker.io"
    if os.path.isdir("/run/systemd/system"):
        return "start it: systemctl start docker"
    return "start it as root: dockerd >/var/log/dockerd.log 2>&1 &"


def unavailable(path: str, error: OSError) -> VmctlError:
    """The daemon at socket ``path`` could not be reached, or went away."""
    if isinstance(error, PermissionError):
        hint = "run as root, or join the group and log in again: usermod -aG docker $USER"
        return PermissionDenied(f"no permission to use Docker's socket {path}", hint=hint)
    if isinstance(error, TimeoutError):
        return BackendUnavailable("Docker does not answer", hint="look at the daemon's log, or restart it")
    if isinstance(error, FileNotFoundError):
        return BackendUnavailable(f"Docker does not run: there is no {path}", hint=start_hint())
    if isinstance(error, ConnectionRefusedError):
        return BackendUnavailable(f"Docker does not run: nothing listens on {path}", hint=start_hint())
    return BackendUnavailable("the connection to Docker was lost", hint=start_hint())


def failure(status: int, message: str) -> VmctlError:
    """An answer with a status of 400 and more. ``message`` is the daemon's."""
    text = _readable(message)
    if "port is already allocated" in message or "address already in use" in message:
        return Conflict(f"a published port is taken: {text}", hint="choose another host port")
    if "no space left on device" in message:
        return VmctlError("the disk of Docker is full", hint="free space below Docker's data folder: docker system df")
    if "extraction point is not a directory" in message:
        return Conflict("not a folder inside", hint="name a folder, or a new name in one")
    match status:
        case 400:
            return UsageError(f"Docker refused: {text}")
        case 403:
            return PermissionDenied(f"Docker refused: {text}")
        case 404:
            return NotFound(f"Docker: {text}")
        case 409:
            return Conflict(f"Docker: {text}")
        case _:
            return VmctlError(f"Docker failed: {text}")


def program_failure(message: str) -> VmctlError | None:
    """ProgramNotFound or CannotInvoke if runc's ``message`` says that the program could not be executed."""
    found = _EXEC.search(message.strip())
    if not found:
        unknown = _NO_USER.search(message)
        return CannotInvoke(unknown[0]) if unknown else None
    program, reason = found["program"], found["reason"]
    if any(text in reason for text in _MISSING):
        return ProgramNotFound(f"no program '{program}' in the image")
    if any(text in reason for text in _REFUSED):
        detail = next(text for text in _REFUSED if text in reason)
        return CannotInvoke(f"cannot execute '{program}': {detail}")
    return None


def exec_failure(message: str) -> VmctlError:
    """The same for exec, where whatever went wrong means that there is no process."""
    return program_failure(message) or CannotInvoke(f"cannot start the program: {_readable(message)}")


@contextmanager
def sdk_errors(path: str) -> Iterator[None]:
    """Around every call of the SDK: its exceptions, and those of requests below it, become ours."""
    import requests
    from docker.errors import APIError, DockerException

    try:
        yield
    except APIError as error:
        status = error.response.status_code if error.response is not None else 500
        raise failure(status, str(error.explanation or "")) from error
    except (requests.exceptions.RequestException, DockerException, OSError) as error:
        raise unavailable(path, _os_error(error)) from error


def _os_error(error: BaseException) -> OSError:
    """The system's error below the layers of requests and urllib3."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PermissionError | FileNotFoundError | ConnectionRefusedError | TimeoutError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return OSError(str(error))


def _readable(message: str) -> str:
    """One line without native ids and without runc's outer layers."""
    line = " ".join(message.split()) or "no reason given"
    line = _NATIVE.sub("(this container)", line)
    for layer in ("failed to create task for container: ", "failed to create shim task: ", "failed to create shim: "):
        line = line.replace(layer, "")
    return line.removesuffix(": unknown")
