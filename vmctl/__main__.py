"""The front door: ``--version`` before Typer is imported; errors and signals become exit codes here, and only here."""

from __future__ import annotations

import gc
import os
import sys

# A command imports much, makes no garbage to speak of, and ends: collecting while it imports is a tenth of its time.
gc.set_threshold(100_000)


def _open_standard_streams() -> None:
    """A stream that the caller closed becomes /dev/null: else the ledger's file could become descriptor 1."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - lives as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    _open_standard_streams()
    words = sys.argv[1:] if argv is None else argv
    if words[:1] in (["--version"], ["version"]) and "--help" not in words:
        from vmctl import __version__

        try:
            sys.stdout.write(f"vmctl {__version__}\n")
            sys.stdout.flush()
            return 0
        except OSError:
            words = ["version"]  # once more, where it is said what is wrong
    from vmctl.cli.front import guarded

    return guarded(words)


if __name__ == "__main__":
    sys.exit(main())
