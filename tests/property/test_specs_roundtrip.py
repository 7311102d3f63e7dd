"""A spec survives JSON, and the file that ``--dry-run`` shows makes it again."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vmctl.config import OPTIONS, Config, Value
from vmctl.model.spec import InstanceSpec, Machine, Mount, Port
from vmctl.model.state import Kind, RestartPolicy
from vmctl.output.machine import dump_yaml
from vmctl.specs.load import decode, parse
from vmctl.specs.merge import Layer, build_spec, to_form

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12)
WORD = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9]", fullmatch=True)
PATH = st.from_regex(r"(/[a-z]{1,5}){1,3}", fullmatch=True)
SIZE = st.integers(1, 1 << 50)

MOUNTS = st.lists(
    st.builds(Mount, source=PATH | WORD, target=PATH, read_only=st.booleans()),
    max_size=3,
    unique_by=lambda mount: mount.target,
)
PORTS = st.lists(
    st.builds(
        Port,
        port=st.integers(1, 65535),
        host_port=st.integers(0, 65535),
        host_address=st.sampled_from(["127.0.0.1", "0.0.0.0", "::1"]),
        protocol=st.sampled_from(["tcp", "udp"]),
    ),
    max_size=3,
    unique=True,
)


@st.composite
def specs(draw: st.DrawFn) -> InstanceSpec:
    """Any spec that the command line can make (files of machines left out: they must exist)."""
    kind = draw(st.sampled_from(Kind))
    restart = draw(st.sampled_from(RestartPolicy))
    machine = Machine(accel=draw(st.sampled_from(["auto", "kvm", "tcg"])), cmdline=draw(st.none() | WORD))
    return InstanceSpec(
        kind=kind,
        name=draw(WORD),
        backend=draw(WORD),
        project=draw(WORD),
        image=draw(WORD),
        command=tuple(draw(st.lists(TEXT, max_size=3))),
        entrypoint=draw(st.none() | st.lists(TEXT, min_size=1, max_size=2).map(tuple)),
        env=draw(st.dictionaries(WORD, TEXT, max_size=3)),
        workdir=draw(st.none() | PATH),
        user=draw(st.none() | WORD),
        hostname=draw(st.none() | WORD),
        labels=draw(st.dictionaries(WORD, WORD, max_size=3)),
        cpu_millis=draw(st.integers(1, 100_000_000)),
        memory=draw(SIZE.map(lambda size: size * 4096)),
        disk=draw(SIZE),
        pids=draw(st.integers(1, 999_999_999)),
        mounts=tuple(draw(MOUNTS)),
        ports=tuple(draw(PORTS)),
        network=draw(WORD),
        tty=draw(st.booleans()),
        stdin=draw(st.booleans()),
        read_only=draw(st.booleans()),
        restart=restart,
        restart_max=draw(st.integers(0, 99)) if restart is RestartPolicy.ON_FAILURE else 0,
        remove=draw(st.booleans()) and restart is RestartPolicy.NO,
        stop_signal=draw(st.sampled_from([None, "SIGINT", "SIGTERM"])),
        stop_timeout=float(draw(st.integers(0, 600))),
        ttl=draw(st.none() | st.integers(1, 10**6).map(float)),
        machine=machine if kind is Kind.VM else Machine(),
    )


CONFIG = Config({option.name: Value(option, option.default, "built in") for option in OPTIONS})
_CHANGED = {"restart": "always", "network": "none", "memory": "3G"}
OTHER = Config({option.name: Value(option, _CHANGED.get(option.name, option.default), "test") for option in OPTIONS})


@given(specs())
def test_json(spec: InstanceSpec) -> None:
    assert msgspec.json.decode(msgspec.json.encode(spec), type=InstanceSpec) == spec


@settings(max_examples=60)
@given(specs(), st.sampled_from(["json", "yaml"]), st.sampled_from([CONFIG, OTHER]))
def test_files(spec: InstanceSpec, format: str, config: Config) -> None:
    form = to_form(spec)
    text = json.dumps(form) if format == "json" else dump_yaml(form)
    layer = Layer(decode(parse(text, f".{format}", "f"), "f"), "{}", Path("/nowhere"))
    assert build_spec([layer], config) == spec


@given(specs())
def test_yaml_is_read_alike_by_others(spec: InstanceSpec) -> None:
    """What is written as YAML means the same to a YAML 1.1 reader."""
    form = to_form(spec)
    assert yaml.safe_load(dump_yaml(form)) == json.loads(json.dumps(form))
