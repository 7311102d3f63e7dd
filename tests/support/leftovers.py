"""Finds everything that a ledger left on this host, whatever made it.

A thing is a ledger's when one of the ledger's *tokens* (its folder, its uuid, the id of any instance it ever had)
occurs in the thing's own description: a domain's XML, a container's labels, a process's command line, environment
and cgroup, a mount's line ... So tests that run side by side, each with a ledger of its own, do not see each other,
and a new kind of thing needs one more function in ``_PLACES`` and nothing else.

Processes that are dead and not yet reaped do not count: PID 1 of a container may take its time.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.daemons import why_absent
from vmctl.model.ids import is_id


class Leftover(NamedTuple):
    """One thing that should be gone; ``place`` is a key of ``_PLACES``."""

    place: str
    name: str


class Thing(NamedTuple):
    """Something on the host, with the text that tells whose it is."""

    name: str
    text: str


def leftovers(state_dir: Path, *, patience: float = 5.0, keep: Iterable[str] = ()) -> list[Leftover]:
    """Everything of the ledger below ``state_dir`` that is still there after ``patience`` seconds.

    Things whose name or text holds a word of ``keep`` (an instance's id or name that is meant to live) are left out.
    """
    deadline = time.monotonic() + patience
    words = tuple(keep)
    while (found := _find(state_dir, words)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def assert_nothing_left(state_dir: Path, *, patience: float = 5.0, keep: Iterable[str] = ()) -> None:
    """AssertionError that lists every leftover."""
    found = leftovers(state_dir, patience=patience, keep=keep)
    assert not found, "left behind:\n" + "\n".join(f"  {item.place}: {item.name}" for item in found)


def ids_of(state_dir: Path) -> frozenset[str]:
    """Every instance id that the ledger ever wrote down (its events are never removed)."""
    rows = _rows(state_dir, "SELECT DISTINCT instance_id FROM event")
    return frozenset(row[0] for row in rows if is_id(row[0]))


def tokens_of(state_dir: Path) -> frozenset[str]:
    """What marks a thing as this ledger's."""
    return ids_of(state_dir) | {str(state_dir)} | ({uuid} if (uuid := uuid_of(state_dir)) else set())


def uuid_of(state_dir: Path) -> str:
    """The ledger's uuid; empty before there is a ledger."""
    rows = _rows(state_dir, "SELECT value FROM meta WHERE key = 'uuid'")
    return str(rows[0][0]) if rows else ""


def names_of(state_dir: Path) -> list[str]:
    """The instances that the ledger has now."""
    return [row[0] for row in _rows(state_dir, "SELECT name FROM instance")]


def _find(state_dir: Path, keep: tuple[str, ...]) -> list[Leftover]:
    tokens = tokens_of(state_dir)
    found = []
    for place, things in _PLACES.items():
        for thing in things(state_dir):
            ours = any(token in thing.text for token in tokens)
            if ours and not any(word in thing.text or word in thing.name for word in keep):
                found.append(Leftover(place, thing.name))
    return found


def _rows(state_dir: Path, query: str) -> list[tuple[str, ...]]:
    path = state_dir / "ledger.db"
    if not path.exists():
        return []
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def _claims(state_dir: Path) -> Iterator[Thing]:
    """Read past vmctl: each of its commands sweeps first, and would so hide what a crash has left."""
    query = "SELECT name, part, state FROM claim WHERE counted AND state != 'FOREIGN'"
    for name, part, state in _rows(state_dir, query):
        yield Thing(f"{part} claim of {name} ({state})", f"{state_dir} {name}")


def _instances(state_dir: Path) -> Iterator[Thing]:
    for name, instance_id, state in _rows(state_dir, "SELECT name, id, state FROM instance"):
        yield Thing(f"instance {name} ({state})", f"{state_dir} {name} {instance_id}")


def _files(state_dir: Path) -> Iterator[Thing]:
    """Folders of instances, sockets, and temporary files; the ledger, images, locks, caches and logs may stay."""
    for folder in ("instances", "tmp"):
        for entry in sorted((state_dir / folder).glob("*")):
            yield Thing(str(entry), str(entry))
    for entry in sorted((state_dir / "run").rglob("*")):
        if entry.is_socket() or entry.is_fifo():
            yield Thing(str(entry), str(entry))


def _processes(_state_dir: Path) -> Iterator[Thing]:
    spared = {os.getpid(), *_ancestors(os.getpid())}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) in spared:
            continue
        try:
            if _state_of(folder) in "ZX":
                continue
            parts = [(folder / name).read_bytes() for name in ("cmdline", "environ", "cgroup")]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        command = parts[0].replace(b"\0", b" ").decode(errors="replace")
        yield Thing(f"{folder.name}: {command[:120]}", b"\0".join(parts).decode(errors="replace"))


def _state_of(folder: Path) -> str:
    return (folder / "stat").read_text().rpartition(")")[2].split()[0]


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        yield pid


def _mounts(_state_dir: Path) -> Iterator[Thing]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        yield Thing(line.split()[4], line)


def _cgroups(_state_dir: Path) -> Iterator[Thing]:
    for folder, _, _ in os.walk("/sys/fs/cgroup"):
        yield Thing(folder, folder)


def _links(_state_dir: Path) -> Iterator[Thing]:
    """Network interfaces say whose they are in their alias, if anywhere."""
    for folder in Path("/sys/class/net").iterdir():
        try:
            yield Thing(folder.name, f"{folder.name} {(folder / 'ifalias').read_text()}")
        except OSError:
            continue


def _domains(_state_dir: Path) -> Iterator[Thing]:
    if why_absent("libvirt"):
        return
    import libvirt

    connection = libvirt.open("qemu:///system")
    try:
        for domain in connection.listAllDomains():
            try:
                yield Thing(domain.name(), domain.XMLDesc())
            except libvirt.libvirtError:  # gone in between
                continue
        for network in connection.listAllNetworks():
            yield Thing(f"network {network.name()}", network.XMLDesc())
    finally:
        connection.close()


def _docker(_state_dir: Path) -> Iterator[Thing]:
    if why_absent("docker"):
        return
    import docker

    client = docker.from_env()
    try:
        api = client.api
        listings = (
            ("container", api.containers(all=True)),
            ("network", api.networks()),
            ("volume", api.volumes().get("Volumes") or []),
        )
        for what, items in listings:
            for item in items:
                yield Thing(f"{what} {item.get('Names') or item.get('Name')}", json.dumps(item))
    finally:
        client.close()


_PLACES: dict[str, Callable[[Path], Iterator[Thing]]] = {
    "claims": _claims,
    "instances": _instances,
    "files": _files,
    "processes": _processes,
    "mounts": _mounts,
    "cgroups": _cgroups,
    "links": _links,
    "libvirt": _domains,
    "docker": _docker,
}
