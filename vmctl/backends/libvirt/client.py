"""The connection to libvirt: which daemon, opened at first use, reopened when lost, with typed views of what it gives.

The protocols below name what this backend uses of libvirt-python (which has no types); tests implement them.
"""

from __future__ import annotations

import grp
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

from vmctl.backends.libvirt.errors import translated
from vmctl.errors import BackendUnavailable, NotFound
from vmctl.model.ids import NATIVE_PREFIX, native_name

SYSTEM = "qemu:///system"
SESSION = "qemu:///session"
URI_VARIABLE = "VMCTL_LIBVIRT_URI"
_RUNNING = "/run/libvirt/qemu"   # <name>.xml for each machine that runs
_DEFINED = "/etc/libvirt/qemu"   # <name>.xml for each that is defined
_KEEPALIVE = (5, 3)  # seconds between probes, probes unanswered: a dead daemon is noticed within 20 s


class Domain(Protocol):
    """virDomain."""

    def name(self) -> str: ...
    def create(self) -> int: ...
    def createWithFlags(self, flags: int) -> int: ...  # noqa: N802
    def destroy(self) -> int: ...
    def shutdownFlags(self, flags: int) -> int: ...  # noqa: N802
    def suspend(self) -> int: ...
    def resume(self) -> int: ...
    def undefineFlags(self, flags: int) -> int: ...  # noqa: N802
    def state(self) -> list[int]: ...
    def info(self) -> list[int]: ...
    def isActive(self) -> int: ...  # noqa: N802
    def XMLDesc(self, flags: int = 0) -> str: ...  # noqa: N802
    def metadata(self, kind: int, uri: str | None, flags: int = 0) -> str: ...
    def setMetadata(self, kind: int, metadata: str, key: str, uri: str, flags: int = 0) -> int: ...  # noqa: N802
    def schedulerParameters(self) -> dict[str, int]: ...  # noqa: N802
    def interfaceAddresses(self, source: int) -> dict[str, Mapping[str, object]]: ...  # noqa: N802


class Network(Protocol):
    """virNetwork."""

    def name(self) -> str: ...
    def isActive(self) -> int: ...  # noqa: N802
    def create(self) -> int: ...
    def undefine(self) -> int: ...
    def destroy(self) -> int: ...
    def XMLDesc(self, flags: int = 0) -> str: ...  # noqa: N802
    def setAutostart(self, autostart: int) -> int: ...  # noqa: N802
    def DHCPLeases(self) -> list[dict[str, object]]: ...  # noqa: N802


DomainStats = tuple[Domain, dict[str, int]]
EventCallback = Callable[[object, Domain, int, int, object], None]


class Connection(Protocol):
    """virConnect."""

    def isAlive(self) -> int: ...  # noqa: N802
    def close(self) -> int: ...
    def getLibVersion(self) -> int: ...  # noqa: N802
    def getVersion(self) -> int: ...  # noqa: N802
    def getURI(self) -> str: ...  # noqa: N802
    def setKeepAlive(self, interval: int, count: int) -> int: ...  # noqa: N802
    def defineXMLFlags(self, xml: str, flags: int) -> Domain: ...  # noqa: N802
    def lookupByName(self, name: str) -> Domain: ...  # noqa: N802
    def listAllDomains(self, flags: int = 0) -> list[Domain]: ...  # noqa: N802
    def getAllDomainStats(self, stats: int, flags: int = 0) -> list[DomainStats]: ...  # noqa: N802
    def domainListGetStats(self, doms: Sequence[Domain], stats: int, flags: int = 0) -> list[DomainStats]: ...  # noqa: N802
    def listAllNetworks(self, flags: int = 0) -> list[Network]: ...  # noqa: N802
    def networkLookupByName(self, name: str) -> Network: ...  # noqa: N802
    def networkDefineXML(self, xml: str) -> Network: ...  # noqa: N802
    def domainEventRegisterAny(  # noqa: N802
        self, dom: Domain | None, event: int, callback: EventCallback, opaque: object
    ) -> int: ...
    def domainEventDeregisterAny(self, number: int) -> int: ...  # noqa: N802


def default_uri() -> str:
    """The system's daemon for root and the group libvirt, else the caller's own; VMCTL_LIBVIRT_URI overrides."""
    if named := os.environ.get(URI_VARIABLE):
        return named
    return SYSTEM if os.geteuid() == 0 or _in_group("libvirt") else SESSION


def _in_group(name: str) -> bool:
    try:
        return grp.getgrnam(name).gr_gid in {os.getegid(), *os.getgroups()}
    except KeyError:
        return False


class Client:
    """One connection, shared by all calls and threads of a backend."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    @property
    def system(self) -> bool:
        """Whether the daemon is the system's: QEMU is another user, cgroups and bridges are there."""
        return self.uri.endswith("/system")

    def connection(self) -> Connection:
        """The open connection. Raises BackendUnavailable, PermissionDenied."""
        with self._lock:
            if self._connection is None or not self._connection.isAlive():
                self._connection = open_connection(self.uri)
            return self._connection

    def knows_nothing(self) -> bool:
        """Whether no machine runs and none of ours is defined, told by libvirt's own files where we may read them.

        Loading the library and connecting cost 25 ms, in every command that only wants to know that there is nothing.
        """
        if self.uri != SYSTEM:
            return False
        try:
            running = any(name.endswith(".xml") for name in os.listdir(_RUNNING))
            return not running and not any(name.startswith(NATIVE_PREFIX) for name in os.listdir(_DEFINED))
        except OSError:
            return False

    def domain(self, instance_id: str) -> Domain:
        """The domain that realises the instance. Raises NotFound."""
        if (domain := self.find(instance_id)) is None:
            raise NotFound("libvirt has no machine for this instance", hint="vmctl ps -a")
        return domain

    def find(self, instance_id: str) -> Domain | None:
        """The same, or None."""
        try:
            with translated("cannot look up the machine"):
                return self.connection().lookupByName(native_name(instance_id))
        except NotFound:
            return None

    def close(self) -> None:
        """Release the connection; the next call opens another one."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            import libvirt

            try:
                connection.close()
            except libvirt.libvirtError:  # the daemon went first
                return


def open_connection(uri: str) -> Connection:
    """A connection of one's own. Raises BackendUnavailable, PermissionDenied."""
    try:
        import libvirt
    except ImportError as error:
        raise BackendUnavailable(
            f"the Python module libvirt cannot be imported: {error}", hint="pip install libvirt-python"
        ) from None

    libvirt.registerErrorHandler(_swallow, None)
    with translated(f"cannot connect to {uri}"):
        return cast(Connection, libvirt.open(uri))


def _swallow(_context: object, _error: object) -> None:
    """libvirt-python prints every error to stderr unless a handler is set; ours are raised."""


_loop_lock = threading.Lock()
_loop: threading.Thread | None = None


def open_for_events(uri: str) -> Connection:
    """A connection that delivers events: libvirt's event loop runs in a daemon thread from now on."""
    global _loop
    import libvirt

    with _loop_lock:
        if _loop is None:
            libvirt.virEventRegisterDefaultImpl()
            _loop = threading.Thread(target=_run_loop, name="libvirt-events", daemon=True)
            _loop.start()
    connection = open_connection(uri)
    with translated("cannot watch the connection"):
        connection.setKeepAlive(*_KEEPALIVE)
    return connection


def _run_loop() -> None:
    import libvirt

    while True:
        libvirt.virEventRunDefaultImpl()
