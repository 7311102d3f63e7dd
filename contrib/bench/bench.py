"""``make bench``: vmctl beside the tools underneath, in one run, as ratios.

Ours and theirs take turns, so that a busy moment of the host falls on both; the ratio is that of the medians.
Works in a ledger of its own and removes what it made.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from vmctl.images.initramfs import build_initramfs
from vmctl.images.kernel import KernelStore, find_busybox
from vmctl.paths import default_paths

IMAGE = "bench"
WARM_UP = 1
POPULATION = {"container": 4, "app": 4, "vm": 2}
POWEROFF = b"#!/busybox sh\n/busybox mount -t proc proc /proc\n/busybox poweroff -f\n"

Command = list[str]


class Case(NamedTuple):
    """``goal``: the ratio that ours over theirs is not to exceed; None: shown for comparison only."""

    what: str
    ours: Command
    peer: str
    theirs: list[Command]
    goal: float | None


class Bench:
    """Commands in a state folder of their own."""

    def __init__(self, state: Path, rounds: int) -> None:
        self.state = state
        self.rounds = rounds
        self.environment = os.environ | {"VMCTL_STATE_DIR": str(state)}

    def vmctl(self, *args: str) -> Command:
        """A call of the program that users call."""
        return [str(Path(sys.executable).parent / "vmctl"), *args]

    def run(self, command: Command) -> str:
        """Its stdout. Ends the program, with the command's words, when it fails."""
        done = subprocess.run(command, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed ({done.returncode}): {done.stderr.strip()}")
        return done.stdout

    def measure(self, case: Case) -> tuple[list[float], list[float]]:
        """Seconds of each round, ours and theirs."""
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(WARM_UP + self.rounds):
            for commands, times in (([case.ours], ours), (case.theirs, theirs)):
                begun = time.perf_counter()
                for command in commands:
                    self.run(command)
                times.append(time.perf_counter() - begun)
        return ours[WARM_UP:], theirs[WARM_UP:]


@contextmanager
def own_state() -> Iterator[Path]:
    """A fresh state folder with the host's kernels."""
    state = Path(tempfile.mkdtemp(prefix="vb-", dir="/var/tmp"))
    state.chmod(0o711)
    (state / "kernels").symlink_to(default_paths().state / "kernels")
    try:
        yield state
    finally:
        shutil.rmtree(state, ignore_errors=True)


@contextmanager
def population(bench: Bench) -> Iterator[None]:
    """Ten running instances."""
    names = [f"bench-{kind}-{number}" for kind, count in POPULATION.items() for number in range(count)]
    try:
        for name in names:
            kind = name.split("-")[1]
            size = ["--cpus", "0.1", "-m", "128M"]
            bench.run(bench.vmctl("run", "-d", "--kind", kind, "--name", name, *size, IMAGE, "--", "sleep", "3600"))
        yield
    finally:
        subprocess.run(bench.vmctl("rm", "-f", *names), env=bench.environment, capture_output=True)


def raw_qemu(state: Path) -> Command:
    """The same kernel by hand, to user space and off."""
    kernel = KernelStore(state).ensure()
    initramfs = state / "poweroff.cpio"
    initramfs.write_bytes(build_initramfs(POWEROFF, find_busybox().read_bytes(), {}))
    machine = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "Nehalem", "-m", "256", "-nodefaults"]
    command_line = "console=ttyS0 quiet panic=-1 cryptomgr.notests tsc=reliable no_timer_check mitigations=off"
    boot = ["-kernel", str(kernel.path), "-initrd", str(initramfs), "-append", command_line]
    return [*machine, "-no-user-config", "-display", "none", "-no-reboot", "-serial", f"file:{state}/serial", *boot]


def listing_case(bench: Bench) -> Case:
    listings = [["virsh", "-q", "-c", "qemu:///system", "list", "--all"], ["docker", "ps", "-a"]]
    return Case("ps, 10 instances", bench.vmctl("ps"), "virsh list --all; docker ps -a", listings, 5.0)


def run_cases(bench: Bench) -> list[Case]:
    digest = bench.run(bench.vmctl("image", "inspect", IMAGE, "--format", "{{.ConfigDigest}}")).strip()
    docker = ["docker", "run", "--rm", digest, "true"]
    bwrap = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]

    def run(kind: str) -> Command:
        return bench.vmctl("run", "--rm", "--kind", kind, IMAGE, "--", "true")

    return [
        Case("run --rm container", run("container"), "docker run --rm", [docker], 1.5),
        Case("run --rm app", run("app"), "docker run --rm", [docker], 1.0),
        Case("run --rm app", run("app"), "bwrap", [bwrap], None),
        Case("run --rm vm", run("vm"), "QEMU, same kernel", [raw_qemu(bench.state)], 1.5),
    ]


def show(bench: Bench, case: Case) -> bool:
    """Measure and print one row; whether the goal is met."""
    ours, theirs = bench.measure(case)
    ratio = statistics.median(ours) / statistics.median(theirs)
    met = case.goal is None or ratio <= case.goal
    goal = "" if case.goal is None else f"{case.goal:.1f}{'' if met else '  MISSED'}"
    print(f"{case.what:20} {spread(ours):>15}  {case.peer:32} {spread(theirs):>15} {ratio:6.2f}  {goal}", flush=True)
    return met


def spread(times: list[float]) -> str:
    """Minimum and median in milliseconds."""
    return f"{min(times) * 1000:.0f}/{statistics.median(times) * 1000:.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured (default: 7)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    args = parser.parse_args()
    with own_state() as state:
        bench = Bench(state, args.rounds)
        bench.run(bench.vmctl("image", "build", IMAGE, "--from", "busybox"))
        try:
            print(f"{'vmctl':20} {'ms min/median':>15}  {'beside':32} {'ms min/median':>15}  ratio  goal")
            with population(bench):
                met = [show(bench, listing_case(bench))]
            met += [show(bench, case) for case in run_cases(bench)]
        finally:
            bench.run(bench.vmctl("image", "rm", IMAGE))
    return 1 if args.check and not all(met) else 0


if __name__ == "__main__":
    sys.exit(main())
