"""libvirt's errors become vmctl's. Nothing here imports libvirt before something of it is in use."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from vmctl.errors import (
    BackendUnavailable,
    Conflict,
    NotFound,
    PermissionDenied,
    TimedOut,
    Unsupported,
    VmctlError,
    WrongState,
)
from vmctl.model.ids import NATIVE_PREFIX

START_HINT = "start it: 'systemctl start libvirtd virtlogd', or without systemd 'virtlogd -d; libvirtd -d'"
INSTALL_HINT = "install it: apt install qemu-system-x86 qemu-utils libvirt-daemon-system libvirt-clients"
ACCESS_HINT = "run as root, or join the group libvirt ('adduser $USER libvirt', then log in again)"

_NATIVE_NAME = re.compile(re.escape(NATIVE_PREFIX) + r"[0-9a-z]{26}")
_LENGTH = 300

_CLASSES: dict[str, type[VmctlError]] = {
    "NO_DOMAIN": NotFound,
    "NO_NETWORK": NotFound,
    "NO_DOMAIN_METADATA": NotFound,
    "NO_SUPPORT": Unsupported,
    "CONFIG_UNSUPPORTED": Unsupported,
    "OPERATION_UNSUPPORTED": Unsupported,
    "ARGUMENT_UNSUPPORTED": Unsupported,
    "AUTH_FAILED": PermissionDenied,
    "AUTH_CANCELLED": PermissionDenied,
    "AUTH_UNAVAILABLE": PermissionDenied,
    "ACCESS_DENIED": PermissionDenied,
    "OPERATION_DENIED": PermissionDenied,
    "OPERATION_INVALID": WrongState,
    "OPERATION_TIMEOUT": TimedOut,
    "AGENT_UNRESPONSIVE": TimedOut,
    "AGENT_UNSYNCED": TimedOut,
    "DOM_EXIST": Conflict,
    "NETWORK_EXIST": Conflict,
    "RESOURCE_BUSY": Conflict,
    "NO_CONNECT": BackendUnavailable,
    "INVALID_CONN": BackendUnavailable,
    "RPC": BackendUnavailable,
}
"""By the name after VIR_ERR_; what is not listed is a plain failure."""

_HINTS: dict[type[VmctlError], str] = {BackendUnavailable: START_HINT, PermissionDenied: ACCESS_HINT}


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Inside, a libvirt error becomes a typed one whose message begins with ``what`` ("cannot start")."""
    import libvirt

    try:
        yield
    except libvirt.libvirtError as error:
        raise typed(
            what,
            code=error.get_error_code(),
            origin=error.get_error_domain(),
            message=error.get_error_message() or "libvirt gives no reason",
            system_error=error.get_int1(),
        ) from None


def typed(what: str, *, code: int | None, origin: int | None, message: str, system_error: int | None) -> VmctlError:
    """The typed error for libvirt's ``code`` (VIR_ERR_*) from its part ``origin`` (VIR_FROM_*)."""
    kind = _kind(code, origin, message, system_error)
    return kind(f"{what}: {one_line(message)}", hint=_HINTS.get(kind, ""))


def one_line(message: str) -> str:
    """libvirt's text without line breaks and without names that only libvirt knows."""
    text = " ".join(message.split())[:_LENGTH]
    return _NATIVE_NAME.sub("the machine", "".join(c if c.isprintable() else "?" for c in text))


def _kind(code: int | None, origin: int | None, message: str, system_error: int | None) -> type[VmctlError]:
    import libvirt

    if code in (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_INTERNAL_ERROR):
        if system_error in (errno.EACCES, errno.EPERM) or "Permission denied" in message:
            return PermissionDenied
        if origin in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE):
            return BackendUnavailable
        return VmctlError
    for name, kind in _CLASSES.items():
        if code == getattr(libvirt, "VIR_ERR_" + name, None):
            return kind
    return VmctlError
