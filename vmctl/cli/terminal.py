"""An attached session's ends: signals as bytes in a pipe, the terminal in raw mode, both put back on every way out."""

from __future__ import annotations

import os
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from vmctl.backends.base import Stdio
from vmctl.errors import UsageError

_FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 0.3


@contextmanager
def session(*, stdin: bool, tty: bool) -> Iterator[Stdio]:
    """The caller's ends for ``run``, ``start -a`` and ``exec``. Raises UsageError if a TTY is asked for without one."""
    if tty and not (os.isatty(0) and os.isatty(1)):
        hint = "leave -t out in scripts and pipes"
        raise UsageError("--tty needs a terminal on standard input and output", hint=hint)
    sys.stdout.flush()
    with _signal_pipe() as signals, _raw_mode(tty):
        yield Stdio(stdin=0 if stdin or tty else None, stdout=1, stderr=2, tty=tty, signals=signals)


@contextmanager
def _signal_pipe() -> Iterator[int]:
    """A descriptor with one byte per signal; the handlers themselves do nothing once a session reads it.

    Before that (an image is being prepared, a machine boots) signals wait for the workload; a second one shows that
    the user does not want to wait: then it ends vmctl as it would elsewhere.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(reader, True)
    before: dict[int, object] = {}
    handle = _handler(reader)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        for number in _FORWARDED:
            if (current := signal.getsignal(number)) is not signal.SIG_IGN:
                before[number] = current
                signal.signal(number, handle)
        yield reader
    finally:
        signal.set_wakeup_fd(previous)
        for restored, handler in before.items():
            signal.signal(restored, handler)  # type: ignore[arg-type]
        os.close(reader)
        os.close(writer)


def _handler(reader: int) -> Callable[[int, FrameType | None], None]:
    waiting_since: list[float] = []

    def handle(number: int, frame: FrameType | None) -> None:
        from vmctl.cli.front import SignalReceived

        if number not in _ENDING:
            return
        now = time.monotonic()
        if _unread(reader) <= 1:  # the session has read everything before this one
            waiting_since[:] = [now]
        elif waiting_since and now - waiting_since[0] > _PATIENCE:
            raise SignalReceived(number)

    return handle


def _unread(descriptor: int) -> int:
    import fcntl
    import struct

    return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4))[0])


@contextmanager
def _raw_mode(wanted: bool) -> Iterator[None]:
    """Standard input passes every key on; what the terminal was before comes back whatever happens."""
    if not wanted:
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSANOW)
        yield
    finally:
        with suppress(termios.error):  # the terminal may have gone
            termios.tcsetattr(0, termios.TCSADRAIN, before)
