"""Tables as people see them, byte for byte. ``VMCTL_UPDATE_GOLDEN=1`` writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from tests.support.views import SOME_ID, instance
from vmctl.model.event import Event, EventType
from vmctl.model.observed import Health
from vmctl.model.state import Kind, State
from vmctl.model.views import (
    BackendView,
    Check,
    ClaimView,
    DiskUsageRow,
    Explanation,
    HostResource,
    ImageView,
    ShortageView,
    StatsRow,
)
from vmctl.output import checks, explanation, listings, show, tables

FOLDER = Path(__file__).parent
NOW = 1_700_000_000.0
HOUR = 3_600_000_000_000
GIB = 1 << 30


@pytest.fixture(autouse=True)
def frozen_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: NOW)


def compare(name: str, text: str) -> None:
    file = FOLDER / f"output_{name}.txt"
    if os.environ.get("VMCTL_UPDATE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def hours_ago(hours: float) -> int:
    return int(NOW * 1e9 - hours * HOUR)


INSTANCES = [
    instance(name="web", started_at=hours_ago(2), ports=("127.0.0.1:8080->80/tcp",), memory=GIB),
    instance(name="db", kind=Kind.VM, backend="libvirt", cpu_millis=1500, memory=4 * GIB, started_at=hours_ago(0.01)),
    instance(name="job", kind=Kind.APP, state=State.STOPPED, exit_code=3, addresses=(), cpu_millis=250),
    instance(name="tool", kind=Kind.APP, image=None, state=State.LOST, addresses=()),
]


def test_ps() -> None:
    compare("ps", show.render(listings.INSTANCES, INSTANCES, "table"))


def test_ps_on_a_narrow_terminal() -> None:
    image = "registry.example/with/a/long/name:and-tag"
    long = [msgspec.structs.replace(view, image=image) for view in INSTANCES[:2]]
    compare("ps_narrow", show.render(listings.INSTANCES, long, "table", width=100))


def test_ps_without_instances() -> None:
    compare("ps_empty", show.render(listings.INSTANCES, [], "table"))


def test_stats() -> None:
    rows = [
        StatsRow(
            id=SOME_ID, name="web", kind=Kind.CONTAINER, cpu_millis_used=1234, cpu_millis=2000, memory_used=300 << 20,
            memory=GIB, pids_used=7, net_rx=1 << 20, net_tx=2048, block_read=0, block_write=5 << 20,
        ),
        StatsRow(
            id=SOME_ID, name="db", kind=Kind.VM, cpu_millis_used=5, cpu_millis=1500, memory_used=GIB,
            memory=4 * GIB, pids_used=None, net_rx=None, net_tx=None, block_read=None, block_write=None,
        ),
    ]  # fmt: skip
    compare("stats", show.render(listings.STATS, rows, "table"))


def test_images() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    rows = [
        ImageView(
            name="deb:latest", digest=digest, config_digest=digest, architecture="amd64", os="linux", size=120 << 20,
            created_at=hours_ago(50), forms=("docker", "tree"),
        )
    ]  # fmt: skip
    compare("images", show.render(listings.IMAGES, rows, "table"))


def claim(**changes: object) -> ClaimView:
    base = ClaimView(
        id=SOME_ID, instance_id=SOME_ID, name="web", project="default", kind=Kind.CONTAINER, backend="docker",
        part="compute", state="ACTIVE", claim_class="durable", amounts={"mem": GIB, "cpu.shared": 1500, "pids": 1036},
        overhead={"mem": 12 << 20, "pids": 12}, owner_pid=None, owner_alive=False, created_at=hours_ago(3),
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def test_claims() -> None:
    static = {"disk.virt@storage:default": 20 * GIB, "inst": 1}
    rows = [
        claim(part="static", amounts=static, overhead={}),
        claim(),
        claim(name="their-vm", kind=Kind.VM, state="FOREIGN", instance_id=None, overhead={}),
    ]
    compare("claims", show.render(listings.CLAIMS, rows, "table"))


def test_host() -> None:
    rows = [
        HostResource(
            pool="host", resource="mem", unit="bytes", total=24 * GIB, reserved=GIB, ratio_ppm=1_000_000,
            capacity=23 * GIB, claimed=5 * GIB, foreign=GIB, free=18 * GIB, used=2 * GIB, source="probed",
        ),
        HostResource(
            pool="storage:default", resource="disk.virt", unit="bytes", total=100 * GIB, reserved=0,
            ratio_ppm=2_000_000, capacity=200 * GIB, claimed=0, foreign=0, free=200 * GIB, used=None,
            source="configured",
        ),
    ]  # fmt: skip
    compare("host", show.render(listings.HOST, rows, "table"))


def test_backends_disk_and_events() -> None:
    backends = [
        BackendView(
            name="docker", kinds=(Kind.CONTAINER,), health=Health.HEALTHY, version="20.10", reason="", hint="",
            facts={}, capabilities={},
        ),
        BackendView(
            name="libvirt", kinds=(Kind.VM,), health=Health.UNHEALTHY, version="", reason="no socket", hint="start it",
            facts={}, capabilities={},
        ),
    ]  # fmt: skip
    usage = [DiskUsageRow(what="images", count=2, size=3 * GIB, reclaimable=GIB)]
    events = [Event(at=0, type=EventType.STOP, instance_id=SOME_ID, name="web", kind="container", detail="exit=3")]
    text = show.render(listings.BACKENDS, backends, "table") + "\n"
    text += show.render(listings.DISK_USAGE, usage, "table") + "\n"
    text += tables.render(listings.EVENTS.columns, events)
    compare("backends_disk_events", text)


def test_explanation() -> None:
    short = ShortageView(
        resource="mem", pool="host", gate="ledger", needed=4 * GIB, free=GIB, capacity=23 * GIB,
        holders=(("web", 20 * GIB), ("db", 2 * GIB)),
    )  # fmt: skip
    demand = {"mem": 4 * GIB, "cpu.shared": 1000}
    not_now = Explanation(verdict="not-now", demand=demand, overhead={"mem": 12 << 20}, shortages=(short,))
    fits = Explanation(verdict="fits", demand=demand, overhead={}, shortages=())
    compare("explanation", explanation.explanation_text(not_now) + "\n" + explanation.explanation_text(fits))


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        Check(part="libvirt", ok=True, detail="9.0.0 answers"),
        Check(part="KVM", ok=False, needed=False, detail="kernels die under it", remedy="use another host"),
        Check(part="docker", ok=False, detail="no socket", remedy="systemctl start docker"),
    ]
    assert not checks.show_checks(found, "table")
    compare("doctor", capsys.readouterr().out)
