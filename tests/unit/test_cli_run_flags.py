"""Every flag of ``run``, typed as a user types it, lands where it belongs."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from vmctl.cli.dispatch import load_command
from vmctl.cli.spec_flags import SpecFlags, spec_of
from vmctl.cli.table import BY_NAME
from vmctl.config import load_config
from vmctl.model.spec import InstanceSpec, Mount, Port
from vmctl.model.state import Kind, RestartPolicy
from vmctl.paths import Paths


def typed(words: list[str], tmp_path: Path, verb: str = "run") -> tuple[InstanceSpec, dict[str, Any]]:
    """The spec that ``vmctl run WORDS`` would make, and the flags that are not part of it."""
    context = load_command(BY_NAME[verb]).make_context("vmctl run", list(words))
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in context.params.items()}
    flags = SpecFlags(**{item.name: given.pop(item.name) for item in dataclasses.fields(SpecFlags)})
    paths = Paths(state=tmp_path, run=tmp_path, user_config=tmp_path / "u", system_config=tmp_path / "s")
    return spec_of(flags, load_config(paths, {}, tmp_path), remove=given["remove"]), given


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--kind", "vm"], "kind", Kind.VM),
        (["--vm"], "kind", Kind.VM),
        (["--app"], "kind", Kind.APP),
        (["--name", "web"], "name", "web"),
        (["--cpus", "1.5"], "cpu_millis", 1500),
        (["-m", "2G"], "memory", 2 << 30),
        (["--memory", "2G"], "memory", 2 << 30),
        (["--disk", "20G"], "disk", 20 << 30),
        (["--pids-limit", "7"], "pids", 7),
        (["-e", "A=1", "--env", "B=2"], "env", {"A": "1", "B": "2"}),
        (["-v", "/a:/b:ro"], "mounts", (Mount(source="/a", target="/b", read_only=True),)),
        (["--volume", "data:/b"], "mounts", (Mount(source="data", target="/b"),)),
        (["--mount", "type=bind,source=/a,target=/b"], "mounts", (Mount(source="/a", target="/b"),)),
        (["-p", "8080:80"], "ports", (Port(port=80, host_port=8080),)),
        (["--publish", "80"], "ports", (Port(port=80),)),
        (["--network", "none"], "network", "none"),
        (["-l", "a=1", "--label", "b"], "labels", {"a": "1", "b": ""}),
        (["-w", "/x"], "workdir", "/x"),
        (["--workdir", "/x"], "workdir", "/x"),
        (["-u", "1:2"], "user", "1:2"),
        (["--user", "nobody"], "user", "nobody"),
        (["--hostname", "h"], "hostname", "h"),
        (["--entrypoint", "/e -x"], "entrypoint", ("/e", "-x")),
        (["--rm"], "remove", True),
        (["-i"], "stdin", True),
        (["--interactive"], "stdin", True),
        (["-t"], "tty", True),
        (["--tty"], "tty", True),
        (["-it"], "tty", True),
        (["--read-only"], "read_only", True),
        (["--restart", "always"], "restart", RestartPolicy.ALWAYS),
        (["--restart", "on-failure:3"], "restart_max", 3),
        (["--stop-signal", "INT"], "stop_signal", "SIGINT"),
        (["--stop-timeout", "1m"], "stop_timeout", 60.0),
        (["--ttl", "2h"], "ttl", 7200.0),
        (["--project", "p"], "project", "p"),
        (["--backend", "fake"], "backend", "fake"),
    ],
)
def test_flags(words: list[str], field: str, value: object, tmp_path: Path) -> None:
    for verb in ("run", "create"):
        spec, _ = typed([*words, "deb", "--", "cmd"], tmp_path, verb)
        assert getattr(spec, field) == value
        assert (spec.image, spec.command) == ("deb", ("cmd",))


@pytest.mark.parametrize(
    ("flag", "field"), [("--kernel", "kernel"), ("--initrd", "initrd"), ("--boot-disk", "disk")]
)
def test_files_of_machines(flag: str, field: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "kernel").touch()
    spec, _ = typed(["--vm", "--kernel", f"{tmp_path}/kernel", flag, f"{tmp_path}/file"], tmp_path)
    assert getattr(spec.machine, field) == f"{tmp_path}/file"


@pytest.mark.parametrize(("flag", "value"), [("--cmdline", "console=ttyS0 quiet"), ("--accel", "tcg")])
def test_words_of_machines(flag: str, value: str, tmp_path: Path) -> None:
    spec, _ = typed(["--vm", flag, value, "deb"], tmp_path)
    assert getattr(spec.machine, flag[2:]) == value


def test_env_file_and_inherited_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "env").write_text("A=file\nB=file\n")
    monkeypatch.setitem(os.environ, "FROM_OUTSIDE", "yes")
    words = ["--env-file", f"{tmp_path}/env", "-e", "A=flag", "-e", "FROM_OUTSIDE", "-e", "UNSET_X", "deb"]
    spec, _ = typed(words, tmp_path)
    assert spec.env == {"A": "flag", "B": "file", "FROM_OUTSIDE": "yes"}


def test_a_file_with_flags_over_it(tmp_path: Path) -> None:
    (tmp_path / "web.toml").write_text("image = 'deb'\nmemory = '1G'\ncommand = 'sleep 1'\n")
    spec, _ = typed(["--file", f"{tmp_path}/web.toml", "-m", "2G"], tmp_path)
    assert (spec.image, spec.memory, spec.command) == ("deb", 2 << 30, ("sleep", "1"))
    spec, _ = typed(["-f", f"{tmp_path}/web.toml", "--", "true"], tmp_path)
    assert (spec.image, spec.command) == ("deb", ("true",))


@pytest.mark.parametrize(
    ("words", "image", "command"),
    [
        (["deb"], "deb", ()),
        (["deb", "ls", "-l", "--all"], "deb", ("ls", "-l", "--all")),
        (["deb", "--", "ls", "-l"], "deb", ("ls", "-l")),
        (["deb", "--rm"], "deb", ("--rm",)),
        (["deb", "sh", "-c", "x", "--", "y"], "deb", ("sh", "-c", "x", "--", "y")),
        (["deb", "--", "a", "--", "b"], "deb", ("a", "--", "b")),
        (["--app", "--", "ls", "-l"], None, ("ls", "-l")),
        (["--app", "--", "--odd"], None, ("--odd",)),
    ],
)
def test_what_follows_the_image_is_the_command(
    words: list[str], image: str | None, command: tuple[str, ...], tmp_path: Path
) -> None:
    spec, _ = typed(words, tmp_path)
    assert (spec.image, spec.command) == (image, command)


def test_flags_that_are_not_part_of_the_spec(tmp_path: Path) -> None:
    _, given = typed(["-d", "--dry-run", "--print-native", "--format", "json", "deb"], tmp_path)
    assert given == {"detach": True, "dry_run": True, "print_native": True, "format": "json", "remove": False}
    _, given = typed(["--detach", "deb"], tmp_path)
    assert given["detach"]
