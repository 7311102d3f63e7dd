"""Each check of ``doctor`` fails where it should, with a remedy, and never raises."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from vmctl.app import App
from vmctl.config import load_config
from vmctl.errors import BackendUnavailable
from vmctl.model.observed import Health, Probe
from vmctl.model.views import Check
from vmctl.ops import checks_backends, checks_host, checks_images, doctor
from vmctl.paths import Paths


@pytest.fixture
def app(tmp_path: Path) -> App:
    paths = Paths(state=tmp_path / "state", run=tmp_path / "run", user_config=tmp_path / "none")
    return App(paths, load_config(paths, {}), lambda text: None)


def broken(check: Check) -> bool:
    """Failed, and says what to do."""
    assert bool(check.remedy) != check.ok
    assert check.detail
    return not check.ok


def test_a_closed_folder_on_the_way_is_named(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    closed = state_dir / "closed"
    closed.mkdir(mode=0o700)
    check = checks_host.reach_of_qemu(closed / "state")
    assert broken(check)
    assert check.remedy.startswith(f"chmod o+x {closed}")
    closed.chmod(0o711)
    assert not broken(checks_host.reach_of_qemu(closed / "state"))


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not broken(checks_host.free_disk(tmp_path / "not" / "made" / "yet"))
    monkeypatch.setattr(checks_host, "_LEAST_DISK", 1 << 62)
    assert broken(checks_host.free_disk(tmp_path))


def group_tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1 = {"cpu/tasks": "", "memory/tasks": "", "pids/tasks": ""}


@pytest.mark.parametrize(
    ("files", "ok", "words"),
    [
        (V1, True, "v1 with cpu, memory, pids"),
        ({"cpu/tasks": "", "pids/tasks": ""}, False, "v1 without memory"),
        ({"cgroup.controllers": "cpu io memory pids\n"}, True, "v2 with cpu, memory, pids"),
        ({"cgroup.controllers": "cpu pids\n"}, False, "v2 without memory"),
    ],
)
def test_cgroups(
    files: dict[str, str], ok: bool, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks_host, "_CGROUP", group_tree(tmp_path, files))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    check = checks_host.cgroups()
    assert broken(check) != ok
    assert check.detail.startswith(words)


def test_cgroups_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_host, "_CGROUP", group_tree(tmp_path, V1))
    monkeypatch.setattr(checks_host, "_can_make_group", lambda folder: folder.name != "memory")
    check = checks_host.cgroups()
    assert broken(check)
    assert check.detail == f"v1, but no group can be made below {tmp_path}/memory"


@pytest.mark.parametrize("probe", [checks_host.bubblewrap, checks_host.user_namespaces])
def test_programs_that_are_missing_or_fail(
    probe: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(probe)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert broken(probe())
    for name in ("bwrap", "unshare"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'setting up uid map: Permission denied' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    check = probe()
    assert broken(check)
    assert "setting up uid map: Permission denied" in check.detail


def test_missing_image_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise BackendUnavailable(f"'{name}' is not installed", hint=f"apt-get install {name}")

    monkeypatch.setattr(checks_images, "find_tool", absent)
    monkeypatch.setattr(checks_images, "_kernel", lambda state: Check(part="kernel", ok=True, detail="there"))
    checks = list(checks_images.image_checks(tmp_path))
    assert [check.ok for check in checks] == [False, False, False, False, True]
    assert all(check.remedy.startswith("apt-get install") for check in checks[:4])


class Answering:
    """Stands in for a backend: answers ``probe`` only."""

    def __init__(self, answer: Probe) -> None:
        self.answer = answer

    def probe(self) -> Probe:
        return self.answer


def test_backends_are_shown_with_their_reasons(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    tcg = "tcg: no /dev/kvm"
    answers = {
        "libvirt": Probe(health=Health.HEALTHY, version="9.0.0", facts={"accelerator": tcg, "kvm-device": "closed"}),
        "docker": Probe(health=Health.UNHEALTHY, reason="dockerd does not answer", hint="systemctl start docker"),
        "sandbox": Probe(health=Health.UNDETECTED, reason="no bwrap", hint="apt-get install bubblewrap"),
    }
    monkeypatch.setattr(checks_backends, "backend_names", lambda: list(answers))
    monkeypatch.setattr(app, "backend", lambda name: Answering(answers[name]))
    checks = {check.part: check for check in checks_backends.backend_checks(app)}
    assert list(checks) == ["libvirt", "accelerator", "kvm device", "docker", "sandbox"]
    assert [broken(check) for check in checks.values()] == [False, True, True, True, True]
    assert [check.needed for check in checks.values()] == [True, False, False, True, True]
    assert checks["docker"].detail == "unhealthy: dockerd does not answer"
    assert checks["docker"].remedy == "systemctl start docker"


def test_a_ledger_that_is_no_ledger(app: App) -> None:
    assert not broken(doctor.ledger(app))
    app.paths.state.mkdir()
    app.paths.ledger.write_bytes(b"this is no database" * 100)
    assert broken(doctor.ledger(app))


def test_a_ledger_that_contradicts_itself(app: App) -> None:
    assert app.ledger.uuid
    assert not broken(doctor.ledger(app))
    with app.ledger.write() as db:
        db.execute("INSERT INTO pool (name, kind) VALUES ('p', 'host') ON CONFLICT DO NOTHING")
        db.execute(
            "INSERT INTO inventory (pool, resource, probed_total, probed_reserved, default_ratio_ppm, used)"
            " VALUES ('p', 'mem', 10, 0, 1000000, 7)"
        )
    check = doctor.ledger(app)
    assert broken(check)
    app.close()
