"""Attached sessions on a real terminal: modes and signals come back whatever happens."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vmctl.cli.front import SignalReceived
from vmctl.cli.terminal import session
from vmctl.errors import UsageError

NUMBERS = tuple(signal.Signals[f"SIG{name}"] for name in ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "WINCH"])


def handlers() -> dict[int, object]:
    return {number: signal.getsignal(number) for number in NUMBERS}


def read_ready(descriptor: int) -> bytes:
    ready, _, _ = select.select([descriptor], [], [], 5)
    assert ready
    return os.read(descriptor, 64)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_becomes_a_byte(number: signal.Signals) -> None:
    before = handlers()
    with session(stdin=False, tty=False) as stdio:
        assert stdio.signals is not None
        os.kill(os.getpid(), number)
        assert read_ready(stdio.signals) == bytes([number])
    assert handlers() == before


def test_handlers_come_back_after_an_error() -> None:
    before = handlers()
    with pytest.raises(ZeroDivisionError), session(stdin=False, tty=False):
        raise ZeroDivisionError
    assert handlers() == before
    assert signal.set_wakeup_fd(-1) == -1


def test_an_ignored_signal_stays_ignored() -> None:
    """``nohup vmctl run`` must survive its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with session(stdin=False, tty=False):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_ends_a_session_that_does_not_read() -> None:
    with session(stdin=False, tty=False):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.35)
        with pytest.raises(SignalReceived) as caught:
            signal.raise_signal(signal.SIGTERM)
    assert caught.value.number == signal.SIGTERM


def test_signals_to_a_session_that_reads_never_end_it() -> None:
    with session(stdin=False, tty=False) as stdio:
        assert stdio.signals is not None
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            assert read_ready(stdio.signals) == bytes([signal.SIGINT])
            time.sleep(0.2)


def test_a_tty_is_refused_without_a_terminal() -> None:
    with pytest.raises(UsageError, match="terminal"), session(stdin=True, tty=True):
        pass


_PROGRAM = textwrap.dedent(
    """
    import os, sys
    from vmctl.cli.terminal import session
    with session(stdin=True, tty=True) as stdio:
        os.write(1, b"raw ")
        os.read(0, 1)
        {end}
    """
)


@contextmanager
def on_a_terminal(program: str) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    master, slave = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", program], stdin=slave, stdout=slave, stderr=slave)
    try:
        yield process, master, slave
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("end", ["pass", "1 / 0", "sys.exit(3)", "os.kill(os.getpid(), 15); os.kill(os.getpid(), 10)"])
def test_the_terminal_comes_back_as_it_was(end: str) -> None:
    with on_a_terminal(_PROGRAM.format(end=end)) as (process, master, slave):
        before = termios.tcgetattr(slave)
        assert b"raw" in read_ready(master)
        assert not termios.tcgetattr(slave)[3] & termios.ICANON
        os.write(master, b"x")
        process.wait(timeout=20)
        assert termios.tcgetattr(slave) == before
