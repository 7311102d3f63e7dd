"""Where vmctl keeps things: system folders for root, XDG folders for everybody else.

``VMCTL_STATE_DIR`` moves all of it below one folder (tests, and ledgers for experiments).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """``state`` outlives a reboot (ledger, images, instances), ``run`` does not (locks, sockets)."""

    state: Path
    run: Path
    user_config: Path
    system_config: Path = Path("/etc/vmctl/config.toml")

    @property
    def ledger(self) -> Path:
        return self.state / "ledger.db"

    @property
    def images(self) -> Path:
        return self.state / "images"

    @property
    def instances(self) -> Path:
        return self.state / "instances"

    @property
    def cache(self) -> Path:
        return self.state / "cache"

    @property
    def log(self) -> Path:
        return self.state / "log" / "vmctl.log"

    def instance(self, instance_id: str) -> Path:
        """The folder of one instance. QEMU runs as another user, so the way to it stays searchable (0711)."""
        return self.instances / instance_id


def default_paths() -> Paths:
    """The folders of this caller and environment; nothing is created."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "vmctl" / "config.toml"
    if moved := os.environ.get("VMCTL_STATE_DIR"):
        base = Path(moved).absolute()
        return Paths(state=base, run=base / "run", user_config=config)
    if os.geteuid() == 0:
        return Paths(state=Path("/var/lib/vmctl"), run=Path("/run/vmctl"), user_config=config)
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    state = data / "vmctl"
    # Not XDG_RUNTIME_DIR: cron and a login shell differ in it, and one ledger MUST have one folder of locks.
    return Paths(state=state, run=state / "run", user_config=config)
