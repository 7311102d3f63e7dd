"""One parser for each friendly form of a value; all raise UsageError with the text they could not read."""

from __future__ import annotations

import ipaddress
import re
import shlex
import signal
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from vmctl.errors import NotFound, UsageError
from vmctl.model.resources import PPM, Resource
from vmctl.model.spec import Mount, Port
from vmctl.model.state import RestartPolicy
from vmctl.suggest import did_you_mean
from vmctl.units import parse_cpus, parse_duration, parse_size

_ENV_NAME = re.compile(r"[^=\0]+")
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,253}[A-Za-z0-9])?")
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*")
_PORT_HINT = "write PORT, HOST:PORT, ADDRESS:HOST:PORT, each with /tcp or /udp at the end if wanted"
_MOUNT_HINT = "write SOURCE:TARGET or SOURCE:TARGET:ro; the source is a folder, or the name of a volume"
_MOUNT_KEYS = ("type", "source", "src", "target", "destination", "dst", "readonly", "ro")


def parse_words(value: str | Sequence[str]) -> tuple[str, ...]:
    """A command line: a list as it is, a text split as a shell would."""
    if not isinstance(value, str):
        words = tuple(value)
    else:
        try:
            words = tuple(shlex.split(value))
        except ValueError as error:
            raise UsageError(f"cannot split '{value}' into words: {error}", hint="write a list of words") from error
    if any("\0" in word for word in words):
        raise UsageError("a command cannot contain a NUL byte")
    return words


def parse_pairs(value: Mapping[str, object] | Iterable[str], *, inherit: Mapping[str, str] | None) -> dict[str, str]:
    """``NAME=value`` entries, or a mapping. A bare NAME takes its value from ``inherit`` (None: empty text)."""
    if isinstance(value, Mapping):
        return {name: scalar_text(item) for name, item in value.items()}
    pairs: dict[str, str] = {}
    for entry in value:
        name, equals, text = entry.partition("=")
        if equals or inherit is None:
            pairs[name] = text
        elif name in inherit:
            pairs[name] = inherit[name]
    return pairs


def scalar_text(value: object) -> str:
    """A scalar of a file as text; booleans as YAML and JSON spell them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def check_env(env: dict[str, str]) -> dict[str, str]:
    """``env`` itself if every name and value can be given to a process."""
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name):
            raise UsageError(f"'{name}' is not the name of an environment variable", hint="write NAME=value")
        if "\0" in value:
            raise UsageError(f"the value of environment variable '{name}' contains a NUL byte")
    return env


def check_labels(labels: dict[str, str]) -> dict[str, str]:
    """``labels`` itself if every key has the form backends accept."""
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise UsageError(f"'{key}' is not a label's key", hint="use letters, digits, dots, hyphens and slashes")
        if not value.isprintable():
            raise UsageError(f"the value of label '{key}' contains control characters")
    return labels


def read_env_file(path: Path) -> list[str]:
    """The NAME=value lines of an --env-file; blank lines and lines that begin with ``#`` are skipped."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        hint = "an env file has lines such as NAME=value"
        raise NotFound(f"cannot read the env file '{path}': {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the env file '{path}' is not UTF-8 text") from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def parse_port(text: str) -> Port:
    """``80``, ``8080:80``, ``127.0.0.1:8080:80``, ``[::1]:8080:80``, ``:80``, with ``/tcp`` or ``/udp``."""
    rest, slash, protocol = text.partition("/")
    match = re.fullmatch(r"(?:(\[[0-9a-fA-F:.]+\]|[0-9.]+):)?(?:(\d*):)?(\d+)", rest)
    address, host, inside = match.groups() if match else (None, None, None)
    if match and host is None and address is not None and address.isdecimal():  # "8080:80" matches as an address
        address, host = None, address
    if not match or inside is None or (slash and protocol not in ("tcp", "udp")):
        raise UsageError(f"'{text}' is not a port to publish", hint=_PORT_HINT)
    return check_port(
        Port(
            port=int(inside),
            host_port=int(host or 0),
            host_address=address.strip("[]") if address else "127.0.0.1",
            protocol=protocol or "tcp",
        )
    )


def check_port(port: Port) -> Port:
    """``port`` itself if its numbers, address and protocol exist."""
    for number in (port.port, port.host_port or 1):
        if not 1 <= number <= 65535:
            raise UsageError(f"port {number} does not exist", hint="ports go from 1 to 65535")
    if port.protocol not in ("tcp", "udp"):
        raise UsageError(f"'{port.protocol}' is not tcp or udp")
    try:
        ipaddress.ip_address(port.host_address)
    except ValueError as error:
        raise UsageError(f"'{port.host_address}' is not an IP address", hint=_PORT_HINT) from error
    return port


def parse_mount(text: str, folder: Path) -> Mount:
    """``-v``: ``SOURCE:TARGET[:ro|rw]``; a SOURCE with a slash is a path, relative to ``folder``."""
    source, target, mode, *more = [*text.split(":"), "", ""]
    if not source or not target or mode not in ("", "ro", "rw") or any(more):
        raise UsageError(f"'{text}' is not a mount", hint=_MOUNT_HINT)
    return make_mount(source, target, mode == "ro", folder)


