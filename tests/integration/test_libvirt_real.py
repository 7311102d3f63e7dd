"""What only libvirt has: disk machines, networks, foreign domains, limits in the cgroup, a start that died half-way."""

from __future__ import annotations

import io
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.contract.harness import IDLE, Harness, harness, pump, ref_of, until
from vmctl.backends.base import Body, Ref, Stdio
from vmctl.backends.libvirt import folder, network
from vmctl.backends.libvirt.adapter import LibvirtBackend
from vmctl.backends.libvirt.client import SYSTEM, open_connection
from vmctl.backends.libvirt.plan import native_name
from vmctl.errors import BackendUnavailable, Conflict, NotFound, PermissionDenied, Unsupported, VmctlError
from vmctl.images.initramfs import build_initramfs
from vmctl.images.store import ImageStore
from vmctl.model.event import Stream
from vmctl.model.observed import Health
from vmctl.model.spec import Machine
from vmctl.model.state import State

pytestmark = [pytest.mark.libvirt, pytest.mark.xdist_group("libvirt-real")]


CONSOLE_INIT = b"""#!/busybox sh
/busybox mount -t proc proc /proc
while :; do
    echo "what now?"
    read -r answer
    echo "you said $answer"
    [ "$answer" = off ] && /busybox poweroff -f
done
"""


@pytest.fixture(scope="module")
def h(shared_state: Path, busybox_image: str) -> Iterator[Harness]:
    with harness("libvirt", shared_state, ImageStore(shared_state / "images", shared_state / "cache")) as made:
        yield made


def without_image(order: Body, **options: str | None) -> Body:
    """The order for a machine that boots by itself."""
    spec = msgspec.structs.replace(order.spec, image=None, command=(), machine=Machine(**options))
    return msgspec.structs.replace(order, spec=spec, image=None, process=None)


@pytest.fixture
def disk_machine(h: Harness, tmp_path: Path) -> Body:
    """Boots the image machines' kernel with an initramfs of its own, which talks on the serial console."""
    assert h.image is not None
    assert h.image.kernel is not None
    initrd = h.folder / "console.cpio"
    initrd.write_bytes(build_initramfs(CONSOLE_INIT, Path("/bin/busybox").read_bytes(), {}))
    base = h.folder / f"{uuid.uuid4().hex}.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(base), "64M"], check=True)
    base.chmod(0o444)
    return without_image(
        h.body("unused"),
        kernel=str(h.image.kernel.path),
        initrd=str(initrd),
        cmdline="console=ttyS0 quiet panic=-1",
        disk=str(base),
    )


def test_a_disk_machine_from_create_to_delete(h: Harness, disk_machine: Body) -> None:
    ref = ref_of(disk_machine)
    h.backend.create(disk_machine)
    overlay = folder.overlay_disk(ref.directory)
    info = subprocess.run(["qemu-img", "info", "--output=json", str(overlay)], capture_output=True, check=True)
    described = msgspec.json.decode(info.stdout)
    assert described["backing-filename"] == disk_machine.spec.machine.disk
    assert described["backing-filename-format"] == "qcow2"
    assert described["virtual-size"] == disk_machine.spec.disk

    attachment = h.backend.start(ref, attach=True)
    assert attachment is not None
    with pytest.raises(Conflict):
        h.backend.console(ref)
    with pytest.raises(Unsupported):
        h.exec(ref, "true")
    with pytest.raises(Unsupported):
        h.backend.kill(ref, signal="SIGUSR1")
    reader, writer = os.pipe()

    def answer() -> None:
        until(lambda: b"what now?" in h.log(ref), timeout=60)
        os.write(writer, b"off\n")

    helper = threading.Thread(target=answer)
    helper.start()
    try:
        with (h.folder / "out").open("w+b") as out:
            end = attachment.pump(Stdio(reader, out.fileno(), out.fileno()))
            out.seek(0)
            shown = out.read()
    finally:
        helper.join()
        attachment.close()
        os.close(reader)
        os.close(writer)
    assert end is not None
    assert end.code == 0
    assert b"what now?" in shown
    assert b"you said off" in shown
    assert {record.stream for record in h.backend.logs(ref)} == {Stream.CONSOLE}
    assert h.backend.inspect(ref).state is State.STOPPED

    h.backend.start(ref)
    h.backend.stop(ref, timeout=0.5)  # nobody inside listens to ACPI
    stopped = h.backend.inspect(ref)
    assert (stopped.state, stopped.exit and stopped.exit.code) == (State.STOPPED, 137)
    h.backend.delete(ref)
    assert not ref.directory.exists()


