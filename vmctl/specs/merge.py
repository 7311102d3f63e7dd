"""Layers of forms (defaults, file, flags) become one frozen InstanceSpec."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from vmctl.config import OPTIONS, Config
from vmctl.errors import NotFound, UsageError
from vmctl.model.ids import check_name
from vmctl.model.spec import InstanceSpec, Mount, Port
from vmctl.model.state import Kind, RestartPolicy
from vmctl.specs import fields
from vmctl.specs.form import MachineForm, MountForm, PortForm, SpecForm
from vmctl.units import exact_size, format_cpus, parse_cpus, parse_size, round_up_to_page


class Layer(NamedTuple):
    """One form, how its keys are called in messages (``--{}``, ``web.yaml: {}``), and where its paths start.

    ``names`` has the keys that go by another name; one with an empty name is not mentioned.
    """

    form: SpecForm
    label: str
    folder: Path
    names: Mapping[str, str] = {}


def build_spec(layers: list[Layer], config: Config) -> InstanceSpec:
    """Merge ``layers``, the strongest last, over the defaults of ``config``. Raises UsageError, NotFound.

    env and labels merge by key, mounts by target; ports add up; everything else is replaced.
    """
    values: dict[str, Any] = {}
    for layer in (_defaults(config), *layers):
        _merge(values, _read(layer))
    kind: Kind = values["kind"]
    values.setdefault("backend", config.backend(kind))
    machine = values.pop("machine", {})
    if machine and kind is not Kind.VM:
        raise UsageError(f"'{next(iter(machine))}' is for virtual machines only", hint="add --vm")
    if kind is Kind.VM:
        machine.setdefault("accel", config.text("accel"))
    spec = msgspec.convert({**values, "machine": machine}, InstanceSpec)
    _check(spec)
    return spec


def _defaults(config: Config) -> Layer:
    values = {option.field: config.text(option.name) for option in OPTIONS if option.field}
    return Layer(msgspec.convert(values, SpecForm), "option {}", Path())


def _merge(values: dict[str, Any], stronger: Mapping[str, Any]) -> None:
    for key, value in stronger.items():
        if key in ("env", "labels", "machine"):
            values[key] = {**values.get(key, {}), **value}
        elif key == "mounts":
            by_target: dict[str, Mount] = {mount.target: mount for mount in (*values.get(key, ()), *value)}
            values[key] = tuple(by_target.values())
        elif key == "ports":
            values[key] = tuple(dict.fromkeys((*values.get(key, ()), *value)))
        else:
            values[key] = value


def _check(spec: InstanceSpec) -> None:
    try:
        msgspec.json.encode(spec)
    except UnicodeEncodeError as error:
        raise UsageError("a value is not UTF-8 text", hint="names, commands and environments must be") from error
    if spec.remove and spec.restart is not RestartPolicy.NO:
        raise UsageError("--rm and --restart contradict each other", hint="leave one of them out")
    if spec.image is None and spec.kind is Kind.CONTAINER:
        raise UsageError("a container needs an image", hint="vmctl run IMAGE -- COMMAND; 'vmctl image ls' lists images")
    if spec.image is None and spec.kind is Kind.APP and not spec.command:
        raise UsageError("an app needs an image or a command of the host", hint="vmctl run --app -- COMMAND")
    if spec.image is None and spec.kind is Kind.VM and not (spec.machine.disk or spec.machine.kernel):
        raise UsageError("a VM needs an image, a disk or a kernel", hint="vmctl run --vm IMAGE, or --boot-disk FILE")


@contextmanager
def _named(layer: Layer, key: str) -> Iterator[None]:
    """Errors inside name the key they are about."""
    try:
        yield
    except (UsageError, NotFound) as error:
        name = layer.names.get(key, key)
        prefix = f"{layer.label.format(name)}: " if name else ""
        raise type(error)(prefix + error.message, hint=error.hint) from error


def _read(layer: Layer) -> dict[str, Any]:
    """The fields of InstanceSpec that ``layer`` sets, parsed."""
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(SpecForm):
        given = getattr(layer.form, field.name)
        if given is UNSET:
            continue
        with _named(layer, field.encode_name):
            _merge(values, _READERS[field.name](given, layer.folder))
    return values


_Reader = Callable[[Any, Path], Mapping[str, object]]


def _as(name: str, parse: Callable[[Any], object]) -> _Reader:
    return lambda given, folder: {name: parse(given)}


def _text(given: object) -> object:
    if not str(given) or "\0" in str(given):
        raise UsageError("cannot be empty" if not str(given) else "contains a NUL byte")
    return given


def _restart(given: str, folder: Path) -> Mapping[str, object]:
    policy, tries = fields.parse_restart(given)
    return {"restart": policy, "restart_max": tries}


def _env(given: Any, folder: Path) -> Mapping[str, object]:
    return {"env": fields.check_env(fields.parse_pairs(given, inherit=os.environ))}


def _env_file(given: str | list[str], folder: Path) -> Mapping[str, object]:
    files = [given] if isinstance(given, str) else given
    lines = [line for file in files for line in fields.read_env_file(folder / file)]
    return _env(lines, folder)


def _labels(given: Any, folder: Path) -> Mapping[str, object]:
    return {"labels": fields.check_labels(fields.parse_pairs(given, inherit=None))}


def _mounts(given: list[str | MountForm], folder: Path) -> Mapping[str, object]:
    def one(item: str | MountForm) -> Mount:
        if isinstance(item, str):
            long = "=" in item.partition(":")[0] and "," in item
            return fields.parse_long_mount(item, folder) if long else fields.parse_mount(item, folder)
        return fields.make_mount(item.source, item.target, item.read_only, folder)

    return {"mounts": tuple(one(item) for item in given)}


def _ports(given: list[str | int | PortForm], folder: Path) -> Mapping[str, object]:
    def one(item: str | int | PortForm) -> Port:
        if isinstance(item, PortForm):
            return fields.check_port(msgspec.convert(item, Port, from_attributes=True))
        return fields.parse_port(str(item))

    return {"ports": tuple(one(item) for item in given)}


def _machine(given: MachineForm, folder: Path) -> Mapping[str, object]:
    values: dict[str, object] = {}
    for field in msgspec.structs.fields(MachineForm):
        value = getattr(given, field.name)
        if value is not UNSET:
            is_file = field.name in ("kernel", "initrd", "disk")
            values[field.name] = fields.existing_file(value, folder) if is_file else value
    if values.get("accel", "auto") not in ("auto", "kvm", "tcg"):
        raise UsageError(f"unknown acceleration '{values['accel']}'", hint="one of auto, kvm, tcg")
    return {"machine": values}


_READERS: Mapping[str, _Reader] = {
    **{name: _as(name, _text) for name in ("backend", "project", "image", "workdir", "network")},
    **{name: _as(name, lambda given: given) for name in ("kind", "tty", "stdin", "read_only", "remove")},
    "name": _as("name", check_name),
    "command": _as("command", fields.parse_words),
    "entrypoint": _as("entrypoint", fields.parse_words),
    "env": _env,
    "env_file": _env_file,
    "user": _as("user", lambda given: str(_text(given))),
    "hostname": _as("hostname", fields.check_hostname),
    "labels": _labels,
    "cpus": _as("cpu_millis", lambda given: parse_cpus(str(given))),
    "memory": _as("memory", lambda given: round_up_to_page(parse_size(str(given)))),
    "disk": _as("disk", lambda given: parse_size(str(given))),
    "pids": _as("pids", fields.parse_count),
    "mounts": _mounts,
    "ports": _ports,
    "restart": _restart,
    "stop_signal": _as("stop_signal", fields.parse_signal),
    "stop_timeout": _as("stop_timeout", lambda given: fields.parse_positive_duration(given, zero=True)),
    "ttl": _as("ttl", fields.parse_positive_duration),
    "machine": _machine,
}


def to_form(spec: InstanceSpec) -> dict[str, object]:
    """The spec file that makes exactly ``spec`` again, whatever the defaults (what ``--dry-run`` shows)."""
    form: dict[str, object] = {
        "kind": spec.kind.value,
        "cpus": format_cpus(spec.cpu_millis),
        "memory": exact_size(spec.memory),
        "disk": exact_size(spec.disk),
        "pids": spec.pids,
        "network": spec.network,
        "project": spec.project,
        "restart": f"{spec.restart.value}:{spec.restart_max}" if spec.restart_max else spec.restart.value,
        "stop-timeout": spec.stop_timeout,
    }
    for name, value in msgspec.to_builtins(spec).items():
        if name in ("mounts", "ports"):
            form[name] = [_long(item) for item in value]
        elif name == "machine":
            form[name] = {**_long(value), "accel": spec.machine.accel} if spec.kind is Kind.VM else {}
        elif name not in ("cpu_millis", "restart_max", "reserve"):
            form.setdefault(name.replace("_", "-"), value)
    return {key: value for key, value in form.items() if value != {}}


def _long(value: dict[str, object]) -> dict[str, object]:
    return {key.replace("_", "-"): item for key, item in value.items()}
