"""The log file: where warnings and the details of unexpected errors go, never the screen."""

from __future__ import annotations

import logging
import os
import time
import traceback
from io import TextIOWrapper
from pathlib import Path

from vmctl.paths import default_paths

_LARGEST = 4 << 20


class _QuietFile(logging.FileHandler):
    """Opens at the first record; a log that cannot be written must not break the command."""

    def _open(self) -> TextIOWrapper:
        _prepare(Path(self.baseFilename))
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Say nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        """Opening the file may fail, outside of what logging guards."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)


def start_logging() -> None:
    """Warnings, those of libraries too, go to the log file and nowhere else."""
    handler = _QuietFile(default_paths().log, delay=True, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)


def write_traceback(bug: Exception, words: list[str]) -> Path | None:
    """Append the traceback of ``bug``; the file's path, or None if it could not be written.

    Only the verb is noted of the command line: its other words may hold secrets.
    """
    path = default_paths().log
    verb = words[0] if words else ""
    text = "".join(traceback.format_exception(bug))
    entry = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {os.getpid()} unexpected error in 'vmctl {verb}'\n{text}\n"
    try:
        _prepare(path)
        with path.open("a", encoding="utf-8") as file:
            file.write(entry)
    except OSError:
        return None
    return path


def _prepare(path: Path) -> None:
    """The log's folder is private; a file that has grown too large becomes ``vmctl.log.1``."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LARGEST:
        path.replace(path.with_name(path.name + ".1"))