def test_a_base_disk_that_needs_another_file_is_refused(h: Harness, disk_machine: Body) -> None:
    assert disk_machine.spec.machine.disk is not None
    linked = h.folder / "linked.qcow2"
    base = disk_machine.spec.machine.disk
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", str(linked)], check=True)
    order = without_image(disk_machine, disk=str(linked))
    with pytest.raises(VmctlError, match="backing file"):
        h.backend.validate(order.spec)
    with pytest.raises(VmctlError, match="backing file"):
        h.backend.create(order)
    assert not order.directory.exists()


def test_a_closed_home_is_named(h: Harness, disk_machine: Body) -> None:
    home = h.folder / "home"
    home.mkdir(mode=0o700)
    order = msgspec.structs.replace(disk_machine, directory=home / "x")
    with pytest.raises(PermissionDenied) as refusal:
        h.backend.create(order)
    assert str(home) in refusal.value.hint
    assert not order.directory.exists()
    with pytest.raises(NotFound):
        h.backend.inspect(ref_of(order))


def test_what_is_written_stays_over_a_restart_and_cpu_limit_is_in_the_cgroup(h: Harness) -> None:
    script = "cat /root/kept 2>/dev/null; mkdir -p /root; echo kept > /root/kept; echo ready; sleep 600"
    ref = h.start("sh", "-c", script, cpu_millis=1500, memory=200 << 20)
    until(lambda: b"ready" in h.log(ref))
    seen = h.backend.inspect(ref)
    assert (seen.cpu_limit_millis, seen.memory_limit) == (1500, 200 << 20)
    assert h.exec(ref, "nproc").out == b"2\n"
    assert seen.pid is not None
    assert native_name(ref.id).encode() in Path(f"/proc/{seen.pid}/cmdline").read_bytes()
    h.backend.stop(ref, timeout=0.5)
    h.backend.start(ref)
    until(lambda: h.log(ref).count(b"ready") == 2)
    assert h.log(ref) == b"ready\nkept\nready\n"


def test_a_start_that_died_before_the_init_was_told_is_finished_by_the_next(h: Harness) -> None:
    """What kill -9 between libvirt's start and BOOT leaves."""
    ref = h.create(*IDLE, network="default")
    folder.save_marks(ref.directory, folder.Marks(started_at=time.time_ns()))
    connection = open_connection(SYSTEM)
    connection.lookupByName(native_name(ref.id)).create()
    connection.close()
    assert h.backend.inspect(ref).state is State.STARTING
    h.backend.start(ref)
    assert h.backend.inspect(ref).state is State.RUNNING
    until(lambda: b"ready" in h.log(ref))
    h.backend.kill(ref)


def test_addresses_differ_and_reach_each_other(h: Harness) -> None:
    first = h.start(*IDLE, network="default")
    second = h.start(*IDLE, network="default")
    (one,), (other,) = (h.backend.inspect(ref).addresses for ref in (first, second))
    assert one != other
    assert h.exec(first, "ping", "-c", "1", "-W", "20", other).code == 0
    bulk = {seen.id: seen.addresses for seen in h.backend.instances()}
    assert (bulk[first.id], bulk[second.id]) == ((one,), (other,))


