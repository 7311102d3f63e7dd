"""The front door: ``--version`` before Typer is imported; errors and signals become exit codes here, and only here."""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] in (["--version"], ["version"]) and "--help" not in words:
        from vmctl import __version__

        sys.stdout.write(f"vmctl {__version__}\n")
        return 0
    from vmctl.cli.front import guarded

    return guarded(words)


if __name__ == "__main__":
    sys.exit(main())
