"""What set-up promises: pinned versions, documented targets, examples that can be read, refusals with a remedy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from vmctl.config import load_config
from vmctl.paths import default_paths
from vmctl.specs.load import load_spec
from vmctl.specs.merge import Layer, build_spec

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "contrib" / "setup" / "setup.sh"
EXAMPLES = sorted((ROOT / "contrib" / "examples").glob("*-*.*"))
TOOLS = ("sh", "awk", "sed", "tr", "grep", "dirname", "cat", "sha256sum", "find", "mkdir", "tail", "sleep", "id")


def pins() -> dict[str, str]:
    lines = (ROOT / "contrib" / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_pinned_to_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {normal(re.split(r"[<>=~!\[ ]", text)[0]) for text in wanted}
    pinned = {normal(name): pin for name, pin in pins().items()}
    assert names <= pinned.keys()
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.]*", pin) for pin in pinned.values()), "versions only: no URL, no hash"


def test_the_environment_is_the_pinned_one() -> None:
    assert {name: version(name) for name in pins()} == pins()


def test_packages_are_listed_once() -> None:
    lines = (SETUP.parent / "packages.txt").read_text().splitlines()
    names = [line.lstrip("?") for line in lines if line and not line.startswith("#")]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", name) for name in names)


def test_make_explains_every_target() -> None:
    shown = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = {line.split()[0] for line in shown.splitlines()}
    assert targets == {"help", "setup", "demo", "test", "check", "bench", "docs", "clean"}


def test_ci_requires_every_backend() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "VMCTL_TEST_REQUIRE=libvirt,docker,sandbox" in script
    assert "make test" in script


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid(example: Path) -> None:
    layer = Layer(load_spec(str(example)), "{}", example.parent)
    spec = build_spec([layer], load_config(default_paths(), {}))
    assert spec.name
    assert spec.command


def test_the_example_configuration_is_valid() -> None:
    config = load_config(default_paths(), {}, ROOT / "contrib" / "examples")
    assert config.text("memory") == "256M"


def fake(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A PATH with a few tools, to which a test adds what it wants a host to have."""
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, tool
        (tmp_path / tool).symlink_to(found)
    return tmp_path


def refused(path: Path) -> subprocess.CompletedProcess[str]:
    """Run a copy of set-up that has only ``path`` (no sbin to fall back to), and logs there."""
    copy = path / "setup"
    shutil.copytree(SETUP.parent, copy)
    common = copy / "common.sh"
    common.write_text(
        re.sub(r"^PATH=.*$", "", common.read_text(), flags=re.MULTILINE).replace("/var/log/vmctl-setup", f"{path}/logs")
    )
    return subprocess.run(
        ["sh", str(copy / "setup.sh")],
        env={"PATH": str(path), "VMCTL_GOAL": "demo"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_other_distributions_get_the_list_of_packages(bare_path: Path) -> None:
    done = refused(bare_path)
    assert done.returncode == 1
    assert done.stderr.startswith("setup: this is neither Debian nor Ubuntu\nremedy: install these")
    assert "libvirt-daemon-system" in done.stderr
    assert "VMCTL_SETUP_PACKAGES=skip make setup" in done.stderr


def test_who_is_not_root_gets_the_command_to_type(bare_path: Path) -> None:
    (bare_path / "id").unlink()
    fake(bare_path, "id", "echo 1000")
    fake(bare_path, "dpkg-query", "echo tini installed")
    fake(bare_path, "apt-get", "exit 1")
    fake(bare_path, "apt-cache", "exit 0")
    done = refused(bare_path)
    assert done.returncode == 1
    assert done.stderr.startswith("setup: not root, and these packages are missing: qemu-system-x86 ")
    assert " tini" not in done.stderr
    assert done.stderr.endswith("\nremedy: sudo make demo\n")


def test_a_failed_installation_shows_the_words_of_apt(bare_path: Path) -> None:
    (bare_path / "id").unlink()
    fake(bare_path, "id", "echo 0")
    fake(bare_path, "dpkg-query", "true")
    fake(bare_path, "apt-get", "echo E: Unable to locate package; exit 100")
    fake(bare_path, "apt-cache", "exit 0")
    done = refused(bare_path)
    assert done.returncode == 1
    assert "E: Unable to locate package" in done.stderr
    assert "remedy: apt-get install qemu-system-x86" in done.stderr
    assert "ovmf" not in done.stderr, "optional packages that the archive lacks are left out"
