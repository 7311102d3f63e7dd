"""Runs one command line: finds the verb, loads its module, turns every end into an exit code."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

from vmctl.cli import state
from vmctl.errors import HungUp, Interrupted, Terminated, UsageError, VmctlError
from vmctl.output import streams
from vmctl.output.failure import show_failure

_BROKEN_PIPE = 128 + signal.SIGPIPE
_ENDS: dict[int, type[VmctlError]] = {
    signal.SIGINT: Interrupted,
    signal.SIGTERM: Terminated,
    signal.SIGHUP: HungUp,
}


class SignalReceived(BaseException):
    """Not an Exception: code that handles errors must not swallow the wish to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def guarded(words: list[str]) -> int:
    """The exit code of ``words``; every error is shown, none leaves."""
    _catch_signals()
    streams.tolerate_any_text()
    try:
        return _run(words)
    except BrokenPipeError:
        streams.silence()
        return _BROKEN_PIPE
    except SignalReceived as end:
        return _ENDS[end.number].exit_code
    except KeyboardInterrupt:
        return Interrupted.exit_code


def _run(words: list[str]) -> int:
    from vmctl.cli.dispatch import dispatch

    try:
        code = dispatch(words)
        streams.finish()
        return code
    except VmctlError as error:
        if isinstance(error, UsageError) and not error.hint:
            error.hint = f"'vmctl help {words[0]}' shows how it is used" if words else "see 'vmctl help'"
        show_failure(error, as_json=state.wants_json(words, understood=not isinstance(error, UsageError)))
        return error.exit_code
    except BrokenPipeError:
        raise
    except Exception as bug:  # noqa: BLE001 - the last resort: nobody but developers wants to see a traceback
        return _report_bug(bug, words)


def _report_bug(bug: Exception, words: list[str]) -> int:
    from vmctl.cli.log import write_traceback

    where = write_traceback(bug, words)
    hint = f"the details are in {where}" if where else "the log file could not be written"
    show_failure(VmctlError(f"unexpected {type(bug).__name__}: {bug}", hint=hint), as_json=state.wants_json(words))
    return VmctlError.exit_code


def _catch_signals() -> None:
    """SIGTERM and SIGHUP unwind the stack as SIGINT does, so that what was begun is undone."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SignalReceived(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
