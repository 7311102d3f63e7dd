"""The domain XML, word for word. VMCTL_TEST_GOLDEN=write renews the files; libvirt's own schema accepts each."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from vmctl.backends.base import Body
from vmctl.backends.libvirt.disk import BaseDisk
from vmctl.backends.libvirt.observe import describe
from vmctl.backends.libvirt.plan import Surroundings, domain_xml
from vmctl.model.ids import new_id
from vmctl.model.image import ImageConfig, Kernel, PreparedImage
from vmctl.model.process import resolve_process
from vmctl.model.spec import InstanceSpec, Machine
from vmctl.model.state import Kind, RestartPolicy

GOLDEN = Path(__file__).parent
IMAGE = PreparedImage(
    name="web",
    digest="sha256:" + "d" * 64,
    config_digest="sha256:" + "c" * 64,
    config=ImageConfig(cmd=("serve",), stop_signal="SIGQUIT"),
    root_disk=Path("/var/lib/vmctl/images/disks/d.erofs"),
    root_fs="erofs",
    kernel=Kernel(version="6.1", path=Path("/k/kernel"), initramfs=Path("/k/initramfs"), key="key"),
)
BASE = BaseDisk(Path("/disks/debian.qcow2"), "qcow2", 2 << 30)
TCG = Surroundings("tcg", True)
CASES = {
    "image": (InstanceSpec(kind=Kind.VM, name="web", image="web"), TCG),
    "image_full": (
        InstanceSpec(
            kind=Kind.VM,
            name="web",
            image="web",
            command=("sh", "-c", "echo 'quoted \"text\"' <&> ü \x01"),
            env={"TOKEN": "secret"},
            cpu_millis=1500,
            memory=(300 << 20) + 5,
            network="lab",
            read_only=True,
            restart=RestartPolicy.ALWAYS,
        ),
        Surroundings("kvm", True, firmware=Path("/f/qboot.rom")),
    ),
    "disk": (
        InstanceSpec(
            kind=Kind.VM,
            name="disk",
            cpu_millis=2000,
            restart=RestartPolicy.ON_FAILURE,
            machine=Machine(disk="/disks/debian.qcow2", firmware="uefi"),
        ),
        Surroundings("tcg", True, BASE),
    ),
    "kernel_session": (
        InstanceSpec(
            kind=Kind.VM, name="k", machine=Machine(kernel="/k/vmlinuz", initrd="/k/initrd", cmdline="console=ttyS0")
        ),
        Surroundings("tcg", False),
    ),
}


def body(spec: InstanceSpec) -> Body:
    image = IMAGE if spec.image else None
    return Body(
        id="01hzzzzzzzzzzzzzzzzzzzzzzz",
        ledger="00000000-0000-0000-0000-000000000001",
        claim="01hzzzzzzzzzzzzzzzzzzzzzzc",
        name=spec.name,
        spec=spec,
        directory=Path("/var/lib/vmctl/instances/01hzzzzzzzzzzzzzzzzzzzzzzz"),
        process=resolve_process(spec, image.config) if image else None,
        image=image,
    )


@pytest.mark.parametrize("case", CASES)
def test_domain_xml(case: str) -> None:
    spec, around = CASES[case]
    text = domain_xml(body(spec), around)
    file = GOLDEN / f"libvirt_{case}.xml"
    if os.environ.get("VMCTL_TEST_GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.libvirt
@pytest.mark.parametrize("case", CASES)
def test_libvirts_schema_accepts_it(case: str) -> None:
    import libvirt

    spec, around = CASES[case]
    order = msgspec.structs.replace(body(spec), id=new_id())
    around = msgspec.structs.replace(around, accel="tcg")
    connection = libvirt.open("qemu:///system")
    try:
        domain = connection.defineXMLFlags(domain_xml(order, around), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    finally:
        connection.close()


def test_a_session_has_one_user_and_one_network() -> None:
    """libvirt refuses the owner's label where it has no such driver: a session."""
    text = domain_xml(body(CASES["image"][0]), Surroundings("tcg", False))
    assert "seclabel" not in text
    assert '<interface type="user">' in text


def test_secrets_of_the_environment_stay_out() -> None:
    text = domain_xml(body(CASES["image_full"][0]), TCG)
    assert "TOKEN" in text
    assert "secret" not in text


def test_what_is_written_is_read_back() -> None:
    spec, around = CASES["image_full"]
    order = body(spec)
    described = describe(domain_xml(order, around))
    assert described.owner is not None
    assert (described.owner.id, described.owner.ledger, described.owner.claim) == (order.id, order.ledger, order.claim)
    assert described.owner.directory == order.directory
    assert (described.memory, described.vcpus, described.cpu_millis) == (300 << 20, 2, 1500)
    assert described.network == "lab"
