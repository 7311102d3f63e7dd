"""Files and flags become specs; unknown keys and contradictions are explained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vmctl.cli.spec_flags import SpecFlags, spec_of
from vmctl.cli.words import SEPARATOR
from vmctl.config import Config, load_config
from vmctl.errors import NotFound, PermissionDenied, UsageError
from vmctl.model.spec import InstanceSpec, Machine, Mount, Port
from vmctl.model.state import Kind, RestartPolicy
from vmctl.paths import Paths
from vmctl.specs.form import SpecForm
from vmctl.specs.load import decode, load_spec, parse
from vmctl.specs.merge import Layer, build_spec, to_form


@pytest.fixture
def config(tmp_path: Path) -> Config:
    paths = Paths(state=tmp_path, run=tmp_path, user_config=tmp_path / "u.toml", system_config=tmp_path / "s.toml")
    return load_config(paths, {}, tmp_path)


def build(config: Config, *documents: dict[str, Any]) -> InstanceSpec:
    layers = [Layer(decode(document, "web.yaml"), "web.yaml: {}", Path("/here")) for document in documents]
    return build_spec(layers, config)


def test_defaults(config: Config) -> None:
    spec = build(config, {"image": "deb"})
    assert (spec.kind, spec.backend, spec.cpu_millis, spec.memory) == (Kind.CONTAINER, "docker", 1000, 512 << 20)


@pytest.mark.parametrize(("kind", "backend"), [("vm", "libvirt"), ("container", "docker"), ("app", "sandbox")])
def test_each_kind_has_its_backend(config: Config, kind: str, backend: str) -> None:
    assert build(config, {"kind": kind, "image": "deb"}).backend == backend


def test_stronger_layers_win_and_tables_merge(config: Config) -> None:
    weak = {"image": "a", "memory": "1G", "env": {"A": 1, "B": 1}, "mounts": ["/a:/x", "/b:/y"], "ports": ["80"]}
    strong = {"memory": "2G", "env": ["B=2"], "mounts": ["/c:/y"], "ports": ["80", "81"], "labels": {"k": "v"}}
    spec = build(config, weak, strong)
    assert spec.memory == 2 << 30
    assert spec.env == {"A": "1", "B": "2"}
    assert spec.mounts == (Mount(source="/a", target="/x"), Mount(source="/c", target="/y"))
    assert spec.ports == (Port(port=80), Port(port=81))
    assert spec.labels == {"k": "v"}


def test_env_wins_over_env_file(config: Config, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A=file\nB=file\n")
    spec = build(config, {"image": "x", "env": {"A": "spec"}, "env-file": str(tmp_path / "env")})
    assert spec.env == {"A": "spec", "B": "file"}


def test_memory_is_whole_pages(config: Config) -> None:
    assert build(config, {"image": "x", "memory": 4097}).memory == 8192


def test_long_forms(config: Config) -> None:
    spec = build(
        config,
        {
            "image": "x",
            "mounts": [{"source": "./d", "target": "/d", "read-only": True}],
            "ports": [{"port": 80, "host-port": 8080}],
        },
    )
    assert spec.mounts == (Mount(source="/here/d", target="/d", read_only=True),)
    assert spec.ports == (Port(port=80, host_port=8080),)


@pytest.mark.parametrize(
    ("document", "message", "hint"),
    [
        ({"memroy": "1G"}, "web.yaml: unknown key 'memroy'", "did you mean 'memory'?"),
        ({"machine": {"kernle": "x"}}, "web.yaml: unknown key 'machine.kernle'", "did you mean 'kernel'?"),
        ({"ports": [{"prt": 1}]}, "web.yaml: unknown key 'ports[0].prt'", "did you mean 'port'?"),
        ({"zzz": 1}, "web.yaml: unknown key 'zzz'", "known keys: kind name"),
        ({"memory": ["1G"]}, "web.yaml: memory: expected int | str, got array", ""),
        ({"kind": "contaner"}, "web.yaml: unknown kind 'contaner'", "did you mean 'container'?"),
        ({"kind": "x"}, "web.yaml: unknown kind 'x'", "one of vm, container, app"),
        ({"command": ["\udcff"]}, "a value is not UTF-8 text", "names, commands"),
        ({"memory": "1X"}, "web.yaml: memory: '1X' is not a size", "write a number"),
        ({"memory": 0}, "web.yaml: memory: size '0' is zero", ""),
        ({"memory": "-1G"}, "web.yaml: memory: '-1G' is not a size", ""),
        ({"cpus": "0"}, "web.yaml: cpus: CPU amount '0' is zero", ""),
        ({"pids": 0}, "web.yaml: pids: '0' is not a whole number above 0", ""),
        ({"pids": -1}, "web.yaml: pids: '-1' is not a whole number above 0", ""),
        ({"name": "Not_Good"}, "web.yaml: name: 'Not_Good' is not a valid instance name", "use 1 to 63"),
        ({"ttl": "0s"}, "web.yaml: ttl: duration '0s' is out of range", ""),
        ({"image": ""}, "web.yaml: image: cannot be empty", ""),
        ({"env": {"A=B": 1}}, "web.yaml: env: 'A=B' is not the name", ""),
        ({"labels": {"-": 1}}, "web.yaml: labels: '-' is not a label's key", ""),
        ({"kind": "vm", "machine": {"accel": "fast"}}, "web.yaml: machine: unknown acceleration 'fast'", ""),
        ({"restart": "alwas"}, "web.yaml: restart: unknown restart policy 'alwas'", "did you mean 'always'?"),
    ],
)
def test_bad_documents_are_explained(config: Config, document: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(config, {"image": "x"} | document)
    assert caught.value.message.startswith(message)
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"kind": "app"},
        {"kind": "vm"},
        {"image": "x", "remove": True, "restart": "always"},
        {"image": "x", "machine": {"cmdline": "quiet"}},
    ],
)
def test_contradictions(config: Config, document: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        build(config, document)
    assert caught.value.hint


def test_a_missing_kernel_is_not_found(config: Config) -> None:
    with pytest.raises(NotFound, match="machine: no file '/here/vmlinuz'"):
        build(config, {"kind": "vm", "machine": {"kernel": "vmlinuz"}})


@pytest.mark.parametrize(
    ("text", "suffix", "message"),
    [
        ("a: [", ".yaml", "f: line 2"),
        ("a: 1\na: 2", ".yaml", "f: line 2: key 'a' is there twice"),
        ("- 1", ".yaml", "f: not a table"),
        ("", ".yaml", "f: not a table"),
        ("!!python/object:os.system x", ".yaml", "f: line 1"),
        ('{"a": 1, "a": 2}', ".json", "f: key 'a' is there twice"),
        ("{", ".json", "f: "),
        ("[" * 100_000, ".json", "f: nested too deeply"),
        ("a = ", ".toml", "f: "),
        ("a = 1\na = 2", ".toml", "f: "),
    ],
)
def test_nonsense_is_explained(text: str, suffix: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        decode(parse(text, suffix, "f"), "f")
    assert caught.value.message.startswith(message)
    assert "\n" not in caught.value.message


def test_yaml_has_no_surprises() -> None:
    """YAML 1.1 would read a base-60 number, a boolean and a date."""
    document = parse("ports: [22:22]\nrestart: no\nname: 2026-01-01\nuser: on", ".yaml", "f")
    assert document == {"ports": ["22:22"], "restart": "no", "name": "2026-01-01", "user": "on"}


def test_yaml_numbers_and_booleans() -> None:
    document = parse("a: 1\nb: 1.5\nc: true\nd: null\ne: ~\nf: -3", ".yaml", "f")
    assert document == {"a": 1, "b": 1.5, "c": True, "d": None, "e": None, "f": -3}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.yaml", "image: deb\ncpus: 1.5\nports: ['8080:80']\n"),
        ("s.toml", "image = 'deb'\ncpus = 1.5\nports = ['8080:80']\n"),
        ("s.json", '{"image": "deb", "cpus": 1.5, "ports": ["8080:80"]}'),
        ("s", "image: deb\ncpus: 1.5\nports: ['8080:80']\n"),
    ],
)
def test_files_of_each_kind(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    form = load_spec(str(tmp_path / name))
    assert (form.image, form.cpus, form.ports) == ("deb", 1.5, ["8080:80"])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_spec(str(tmp_path / "absent.yaml"))
    with pytest.raises(UsageError):
        load_spec(str(tmp_path))
    (tmp_path / "binary").write_bytes(b"\xff\0")
    with pytest.raises(UsageError, match="UTF-8"):
        load_spec(str(tmp_path / "binary"))
    (tmp_path / "large").write_bytes(b" " * (2 << 20))
    with pytest.raises(UsageError, match="larger"):
        load_spec(str(tmp_path / "large"))


def test_a_forbidden_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionDenied):
        load_spec(str(tmp_path / "s.yaml"))


FLAGS = SpecFlags(
    words=["deb", SEPARATOR, "sh", "-c", "echo hi"],
    vm=True,
    name="one",
    cpus="1.5",
    memory="2G",
    disk="20G",
    pids="99",
    env=["A=1"],
    volume=["/a:/b:ro"],
    mount=["type=bind,source=/c,target=/d"],
    publish=["8080:80"],
    network="none",
    label=["k=v"],
    workdir="/w",
    user="1:2",
    hostname="h",
    entrypoint="/bin/e -x",
    interactive=True,
    tty=True,
    read_only=True,
    restart="on-failure:3",
    stop_signal="INT",
    stop_timeout="5s",
    ttl="2h",
    project="p",
    backend="fake",
    accel="tcg",
)


def test_flags(config: Config) -> None:
    assert spec_of(FLAGS, config) == InstanceSpec(
        kind=Kind.VM,
        name="one",
        backend="fake",
        project="p",
        image="deb",
        command=("sh", "-c", "echo hi"),
        entrypoint=("/bin/e", "-x"),
        env={"A": "1"},
        workdir="/w",
        user="1:2",
        hostname="h",
        labels={"k": "v"},
        cpu_millis=1500,
        memory=2 << 30,
        disk=20 << 30,
        pids=99,
        mounts=(Mount(source="/a", target="/b", read_only=True), Mount(source="/c", target="/d")),
        ports=(Port(port=80, host_port=8080),),
        network="none",
        tty=True,
        stdin=True,
        read_only=True,
        restart=RestartPolicy.ON_FAILURE,
        restart_max=3,
        stop_signal="SIGINT",
        stop_timeout=5.0,
        ttl=7200.0,
        machine=Machine(accel="tcg"),
    )


def test_every_flag_reaches_the_spec() -> None:
    """The example above sets every flag except those that name a file or another kind."""
    unset = {item.name for item in dataclasses.fields(SpecFlags) if getattr(FLAGS, item.name) in (None, [], False)}
    assert unset == {"app", "kind", "file", "env_file", "boot_disk", "kernel", "initrd", "cmdline"}


def test_machine_flags(config: Config, tmp_path: Path) -> None:
    for name in ("kernel", "initrd", "disk"):
        (tmp_path / name).touch()
    spec = spec_of(
        SpecFlags(
            kind="vm",
            kernel=str(tmp_path / "kernel"),
            initrd=str(tmp_path / "initrd"),
            boot_disk=str(tmp_path / "disk"),
            cmdline="quiet",
        ),
        config,
    )
    assert spec.machine == Machine(
        kernel=str(tmp_path / "kernel"), initrd=str(tmp_path / "initrd"), disk=str(tmp_path / "disk"), cmdline="quiet"
    )


def test_flags_win_over_the_file(config: Config, tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text("kind: app\nimage: deb\nmemory: 1G\nmounts: ['./data:/data']\n")
    spec = spec_of(SpecFlags(file=str(tmp_path / "web.yaml"), memory="2G"), config, remove=True)
    assert (spec.kind, spec.memory, spec.remove) == (Kind.APP, 2 << 30, True)
    assert spec.mounts == (Mount(source=str(tmp_path / "data"), target="/data"),)


def test_the_config_gives_defaults(tmp_path: Path) -> None:
    paths = Paths(state=tmp_path, run=tmp_path, user_config=tmp_path / "u", system_config=tmp_path / "s")
    config = load_config(paths, {"VMCTL_KIND": "app", "VMCTL_MEMORY": "64M", "VMCTL_BACKEND_APP": "fake"}, tmp_path)
    spec = spec_of(SpecFlags(words=["deb"]), config)
    assert (spec.kind, spec.memory, spec.backend) == (Kind.APP, 64 << 20, "fake")


@pytest.mark.parametrize(
    ("words", "image", "command"),
    [
        (["deb"], "deb", ()),
        (["deb", "ls", "-l"], "deb", ("ls", "-l")),
        (["deb", SEPARATOR, "ls", "-l"], "deb", ("ls", "-l")),
        (["deb", "sh", "-c", "x", SEPARATOR, "y"], "deb", ("sh", "-c", "x", "--", "y")),
        ([SEPARATOR, "ls"], None, ("ls",)),
    ],
)
def test_image_and_command(config: Config, words: list[str], image: str | None, command: tuple[str, ...]) -> None:
    spec = spec_of(SpecFlags(words=words, app=True), config)
    assert (spec.image, spec.command) == (image, command)


@pytest.mark.parametrize(
    "flags",
    [
        SpecFlags(words=["x"], kind="machine"),
        SpecFlags(words=["x"], kind="vm", app=True),
        SpecFlags(words=["x"], vm=True, app=True),
        SpecFlags(words=["x"], memory="lots"),
        SpecFlags(words=["x"], volume=["nonsense"]),
        SpecFlags(words=["x"], publish=["99999"]),
        SpecFlags(words=["x"], stop_timeout="soon"),
    ],
)
def test_bad_flags(config: Config, flags: SpecFlags) -> None:
    with pytest.raises(UsageError):
        spec_of(flags, config)


def test_an_error_names_its_flag(config: Config) -> None:
    with pytest.raises(UsageError, match=r"^--memory: 'lots' is not a size"):
        spec_of(SpecFlags(words=["x"], memory="lots"), config)


def test_the_form_makes_the_same_spec(config: Config) -> None:
    spec = spec_of(FLAGS, config)
    form = msgspec.convert(json.loads(json.dumps(to_form(spec))), SpecForm)
    again = build_spec([Layer(form, "{}", Path("/"))], config)
    assert again == spec
