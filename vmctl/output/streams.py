"""stdout is the answer and nothing else; notices, hints and progress go to stderr."""

from __future__ import annotations

import io
import os
import select
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from vmctl.errors import VmctlError


def answer(text: str) -> None:
    """One or more lines of the answer, on stdout."""
    write(text if text.endswith("\n") else text + "\n")


def write(text: str, *, now: bool = False) -> None:
    """``text`` as it is, on stdout; ``now`` for what is to be seen at once. Raises VmctlError as :func:`finish`."""
    with _explained():
        sys.stdout.write(text)
        if now:
            sys.stdout.flush()


def answer_bytes(data: bytes, *, to_stderr: bool = False) -> None:
    """Bytes of a workload, as they are, at once; its stderr stays apart."""
    stream = sys.stderr if to_stderr else sys.stdout
    with _explained():
        stream.flush()
        stream.buffer.write(data)
        stream.buffer.flush()


def notice(text: str) -> None:
    """One line for people, on stderr."""
    sys.stdout.flush()
    sys.stderr.write(one_line(text) + "\n")
    sys.stderr.flush()


def one_line(text: str) -> str:
    """``text`` without line breaks and control characters: messages may quote what others wrote."""
    return "".join(char if char.isprintable() else " " for char in " ".join(text.split()))


def colour(stream: TextIO) -> bool:
    """Whether escape sequences may be written to ``stream`` (a terminal that is not dumb, and no NO_COLOR)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def paint(text: str, code: str, stream: TextIO) -> str:
    """``text`` in the SGR colour ``code`` where ``stream`` shows colours."""
    return f"\x1b[{code}m{text}\x1b[0m" if colour(stream) else text


def answer_width() -> int | None:
    """Columns of the terminal that gets the answer; None if it is no terminal: then nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def tolerate_any_text() -> None:
    """What the terminal's encoding cannot show, or what was no text at all, is escaped instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def finish() -> None:
    """Write what is still buffered. Raises VmctlError if it cannot be (a full disk), BrokenPipeError."""
    with _explained():
        sys.stdout.flush()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(1)
        raise VmctlError(f"cannot write the answer: {error.strerror}", hint="check where output goes") from error


def reader_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    poller = select.poll()
    poller.register(1, 0)  # POLLERR is always told
    return any(events & select.POLLERR for _, events in poller.poll(0))


def silence(*descriptors: int) -> None:
    """The reader has gone: what is still buffered must not raise at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors or (1, 2):
        os.dup2(null, descriptor)
    os.close(null)