def parse_long_mount(text: str, folder: Path) -> Mount:
    """``--mount``: ``type=bind,source=./folder,target=/inside,readonly``."""
    given: dict[str, str] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key not in _MOUNT_KEYS:
            raise UsageError(
                f"unknown key '{key}' in mount '{text}'",
                hint=did_you_mean(key, _MOUNT_KEYS, "keys: type source target readonly"),
            )
        given[key] = value
    source = given.get("source", given.get("src", ""))
    target = given.get("target", given.get("destination", given.get("dst", "")))
    kind = given.get("type", "bind")
    if kind not in ("bind", "volume") or not source or not target:
        raise UsageError(f"'{text}' is not a mount", hint="type=bind|volume, source= and target= are needed")
    if kind == "bind" and "/" not in source:
        source = f"./{source}"
    read_only = any(given.get(key, "false") in ("", "true", "1") for key in ("readonly", "ro"))
    return make_mount(source, target, read_only, folder)


def make_mount(source: str, target: str, read_only: bool, folder: Path) -> Mount:
    """A mount with an absolute source (a volume keeps its name) and a checked target."""
    if not target.startswith("/") or "\0" in target:
        raise UsageError(f"mount target '{target}' is not an absolute path", hint=_MOUNT_HINT)
    is_path = "/" in source or source in (".", "..", "~")
    return Mount(source=absolute(source, folder) if is_path else source, target=target, read_only=read_only)


def absolute(path: str, folder: Path) -> str:
    """``path`` as seen from ``folder``, with ``~`` and ``..`` resolved, symbolic links kept."""
    import os.path

    return os.path.normpath(folder.absolute() / Path(path).expanduser())


def existing_file(path: str, folder: Path) -> str:
    """``path`` made absolute. Raises NotFound unless it is a file (or a device)."""
    found = Path(absolute(path, folder))
    if not found.exists():
        raise NotFound(f"no file '{found}'", hint="paths start in the current folder, or that of the spec file")
    if found.is_dir():
        raise UsageError(f"'{found}' is a folder, not a file")
    return str(found)


def parse_restart(text: str) -> tuple[RestartPolicy, int]:
    """``no``, ``always``, ``unless-stopped``, ``on-failure`` or ``on-failure:TRIES``."""
    word, colon, tries = text.partition(":")
    if word not in list(RestartPolicy) or (colon and (word != "on-failure" or not re.fullmatch(r"\d{1,6}", tries))):
        hint = did_you_mean(word, RestartPolicy, "one of no, on-failure[:tries], always, unless-stopped")
        raise UsageError(f"unknown restart policy '{text}'", hint=hint)
    return RestartPolicy(word), int(tries or 0)


def parse_signal(value: str | int) -> str:
    """``TERM``, ``SIGTERM`` or ``15`` as ``SIGTERM``."""
    text = str(value).upper()
    if text.isdecimal() and int(text) in {int(number) for number in signal.Signals}:
        return signal.Signals(int(text)).name
    name = text if text.startswith("SIG") else f"SIG{text}"
    if name not in signal.Signals.__members__:
        known = [number.name for number in signal.Signals]
        raise UsageError(f"no signal called '{value}'", hint=did_you_mean(name, known, "such as TERM, SIGTERM or 15"))
    return name


def check_hostname(text: str) -> str:
    """``text`` itself if it is a host name (RFC 1123) that Linux accepts."""
    if len(text) > 64 or not _HOSTNAME.fullmatch(text):
        raise UsageError(f"'{text}' is not a host name", hint="letters, digits, hyphens and dots; 64 at most")
    return text


def parse_positive_duration(value: str | float, *, zero: bool = False) -> float:
    """Seconds from a duration or a number; above zero unless ``zero`` allows it."""
    seconds = parse_duration(str(value))
    if seconds > 10 * 365 * 86400 or (seconds <= 0 and not zero):
        raise UsageError(f"duration '{value}' is out of range", hint="more than 0 and at most ten years")
    return seconds


def parse_count(value: str | int) -> int:
    """A whole number above zero."""
    text = str(value).strip()
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise UsageError(f"'{value}' is not a whole number above 0")
    return int(text)


def parse_resource_amount(resource: str, text: str | None, *, zero: bool = False) -> int | None:
    """An amount of ``resource`` in its unit: CPUs, a size, or a count; None stays None."""
    if text is None:
        return None
    if zero and text.strip() == "0":
        return 0
    name = resource.partition("@")[0]
    if name not in list(Resource):
        hint = did_you_mean(name, Resource, "'vmctl host inspect' lists them")
        raise UsageError(f"no resource called '{resource}'", hint=hint)
    if name == Resource.CPU_SHARED:
        return parse_cpus(text)
    return parse_count(text) if name in (Resource.INST, Resource.PIDS) else parse_size(text)


def parse_ratio(text: str | None) -> int | None:
    """Parts per million from ``1``, ``1.5``, ``4``; None stays None."""
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,3}(\.\d{1,6})?", text) or float(text) == 0:
        raise UsageError(f"'{text}' is not a ratio", hint="1 is no overcommitment, 1.5 is half again as much")
    return int(Decimal(text) * PPM)
