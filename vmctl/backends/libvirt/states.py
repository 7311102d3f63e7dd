"""libvirt's states and how they map to ours: total over libvirt's enumeration (a test goes through all of it)."""

from __future__ import annotations

from enum import IntEnum

from vmctl.model.state import State


class DomainState(IntEnum):
    """virDomainState."""

    NOSTATE = 0
    RUNNING = 1
    BLOCKED = 2
    PAUSED = 3
    SHUTDOWN = 4
    SHUTOFF = 5
    CRASHED = 6
    PMSUSPENDED = 7


class PausedReason(IntEnum):
    """virDomainPausedReason."""

    UNKNOWN = 0
    USER = 1
    MIGRATION = 2
    SAVE = 3
    DUMP = 4
    IOERROR = 5
    WATCHDOG = 6
    FROM_SNAPSHOT = 7
    SHUTTING_DOWN = 8
    SNAPSHOT = 9
    CRASHED = 10
    STARTING_UP = 11
    POSTCOPY = 12
    POSTCOPY_FAILED = 13
    API_ERROR = 14


class ShutoffReason(IntEnum):
    """virDomainShutoffReason."""

    UNKNOWN = 0
    SHUTDOWN = 1
    DESTROYED = 2
    CRASHED = 3
    MIGRATED = 4
    SAVED = 5
    FAILED = 6
    FROM_SNAPSHOT = 7
    DAEMON = 8


_PAUSED = {
    PausedReason.UNKNOWN: State.PAUSED,
    PausedReason.USER: State.PAUSED,
    PausedReason.MIGRATION: State.PAUSED,
    PausedReason.SAVE: State.PAUSED,
    PausedReason.DUMP: State.PAUSED,
    PausedReason.IOERROR: State.PAUSED,  # a full disk: goes on when there is room and it is resumed
    PausedReason.WATCHDOG: State.PAUSED,
    PausedReason.FROM_SNAPSHOT: State.PAUSED,
    PausedReason.SHUTTING_DOWN: State.STOPPING,
    PausedReason.SNAPSHOT: State.PAUSED,
    PausedReason.CRASHED: State.FAILED,
    PausedReason.STARTING_UP: State.STARTING,
    PausedReason.POSTCOPY: State.PAUSED,
    PausedReason.POSTCOPY_FAILED: State.FAILED,
    PausedReason.API_ERROR: State.PAUSED,
}

_OFF = {
    ShutoffReason.UNKNOWN: State.STOPPED,  # libvirtd has been restarted since: it remembers no reason
    ShutoffReason.SHUTDOWN: State.STOPPED,
    ShutoffReason.DESTROYED: State.STOPPED,
    ShutoffReason.CRASHED: State.FAILED,
    ShutoffReason.MIGRATED: State.STOPPED,
    ShutoffReason.SAVED: State.STOPPED,
    ShutoffReason.FAILED: State.FAILED,
    ShutoffReason.FROM_SNAPSHOT: State.STOPPED,
    ShutoffReason.DAEMON: State.FAILED,
}

_OTHERS = {
    DomainState.NOSTATE: State.UNKNOWN,
    DomainState.RUNNING: State.RUNNING,
    DomainState.BLOCKED: State.RUNNING,  # waits for a resource: Xen's word, QEMU never says it
    DomainState.SHUTDOWN: State.STOPPING,
    DomainState.CRASHED: State.FAILED,
    DomainState.PMSUSPENDED: State.PAUSED,
}


def state_of(native: int, reason: int, *, ever_started: bool) -> State:
    """Our state for libvirt's pair. Numbers that this list does not know are UNKNOWN, unknown reasons count as none.

    libvirt has no word for "defined and never started": the instance's folder knows (``ever_started``).
    """
    match native:
        case DomainState.SHUTOFF:
            if not ever_started:
                return State.CREATED
            return _OFF.get(ShutoffReason(reason), State.STOPPED) if reason in _OFF else State.STOPPED
        case DomainState.PAUSED:
            return _PAUSED[PausedReason(reason)] if reason in _PAUSED else State.PAUSED
        case _:
            return _OTHERS[DomainState(native)] if native in _OTHERS else State.UNKNOWN
