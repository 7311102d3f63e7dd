"""What a command may not load. Modules are named and counted, time is not measured: only ratios of the same run are."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.runner import Vmctl
from vmctl.cli.table import VERBS

HEAVY = frozenset(
    {
        "asyncio", "concurrent.futures", "docker", "email", "http.client", "importlib.metadata", "libvirt",
        "multiprocessing", "paramiko", "pydantic", "requests", "rich", "ssl", "textual", "unittest", "urllib3",
        "xml.etree.ElementTree", "yaml",
    }
)  # fmt: skip
"""Nothing that lists, completes or explains needs any of these."""

FRAMEWORK = frozenset(["typer", "msgspec"])

PROBE = """
import json, os, sys
from vmctl.__main__ import main
try:
    code = main(sys.argv[2:])
finally:
    sys.stdout.flush()
    with open(sys.argv[1], "w") as file:
        json.dump(sorted(sys.modules), file)
sys.exit(code)
"""


def loaded(vmctl: Vmctl, *words: str, code: int = 0, **variables: str) -> set[str]:
    """The modules that a fresh process has loaded after running ``words``."""
    report = vmctl.state_dir / "tmp" / "modules.json"
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(report), *words],
        env=vmctl.environment(variables),
        cwd=vmctl.state_dir / "cwd",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done
    modules = set(json.loads(report.read_text()))
    report.unlink()
    return modules


def backends(modules: set[str]) -> set[str]:
    """Names of the backends of which anything is loaded."""
    names = {name.split(".")[2] for name in modules if name.startswith("vmctl.backends.")}
    return names & {"libvirt", "docker", "sandbox", "fake"}


@pytest.mark.parametrize("words", [["--version"], ["version"], ["--help"], ["help"], []])
def test_the_quickest_answers_do_not_load_the_framework(vmctl: Vmctl, words: list[str]) -> None:
    modules = loaded(vmctl, *words)
    assert modules & (HEAVY | FRAMEWORK) == set()
    assert len(modules) < 130


def test_version_loads_nothing_of_ours(vmctl: Vmctl) -> None:
    assert {name for name in loaded(vmctl, "--version") if name.startswith("vmctl")} == {"vmctl", "vmctl.__main__"}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.name != "help"], ids=lambda verb: verb.name)
def test_help_of_a_verb_loads_no_other_verb(vmctl: Vmctl, verb: object) -> None:
    name, module = verb.name, verb.module  # type: ignore[attr-defined]
    modules = loaded(vmctl, name, "--help")
    assert modules & HEAVY == set()
    assert backends(modules) == set()
    if name != "version":
        commands = {name for name in modules if name.startswith("vmctl.cli.commands.")}
        assert commands == {f"vmctl.cli.commands.{module}"}


@pytest.mark.parametrize("words", [[""], ["st"], ["image", ""], ["run", "--kind", ""]])
def test_completion_of_words_does_not_load_the_framework(vmctl: Vmctl, words: list[str]) -> None:
    assert loaded(vmctl, "__complete", *words) & (HEAVY | FRAMEWORK) == set()


def test_completion_of_options_loads_one_command(vmctl: Vmctl) -> None:
    modules = loaded(vmctl, "__complete", "run", "--me")
    assert modules & HEAVY == set()
    assert {name for name in modules if name.startswith("vmctl.cli.commands.")} == {"vmctl.cli.commands.run"}


def test_ps_of_nothing_opens_no_backend(vmctl: Vmctl) -> None:
    modules = loaded(vmctl, "ps")
    assert modules & HEAVY == set()
    assert backends(modules) == set()


def test_ps_opens_only_backends_with_instances(vmctl_with_image: Vmctl) -> None:
    created = vmctl_with_image("create", "--backend", "fake", "--name", "web", "busybox", "--", "sleep", "9")
    created.expect()
    modules = loaded(vmctl_with_image, "ps", "-a")
    assert backends(modules) == {"fake"}
    assert modules & HEAVY == set()


def test_configuration_loads_no_backend(vmctl: Vmctl) -> None:
    modules = loaded(vmctl, "config", "ls")
    assert modules & HEAVY == set()
    assert "sqlite3" not in modules


@pytest.mark.docker
def test_ps_with_a_container_loads_no_sdk(vmctl_with_image: Vmctl) -> None:
    vmctl_with_image("create", "--name", "web", "busybox", "--", "sleep", "9").expect()
    try:
        modules = loaded(vmctl_with_image, "ps", "-a")
        assert backends(modules) == {"docker"}
        assert modules & (HEAVY - {"http.client", "email", "urllib3", "ssl"}) == set()
    finally:
        vmctl_with_image("rm", "-f", "web").expect()


def _seconds(command: list[str], environment: dict[str, str], folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def test_start_up_is_a_small_multiple_of_the_interpreter(vmctl: Vmctl) -> None:
    """Side by side in one run, against an interpreter that does nothing; the best of several, as noise only adds."""
    environment = vmctl.environment()
    commands = {
        "nothing": [sys.executable, "-c", "pass"],
        "version": [sys.executable, "-m", "vmctl", "--version"],
        "ps": [sys.executable, "-m", "vmctl", "ps"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(5):
        for name, command in commands.items():
            times[name].append(_seconds(command, environment, vmctl.state_dir / "cwd"))
    best = {name: min(found) for name, found in times.items()}
    assert best["version"] < 4 * best["nothing"], best
    assert best["ps"] < 15 * best["nothing"], best
