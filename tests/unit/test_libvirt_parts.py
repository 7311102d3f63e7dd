"""States, errors, choice of daemon, disks, limits, addresses and logs of the libvirt backend, without a daemon."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path
from xml.etree import ElementTree as ET

import libvirt
import pytest

from vmctl.backends.libvirt import addresses, client, disk, errors, folder, limits, logs, observe, plan, states
from vmctl.backends.wire.logfile import encode_exit, encode_record
from vmctl.backends.wire.machine import log_path
from vmctl.errors import (
    BackendUnavailable,
    Conflict,
    NotFound,
    PermissionDenied,
    TimedOut,
    Unsupported,
    UsageError,
    VmctlError,
    WrongState,
)
from vmctl.model.capability import Feature
from vmctl.model.event import LogRecord, Stream
from vmctl.model.process import Process
from vmctl.model.spec import InstanceSpec, Machine, Mount, Port
from vmctl.model.state import Exit, Kind, RestartPolicy, State

# -- states -------------------------------------------------------------------------------------------------------


def enumeration(prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): getattr(libvirt, name) for name in dir(libvirt) if name.startswith(prefix)}


def test_every_state_and_reason_of_libvirt_is_mapped() -> None:
    """Total over what the installed libvirt knows; only NOSTATE, which says nothing, is UNKNOWN."""
    names = ("NOSTATE", "RUNNING", "BLOCKED", "PAUSED", "SHUTDOWN", "SHUTOFF", "CRASHED", "PMSUSPENDED")
    for name in names:
        native = getattr(libvirt, f"VIR_DOMAIN_{name}")
        assert states.DomainState[name] == native
        for reason in enumeration(f"VIR_DOMAIN_{name}_").values():
            mapped = states.state_of(native, reason, ever_started=True)
            assert (mapped is State.UNKNOWN) == (name == "NOSTATE"), (name, reason)


@pytest.mark.parametrize(
    ("prefix", "known"),
    [("VIR_DOMAIN_PAUSED_", states.PausedReason), ("VIR_DOMAIN_SHUTOFF_", states.ShutoffReason)],
)
def test_every_reason_is_listed(prefix: str, known: type[states.PausedReason | states.ShutoffReason]) -> None:
    listed = {one.name: int(one) for one in known}
    assert enumeration(prefix).items() <= listed.items()


def test_different_truths_stay_apart() -> None:
    off = states.DomainState.SHUTOFF
    assert states.state_of(off, 0, ever_started=False) is State.CREATED
    assert states.state_of(off, states.ShutoffReason.DESTROYED, ever_started=True) is State.STOPPED
    assert states.state_of(off, states.ShutoffReason.CRASHED, ever_started=True) is State.FAILED
    assert states.state_of(99, 0, ever_started=True) is State.UNKNOWN
    assert states.state_of(off, 99, ever_started=True) is State.STOPPED


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "origin", "message", "system_error", "expected"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_FROM_QEMU, "Domain not found", None, NotFound),
        (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_FROM_QEMU, "not supported", None, Unsupported),
        (libvirt.VIR_ERR_AUTH_UNAVAILABLE, libvirt.VIR_FROM_RPC, "no agent", None, PermissionDenied),
        (libvirt.VIR_ERR_ACCESS_DENIED, libvirt.VIR_FROM_ACCESS, "denied", None, PermissionDenied),
        (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_QEMU, "not running", None, WrongState),
        (libvirt.VIR_ERR_DOM_EXIST, libvirt.VIR_FROM_QEMU, "exists", None, Conflict),
        (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_FROM_QEMU, "no answer", None, TimedOut),
        (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC, "Failed to connect socket", errno.ENOENT,
         BackendUnavailable),
        (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC, "Failed to connect socket", errno.EACCES,
         PermissionDenied),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC, "client socket is closed", None, BackendUnavailable),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU, "qemu: x: Permission denied", None, PermissionDenied),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU, "process exited", None, VmctlError),
    ],
)  # fmt: skip
def test_errors_are_typed(
    code: int, origin: int, message: str, system_error: int | None, expected: type[VmctlError]
) -> None:
    error = errors.typed("cannot do it", code=code, origin=origin, message=message, system_error=system_error)
    assert type(error) is expected
    assert error.message == f"cannot do it: {message}"


def test_native_names_and_line_breaks_stay_inside() -> None:
    text = errors.one_line("domain 'vmctl-01hzzzzzzzzzzzzzzzzzzzzzzz'\nis \x1b[31mbad")
    assert text == "domain 'the machine' is ?[31mbad"


def test_no_daemon_says_how_to_start_it() -> None:
    with pytest.raises(BackendUnavailable) as refusal:
        client.open_connection("qemu+unix:///system?socket=/nonexistent/libvirt-sock")
    assert "virtlogd -d; libvirtd -d" in refusal.value.hint


# -- the daemon ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("euid", "groups", "expected"),
    [(0, [], client.SYSTEM), (1000, [1000, 77], client.SYSTEM), (1000, [1000], client.SESSION)],
)
def test_whose_daemon(euid: int, groups: list[int], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(client.URI_VARIABLE, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: groups)
    monkeypatch.setattr(client.grp, "getgrnam", lambda name: type("Group", (), {"gr_gid": 77}))
    assert client.default_uri() == expected
    monkeypatch.setenv(client.URI_VARIABLE, "test:///default")
    assert client.default_uri() == "test:///default"


def test_importing_the_backend_is_light() -> None:
    script = "import sys, vmctl.backends.libvirt.adapter; print(sorted({'libvirt', 'asyncio'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


# -- disks --------------------------------------------------------------------------------------------------------


def qcow2(*, version: int = 3, backing: int = 0, crypt: int = 0, features: int = 0, size: int = 1 << 30) -> bytes:
    head = struct.pack(">4sIQIIQI", b"QFI\xfb", version, backing, 0, 16, size, crypt)
    return head.ljust(72, b"\0") + struct.pack(">Q", features) + bytes(512)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (qcow2(backing=104), "backing file"),
        (qcow2(features=4), "data in another file"),
        (qcow2(features=2), "corrupt"),
        (qcow2(crypt=1), "encrypted"),
        (qcow2(version=9), "header"),
        (qcow2()[:60], "truncated"),
        (b"KDMV" + bytes(508), "VMDK"),
        (b"# Disk DescriptorFile\n".ljust(512), "VMDK"),
        (bytes(100), "no disk"),
    ],
)
def test_disks_that_lead_elsewhere_are_refused(content: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=word):
        disk.examine(str(path))


def test_disks_that_are_taken(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(qcow2(size=5 << 30))
    (tmp_path / "b").write_bytes(bytes(1024))
    assert disk.examine(str(tmp_path / "a")) == disk.BaseDisk(tmp_path / "a", "qcow2", 5 << 30)
    assert disk.examine(str(tmp_path / "b")) == disk.BaseDisk(tmp_path / "b", "raw", 1024)


def test_what_is_no_file_is_no_disk(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        disk.examine(str(tmp_path / "nothing"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="regular"):
        disk.examine(str(tmp_path / "pipe"))


def test_a_closed_folder_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "disk").write_bytes(b"x")
    with pytest.raises(PermissionDenied) as refusal:
        disk.check_reachable(closed / "disk")
    bar = next(one for one in reversed([closed, *closed.parents]) if not one.stat().st_mode & 1)
    assert f"chmod o+x {bar}" in refusal.value.hint


# -- limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("millis", [1, 10, 250, 999, 1000, 1500, 2001, 7999])
def test_cpu_limit_is_what_was_asked_for(millis: int) -> None:
    count = plan.vcpus(millis)
    assert count * 1000 >= millis > (count - 1) * 1000
    if (limit := plan.quota(millis)) is None:
        assert millis == count * 1000
        return
    period, quota = limit
    assert quota >= 1000
    assert 1000 <= period <= 1_000_000
    assert abs(quota * count * 1000 / period - millis) <= 1


IMAGE = InstanceSpec(kind=Kind.VM, name="x", image="i")
BARE = InstanceSpec(kind=Kind.VM, name="x", machine=Machine(kernel=sys.executable))


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"kind": Kind.APP}, Unsupported),
        ({"memory": 64 << 20}, UsageError),
        ({"disk": 4096}, UsageError),
        ({"cpu_millis": 300_000}, UsageError),
        ({"mounts": (Mount(source="/a", target="/b"),)}, Unsupported),
        ({"ports": (Port(port=80),)}, Unsupported),
        ({"network": "host"}, Unsupported),
        ({"machine": Machine(disk="/x")}, UsageError),
        ({"stop_signal": "SIGNONSENSE"}, UsageError),
        ({"image": None}, UsageError),
        ({"image": None, "machine": Machine(disk="/nonexistent/disk")}, NotFound),
        ({"image": None, "machine": Machine(kernel="/nonexistent/kernel")}, NotFound),
        ({"image": None, "machine": Machine(kernel=sys.executable), "command": ("sh",)}, UsageError),
        ({"image": None, "machine": Machine(kernel=sys.executable, firmware="coreboot")}, UsageError),
    ],
)
def test_refused_before_anything_is_made(spec: dict[str, object], error: type[VmctlError]) -> None:
    import msgspec

    with pytest.raises(error) as refusal:
        limits.validate(msgspec.structs.replace(IMAGE, **spec), system=True)
    assert refusal.value.hint


def test_a_session_has_no_cgroup_and_one_network() -> None:
    import msgspec

    limits.validate(IMAGE, system=False)
    limits.validate(BARE, system=True)
    for spec in ({"cpu_millis": 1500}, {"network": "lab"}):
        with pytest.raises(Unsupported):
            limits.validate(msgspec.structs.replace(IMAGE, **spec), system=False)
    assert limits.capabilities(system=False)[Feature.NETWORKS]
    assert not limits.capabilities(system=True)[Feature.NETWORKS]


@pytest.mark.parametrize(("name", "number"), [("SIGTERM", 15), ("term", 15), ("15", 15), ("SIGUSR1", 10)])
def test_signal_names(name: str, number: int) -> None:
    assert limits.signal_number(name) == number


# -- addresses ----------------------------------------------------------------------------------------------------

NETWORK = """<network><ip address='10.9.8.1' netmask='255.255.255.0'>
<dhcp><range start='10.9.8.10' end='10.9.8.12'/><host mac='52:54:00:00:00:01' ip='10.9.8.11'/></dhcp></ip></network>"""


def test_addresses_come_from_the_networks_range() -> None:
    root = ET.fromstring(NETWORK)
    found = addresses._plan(root)
    assert found is not None
    interface, candidates = found
    assert (str(interface), [str(one) for one in candidates]) == (
        "10.9.8.1/24",
        ["10.9.8.10", "10.9.8.11", "10.9.8.12"],
    )
    taken = set(addresses._reserved(root))
    chosen = addresses._choose(candidates, taken, None, "seed")
    assert chosen in {IPv4Address("10.9.8.10"), IPv4Address("10.9.8.12")}
    assert addresses._choose(candidates, taken, IPv4Address("10.9.8.12"), "seed") == IPv4Address("10.9.8.12")
    assert addresses._choose(candidates, taken | {IPv4Address("10.9.8.10")}, None, "seed") == IPv4Address("10.9.8.12")
    assert addresses._choose(candidates, set(candidates), None, "seed") is None


def test_a_bridge_has_no_addresses_to_give() -> None:
    assert addresses._plan(ET.fromstring("<network><forward mode='bridge'/></network>")) is None


def test_macs_follow_from_the_id() -> None:
    first, second = plan.mac_of("01hzzzzzzzzzzzzzzzzzzzzzza"), plan.mac_of("01hzzzzzzzzzzzzzzzzzzzzzzb")
    assert first != second
    assert first == plan.mac_of("01hzzzzzzzzzzzzzzzzzzzzzza")
    assert first.startswith("52:54:00:")


# -- ends and logs ------------------------------------------------------------------------------------------------

ORDER = folder.Order(name="x", hostname="x", process=Process(argv=("true",)))
OFF, ON = states.DomainState.SHUTOFF, states.DomainState.RUNNING
SHUTDOWN, DESTROYED = states.ShutoffReason.SHUTDOWN, states.ShutoffReason.DESTROYED


def started(directory: Path, order: folder.Order = ORDER, **marks: object) -> int:
    at = time.time_ns()
    folder.make(directory)
    folder.save_order(directory, order)
    folder.save_marks(directory, folder.Marks(started_at=at, **marks))
    return at


def test_ends_of_an_image_machine(tmp_path: Path) -> None:
    at = started(tmp_path)
    assert observe.ending(tmp_path, ON, 1)[0] is State.STARTING
    folder.save_marks(tmp_path, folder.Marks(started_at=at, booted=True))
    assert observe.ending(tmp_path, ON, 1) == (State.RUNNING, None)
    state, end = observe.ending(tmp_path, OFF, SHUTDOWN)
    assert state is State.FAILED
    assert end is not None
    assert end.error
    assert observe.ending(tmp_path, OFF, DESTROYED) == (State.STOPPED, Exit(code=137, signal=9))
    with log_path(tmp_path).open("ab") as log:
        log.write(encode_exit(Exit(code=3, at=at - 1)))  # of an earlier run
    assert observe.ending(tmp_path, OFF, SHUTDOWN)[0] is State.FAILED
    with log_path(tmp_path).open("ab") as log:
        log.write(b"cut off in the middle" + encode_exit(Exit(code=42, at=at + 1)))
    assert observe.ending(tmp_path, OFF, SHUTDOWN) == (State.STOPPED, Exit(code=42, at=at + 1))
    assert observe.ending(tmp_path, ON, 1)[0] is State.STOPPING


def test_an_end_that_a_restart_follows_is_not_the_end(tmp_path: Path) -> None:
    order = folder.Order(name="x", hostname="x", process=Process(argv=("x",)), restart=RestartPolicy.ALWAYS)
    at = started(tmp_path, order, booted=True)
    with log_path(tmp_path).open("ab") as log:
        log.write(encode_exit(Exit(code=1, at=at + 1)) * 2)
    assert observe.ending(tmp_path, ON, 1) == (State.RUNNING, None)
    assert observe.restarts(tmp_path, alive=True) == 2


def test_an_end_is_found_over_a_rotation(tmp_path: Path) -> None:
    at = started(tmp_path)
    record = encode_exit(Exit(code=9, at=at + 1))
    log = log_path(tmp_path)
    log.with_name(f"{log.name}.0").write_bytes(b"x" * 10_000 + record[:10])
    log.write_bytes(record[10:])
    assert folder.recorded_exit(tmp_path, at) == Exit(code=9, at=at + 1)


def test_a_disk_machine_ends_with_its_shutdown(tmp_path: Path) -> None:
    started(tmp_path, folder.Order(name="x", hostname="x", process=None), booted=True)
    assert observe.ending(tmp_path, OFF, SHUTDOWN) == (State.STOPPED, Exit(code=0))
    assert observe.ending(tmp_path, OFF, states.ShutoffReason.CRASHED)[0] is State.FAILED


def lines(directory: Path, **options: object) -> bytes:
    wanted = {"init": True, "ended": None, "tail": None} | options
    return b"".join(record.data for record in logs.records(directory, **wanted))  # type: ignore[arg-type]


def test_tail_counts_lines_over_records(tmp_path: Path) -> None:
    folder.make(tmp_path)
    with log_path(tmp_path).open("ab") as log:
        for data in (b"1\n2\n", b"3", b"\n4\n5"):
            log.write(encode_record(LogRecord(1, Stream.STDOUT, data)))
    assert lines(tmp_path) == b"1\n2\n3\n4\n5"
    assert [lines(tmp_path, tail=count) for count in range(7)] == [
        b"",
        b"5",
        b"4\n5",
        b"3\n4\n5",
        b"2\n3\n4\n5",
        b"1\n2\n3\n4\n5",
        b"1\n2\n3\n4\n5",
    ]


def test_following_goes_on_over_a_rotation(tmp_path: Path) -> None:
    folder.make(tmp_path)
    log = log_path(tmp_path)

    def write(text: bytes) -> None:
        with log.open("ab") as stream:
            stream.write(encode_record(LogRecord(1, Stream.STDOUT, text)))

    steps = iter([lambda: write(b"two "), lambda: (log.rename(f"{log}.0"), write(b"three ")), lambda: write(b"four")])

    def ended() -> bool:
        step = next(steps, None)
        if step is not None:
            step()
        return step is None

    write(b"one ")
    assert lines(tmp_path, ended=ended) == b"one two three four"


def test_a_machine_that_said_nothing_shows_its_console(tmp_path: Path) -> None:
    folder.make(tmp_path)
    folder.console_log(tmp_path).write_bytes(b"Kernel panic\n\n")
    assert lines(tmp_path) == b"Kernel panic\n\n"
    assert logs.console_tail(tmp_path) == "Kernel panic"


def test_a_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    with pytest.raises(VmctlError, match="too long"):
        folder.make(deep)
    assert not deep.exists()


@pytest.mark.parametrize(
    ("running", "defined", "nothing"),
    [
        ((), (), True),
        (("driver.pid",), ("networks", "other.xml"), True),
        (("other.xml",), (), False),
        ((), ("vmctl-01m80dey8k3rthxxydh7m0v8wa.xml",), False),
    ],
)
def test_nothing_is_known_without_asking(
    monkeypatch: pytest.MonkeyPatch, running: tuple[str, ...], defined: tuple[str, ...], nothing: bool
) -> None:
    names = {client._RUNNING: running, client._DEFINED: defined}
    monkeypatch.setattr(client.os, "listdir", lambda folder: list(names[folder]))
    assert client.Client(client.SYSTEM).knows_nothing() is nothing
    assert not client.Client(client.SESSION).knows_nothing()
