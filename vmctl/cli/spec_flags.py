"""The flags of ``run`` and ``create``, declared once; they become one form of a spec."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, get_type_hints

import typer

from vmctl.cli.params import Env, EnvFile, Interactive, Tty, User, Workdir
from vmctl.cli.words import split_words
from vmctl.errors import UsageError
from vmctl.model.state import Kind
from vmctl.suggest import did_you_mean

if TYPE_CHECKING:
    from vmctl.config import Config
    from vmctl.model.spec import InstanceSpec
    from vmctl.specs.form import SpecForm

Text = Optional[str]  # noqa: UP045 - Typer reads the annotations

_FLAG_NAMES = {"labels": "label", "mounts": "volume", "pids": "pids-limit", "ports": "publish", "machine": ""}
"""Keys of spec files whose flag has Docker's word; several flags make up ``machine``."""


@dataclass(frozen=True)
class SpecFlags:
    """What the user typed; None and empty mean "not given". The first words are IMAGE and the command."""

    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[IMAGE] [--] [COMMAND]...",
            help="The image, and the command that replaces the image's own. Without an image "
            "(--app: a program of the host; --boot-disk) the command follows '--'.",
            show_default=False,
        ),
    ] = field(default_factory=list)
    kind: Annotated[Text, typer.Option("--kind", metavar="KIND", help="vm, container or app.")] = None
    vm: Annotated[bool, typer.Option("--vm", help="Short for --kind vm.")] = False
    app: Annotated[bool, typer.Option("--app", help="Short for --kind app.")] = False
    file: Annotated[Text, typer.Option("-f", "--file", metavar="SPEC", help="YAML, TOML or JSON; '-' is stdin.")] = None
    name: Annotated[Text, typer.Option("--name", metavar="NAME", help="Name (default: a random one).")] = None
    cpus: Annotated[Text, typer.Option("--cpus", metavar="CPUS", help="2, 1.5 or 250m.")] = None
    memory: Annotated[Text, typer.Option("-m", "--memory", metavar="SIZE", help="Memory: 512M, 2G (2 GiB).")] = None
    disk: Annotated[Text, typer.Option("--disk", metavar="SIZE", help="Writable disk space: 20G (20 GiB).")] = None
    pids: Annotated[Text, typer.Option("--pids-limit", metavar="N", help="Processes and threads.")] = None
    env: Env = field(default_factory=list)
    env_file: EnvFile = field(default_factory=list)
    volume: Annotated[
        list[str],
        typer.Option("-v", "--volume", metavar="SOURCE:TARGET[:ro]", help="Show a host folder or a volume inside."),
    ] = field(default_factory=list)
    mount: Annotated[
        list[str],
        typer.Option("--mount", metavar="KEYS", help="The same in words: type=bind,source=.,target=/src,readonly."),
    ] = field(default_factory=list)
    publish: Annotated[
        list[str],
        typer.Option("-p", "--publish", metavar="[[ADDRESS:]PORT:]PORT", help="Publish a port (on 127.0.0.1)."),
    ] = field(default_factory=list)
    network: Annotated[Text, typer.Option("--network", metavar="NET", help="default, none, host or a name.")] = None
    label: Annotated[list[str], typer.Option("-l", "--label", metavar="KEY=VALUE", help="Label.")] = field(
        default_factory=list
    )
    workdir: Workdir = None
    user: User = None
    hostname: Annotated[Text, typer.Option("--hostname", metavar="NAME", help="Host name inside.")] = None
    entrypoint: Annotated[
        Text, typer.Option("--entrypoint", metavar="COMMAND", help="Replaces the image's entry point.")
    ] = None
    interactive: Interactive = False
    tty: Tty = False
    read_only: Annotated[bool, typer.Option("--read-only", help="No writes to the image's files.")] = False
    restart: Annotated[
        Text,
        typer.Option("--restart", metavar="POLICY", help="no, on-failure[:tries], always or unless-stopped."),
    ] = None
    stop_signal: Annotated[Text, typer.Option("--stop-signal", metavar="SIGNAL", help="Asks it to end.")] = None
    stop_timeout: Annotated[
        Text, typer.Option("--stop-timeout", metavar="DURATION", help="Time between that and force.")
    ] = None
    ttl: Annotated[Text, typer.Option("--ttl", metavar="DURATION", help="Remove it after this time: 2h.")] = None
    project: Annotated[Text, typer.Option("--project", metavar="NAME", help="Project it is counted for.")] = None
    backend: Annotated[Text, typer.Option("--backend", metavar="NAME", help="Default: that of the kind.")] = None
    boot_disk: Annotated[
        Text, typer.Option("--boot-disk", metavar="FILE", help="VM: qcow2 or raw disk that boots by itself.")
    ] = None
    kernel: Annotated[Text, typer.Option("--kernel", metavar="FILE", help="VM: kernel to boot directly.")] = None
    initrd: Annotated[Text, typer.Option("--initrd", metavar="FILE", help="VM: its initial RAM disk.")] = None
    cmdline: Annotated[Text, typer.Option("--cmdline", metavar="TEXT", help="VM: its command line.")] = None
    accel: Annotated[Text, typer.Option("--accel", metavar="HOW", help="VM: auto, kvm or tcg.")] = None


