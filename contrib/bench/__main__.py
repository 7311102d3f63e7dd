"""Measures vmctl side by side with the tools underneath, in one run, and says which goals are met.

Needs what ``make setup`` sets up. Everything it makes is in a ledger and a folder of its own, and removed at the end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contrib.bench.measure import Contender, Failed, Goal, command, interleave, report, run
from contrib.bench.qemu import boot_to_poweroff
from vmctl.images.recipe import Base, BuildRecipe
from vmctl.images.store import ImageStore
from vmctl.model.image import ImageForm
from vmctl.model.process import DEFAULT_PATH, Process
from vmctl.paths import default_paths

_IMAGE = "bench"
_TRUE = ("--", "true")
_PARTS = ("ps", "container", "app", "vm")
_VM_MEMORY = 512 << 20
_FLEET = {"container": ("128M", 4), "app": ("64M", 4), "vm": ("128M", 2)}


class Bench:
    """A state folder with one image in it, and the contenders around that."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self._vmctl = str(Path(sys.executable).with_name("vmctl"))
        self._env = {key: value for key, value in os.environ.items() if not key.startswith("VMCTL_")}
        self._env["VMCTL_STATE_DIR"] = str(state)
        self.store = ImageStore(state / "images", state / "cache")
        self.view = self.store.build(_IMAGE, BuildRecipe(base=Base.BUSYBOX))

    def vmctl(self, name: str, *arguments: str) -> Contender:
        """The installed ``vmctl``, in this bench's ledger."""
        return command(name, self._vmctl, *arguments, env=self._env)

    def once(self, *arguments: str) -> None:
        """A command that is not measured."""
        run(self._vmctl, *arguments, env=self._env)

    def output(self, *arguments: str) -> str:
        """What a command says. Raises Failed."""
        done = subprocess.run([self._vmctl, *arguments], env=self._env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"vmctl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def ps(self, runs: int) -> bool:
        """``vmctl ps`` of ten instances beside the lists of the daemons that hold six of them."""
        for kind, (memory, count) in _FLEET.items():
            for _ in range(count):
                self.once("run", "-d", "--kind", kind, "--cpus", "0.05", "-m", memory, _IMAGE, "--", "sleep", "3600")
        contenders = [
            self.vmctl("vmctl ps", "ps"),
            command("virsh list --all", "virsh", "-q", "list", "--all"),
            command("docker ps -a", "docker", "ps", "-a"),
        ]
        times = interleave(contenders, runs)
        self.clear()
        goal = Goal("vmctl ps", ("virsh list --all", "docker ps -a"), 5)
        return report("List ten instances (4 containers, 4 apps, 2 machines)", times, [goal])

    def container(self, runs: int) -> bool:
        """One container, start to end."""
        contenders = [self.vmctl("vmctl run --kind container", *_run("container")), self._docker()]
        goal = Goal("vmctl run --kind container", ("docker run --rm",), 1.5)
        return report("Run 'true' in a container", interleave(contenders, runs), [goal])

    def app(self, runs: int) -> bool:
        """One application, start to end."""
        tree = self.store.prepare(_IMAGE, ImageForm.TREE).tree
        bare = (
            "bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", str(tree), "/", "--proc", "/proc",
            "--dev", "/dev", "--tmpfs", "/tmp", "--", "/bin/true",
        )  # fmt: skip
        contenders = [self.vmctl("vmctl run --kind app", *_run("app")), self._docker(), command("bwrap", *bare)]
        goal = Goal("vmctl run --kind app", ("docker run --rm",), 1)
        times = interleave(contenders, runs)
        return report("Run 'true' as an application (bwrap alone: no limits, no filter, no log)", times, [goal])

    def vm(self, runs: int) -> bool:
        """One machine, from start to power-off."""
        image = self.store.prepare(_IMAGE, ImageForm.DISK)
        native = self.output("run", "--rm", "--kind", "vm", "--print-native", _IMAGE, *_TRUE)
        accel = "kvm" if 'type="kvm"' in native else "tcg"
        process = Process(argv=("true",), env={"PATH": DEFAULT_PATH})
        raw = Contender("QEMU", lambda: boot_to_poweroff(image, process, accel=accel, memory=_VM_MEMORY))
        contenders = [self.vmctl("vmctl run --kind vm", *_run("vm", "-m", str(_VM_MEMORY))), raw]
        goal = Goal("vmctl run --kind vm", ("QEMU",), 1.5)
        return report(f"Run 'true' in a machine ({accel})", interleave(contenders, runs), [goal])

    def clear(self) -> None:
        """Remove every instance."""
        if names := self.output("ps", "-aq").split():
            self.once("rm", "-f", *names)

    def _docker(self) -> Contender:
        """The same image in the engine, under its id there; vmctl would load it at its first run."""
        run("docker", "load", stdin=b"".join(self.store.docker_archive(_IMAGE)))
        return command("docker run --rm", "docker", "run", "--rm", self.view.config_digest, "true")


def _run(kind: str, *options: str) -> tuple[str, ...]:
    return ("run", "--rm", "--kind", kind, *options, _IMAGE, *_TRUE)


@contextmanager
def bench() -> Iterator[Bench]:
    """A bench that leaves nothing, whichever way it ends. Kernels are shared with the caller's own state."""
    state = Path(tempfile.mkdtemp(prefix="vmctl-bench-", dir="/var/tmp"))
    state.chmod(0o711)
    own = default_paths().state / "kernels"
    try:
        if own.is_dir():
            (state / "kernels").symlink_to(own)
        made = Bench(state)
        loaded_before = _in_engine(made.view.config_digest)
        try:
            yield made
        finally:
            made.clear()
            if not loaded_before and _in_engine(made.view.config_digest):
                run("docker", "rmi", made.view.config_digest)
    finally:
        shutil.rmtree(state)


def _in_engine(config_digest: str) -> bool:
    try:
        run("docker", "image", "inspect", config_digest)
    except (Failed, FileNotFoundError):
        return False
    return True


def main() -> int:
    """0, or 1 when something could not be measured, or with ``--strict`` when a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m contrib.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(_PARTS)} (default: all)")
    parser.add_argument("--runs", type=int, default=10, help="measured runs of each contender (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="end with 1 when a goal is missed")
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(_PARTS):
        parser.error(f"no part called {', '.join(sorted(unknown))}; there are {', '.join(_PARTS)}")
    if chosen.runs < 1:
        parser.error("at least one run")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"{chosen.runs} runs each, in turn; seconds; ratios of medians decide.")
    measured, met = True, True
    with bench() as made:
        for part in chosen.parts or _PARTS:
            try:
                met = getattr(made, part)(chosen.runs) and met
            except Failed as error:
                measured = False
                print(f"\n{part}: not measured: {error}")
    return int(not measured or (chosen.strict and not met))


if __name__ == "__main__":
    sys.exit(main())
