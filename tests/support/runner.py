"""Runs the real command line in a process of its own, with a ledger of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PYTHON = sys.executable


@dataclass(frozen=True)
class Result:
    """What a finished ``vmctl`` left: its exit code, and its two streams apart."""

    args: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        return self.stdout.decode(errors="replace")

    @property
    def err(self) -> str:
        return self.stderr.decode(errors="replace")

    def expect(self, code: int = 0) -> Result:
        """Itself, if it ended with ``code``; else AssertionError with everything it said."""
        assert self.code == code, f"expected exit {code}: {self}"
        return self

    def __str__(self) -> str:
        return f"$ vmctl {' '.join(self.args)}\n-> {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Vmctl:
    """``vmctl("ps", "-a")`` runs the command in the ledger below ``state_dir``, away from the user's configuration.

    Temporary files go to ``state_dir/tmp``, where a leftover check finds them.
    """

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        for folder in ("tmp", "home", "cwd"):
            (state_dir / folder).mkdir(exist_ok=True)
        # Tests run side by side, and see each other's instances as foreign: CPUs must not be what they fight for.
        (state_dir / "host.json").write_text('{"cpus": 64}')

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        """The caller's, without what would steer vmctl, and with this ledger."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("VMCTL_", "XDG_", "COLUMNS"))}
        ours = {
            "VMCTL_STATE_DIR": str(self.state_dir),
            "HOME": str(self.state_dir / "home"),
            "TMPDIR": str(self.state_dir / "tmp"),
            "VMCTL_HOST_FACTS": str(self.state_dir / "host.json"),
            "LC_ALL": "C.UTF-8",
        }
        return kept | ours | (extra or {})

    def __call__(
        self,
        *args: str,
        stdin: bytes | str | None = None,
        timeout: float = 120,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Result:
        """Run to the end. ``stdin`` None is /dev/null. TimeoutExpired kills it and fails the test."""
        done = subprocess.run(
            [PYTHON, "-m", "vmctl", *args],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            env=self.environment(env),
            cwd=cwd or self.state_dir / "cwd",
            check=False,
        )
        return Result(args, done.returncode, done.stdout, done.stderr)

    def json(self, *args: str) -> Any:
        """The ``items`` of a listing, or the whole document where it has none; the command must succeed."""
        document = json.loads(self(*args, "--format", "json").expect().out)
        return document.get("items", document)

    def start(self, *args: str, env: dict[str, str] | None = None, **popen: Any) -> subprocess.Popen[bytes]:
        """Run in the background, pipes on all three streams unless told otherwise; the caller waits for it."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [PYTHON, "-m", "vmctl", *args],
            env=self.environment(env),
            cwd=self.state_dir / "cwd",
            **(pipes | popen),
        )