def test_a_kernel_that_dies_is_told_with_its_last_words(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    order = h.body("true")
    assert order.image is not None
    broken = h.folder / "no-filesystem"
    broken.write_bytes(bytes(1 << 20))
    broken.chmod(0o644)
    order = msgspec.structs.replace(order, image=msgspec.structs.replace(order.image, root_disk=broken))
    h.backend.create(order)
    with pytest.raises(VmctlError):
        h.backend.start(ref_of(order))
    seen = h.backend.inspect(ref_of(order))
    assert seen.state is State.FAILED
    assert seen.exit is not None
    assert seen.exit.error


def test_foreign_machines_count_with_all_they_can_take(h: Harness) -> None:
    import libvirt

    name = f"foreign-{uuid.uuid4().hex[:8]}"
    xml = (
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>96</memory>"
        "<currentMemory unit='MiB'>64</currentMemory><vcpu>2</vcpu>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
    )
    connection = libvirt.open(SYSTEM)
    domain = connection.createXML(xml, libvirt.VIR_DOMAIN_START_AUTODESTROY | libvirt.VIR_DOMAIN_START_PAUSED)
    try:
        (found,) = [one for one in h.backend.foreign() if one.native_name == name]
        assert found.running
        assert found.cpu_millis == 2000
        assert found.memory > 96 << 20
        assert name not in {one.name for one in h.backend.instances()}
    finally:
        domain.destroy()
        connection.close()
        Path(f"/var/log/libvirt/qemu/{name}.log").unlink(missing_ok=True)
    assert name not in str(h.backend.foreign())


def test_a_missing_network_is_made_and_another_missing_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another name and subnet than the real default network, which is left alone."""
    name = f"vmctl-{uuid.uuid4().hex[:8]}"
    monkeypatch.setattr(network, "DEFAULT", name)
    monkeypatch.setattr(network, "_SUBNETS", ("192.168.122", "10.213.77"))  # the first is taken
    connection = open_connection(SYSTEM)
    try:
        network.define_network(connection, name, ("192.168.122", "10.213.77"))
        made = connection.networkLookupByName(name)
        assert made.isActive()
        assert "10.213.77.1" in made.XMLDesc()
        made.destroy()
        network.ensure_network(connection, name)
        assert made.isActive()
        with pytest.raises(NotFound):
            network.ensure_network(connection, f"{name}-not")
    finally:
        for one in connection.listAllNetworks():
            if one.name() == name:
                if one.isActive():
                    one.destroy()
                one.undefine()
        connection.close()


def test_unreachable_daemon(tmp_path: Path, h: Harness) -> None:
    backend = LibvirtBackend(tmp_path, "qemu+unix:///system?socket=/nonexistent/libvirt-sock")
    probe = backend.probe()
    assert probe.health is Health.UNHEALTHY
    assert probe.reason
    assert "libvirtd" in probe.hint
    ref = Ref("01zzzzzzzzzzzzzzzzzzzzzzzz", tmp_path / "x")
    for verb in (
        lambda: backend.inspect(ref),
        backend.instances,
        backend.foreign,
        lambda: backend.create(h.body("true")),
        lambda: backend.delete(ref),
        lambda: backend.events(lambda event: None, lambda: True),
    ):
        with pytest.raises(BackendUnavailable):
            verb()
    backend.close()


def test_logs_while_paused_and_copy_to_a_read_only_root(h: Harness) -> None:
    ref = h.start(*IDLE, read_only=True)
    h.backend.pause(ref)
    assert b"ready" in h.log(ref)
    h.backend.stop(ref, timeout=10)
    assert h.backend.inspect(ref).exit is not None
    with pytest.raises(VmctlError):
        h.backend.copy_in(ref, "/", io.BytesIO())


def test_two_sessions_beside_an_attached_one(h: Harness) -> None:
    ref = h.create(*IDLE)
    attachment = h.backend.start(ref, attach=True)
    assert attachment is not None
    outcomes = [h.exec(ref, "echo", str(number)) for number in range(3)]
    assert [outcome.out for outcome in outcomes] == [b"0\n", b"1\n", b"2\n"]
    h.backend.kill(ref, signal="TERM")
    assert pump(attachment).code == 7