def spec_of(flags: SpecFlags, config: Config, *, remove: bool = False) -> InstanceSpec:
    """The spec: flags over file over defaults. Raises UsageError, NotFound, PermissionDenied."""
    from vmctl.specs.load import load_spec
    from vmctl.specs.merge import Layer, build_spec

    layers = []
    if flags.file is not None:
        folder = Path() if flags.file == "-" else Path(flags.file).parent
        layers.append(Layer(load_spec(flags.file), flags.file + ": {}", folder))
    layers.append(Layer(_form(flags, remove=remove), "--{}", Path(), _FLAG_NAMES))
    return build_spec(layers, config)


def _form(flags: SpecFlags, *, remove: bool) -> SpecForm:
    import msgspec

    from vmctl.specs.form import SpecForm

    image, command = split_words(flags.words)
    machine = {
        "kernel": flags.kernel,
        "initrd": flags.initrd,
        "cmdline": flags.cmdline,
        "disk": flags.boot_disk,
        "accel": flags.accel,
    }
    given = {
        "kind": _kind(flags),
        "image": image,
        "command": command,
        "entrypoint": flags.entrypoint,
        "mounts": [*flags.volume, *flags.mount],
        "ports": flags.publish,
        "labels": flags.label,
        "stdin": flags.interactive,
        "remove": remove,
        "machine": {key: value for key, value in machine.items() if value is not None},
    }
    same = (
        "name cpus memory disk pids env_file env network workdir user hostname tty read_only restart stop_signal "
        "stop_timeout ttl project backend"
    )
    given |= {name: getattr(flags, name) for name in same.split()}
    kept = {name.replace("_", "-"): value for name, value in given.items() if value not in (None, False, [], {})}
    try:
        return msgspec.convert(kept, SpecForm)
    except msgspec.ValidationError as error:  # only the kind is checked here
        hint = did_you_mean(flags.kind or "", Kind, "one of vm, container, app")
        raise UsageError(f"unknown kind '{flags.kind}'", hint=hint) from error


def _kind(flags: SpecFlags) -> str | None:
    words = {word for word in (flags.kind, flags.vm and "vm", flags.app and "app") if word}
    if len(words) > 1:
        raise UsageError("--kind, --vm and --app name different kinds", hint="keep one of them")
    return next(iter(words), None)


def takes_spec(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with its parameter ``flags: SpecFlags`` spread into one parameter a flag, for Typer."""
    hints = get_type_hints(SpecFlags, include_extras=True)
    spread = [
        inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=[] if item.default is dataclasses.MISSING else item.default,
            annotation=hints[item.name],
        )
        for item in dataclasses.fields(SpecFlags)
    ]
    own = inspect.signature(function, eval_str=True)
    others = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in own.parameters.items()
        if name != "flags"
    ]

    @functools.wraps(function)
    def wrapper(**given: Any) -> Any:
        flags = SpecFlags(**{item.name: given.pop(item.name) for item in spread})
        return function(flags=flags, **given)

    wrapper.__signature__ = own.replace(parameters=[*spread, *others])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in (*spread, *others)}
    return wrapper
