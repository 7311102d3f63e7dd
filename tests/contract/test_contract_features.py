"""Features without a protocol of their own: what is declared works, and what is not is refused before it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.contract.harness import Harness, pump
from vmctl.errors import VmctlError
from vmctl.model.capability import Feature
from vmctl.model.spec import Mount, Port


def wanted(feature: Feature, folder: Path) -> dict[str, Any]:
    """The part of a spec that asks for ``feature``."""
    return {
        Feature.TTY: {"tty": True},
        Feature.READ_ONLY: {"read_only": True},
        Feature.VOLUMES: {"mounts": (Mount(source=str(folder), target="/data", read_only=True),)},
        Feature.PORTS: {"ports": (Port(port=80),), "network": "default"},
        Feature.HOST_COMMAND: {"image": None},
    }[feature]


SPEC_FEATURES = (Feature.TTY, Feature.READ_ONLY, Feature.VOLUMES, Feature.PORTS, Feature.HOST_COMMAND)


@pytest.mark.parametrize("feature", SPEC_FEATURES)
def test_refused_where_it_is_not_declared(h: Harness, feature: Feature, tmp_path: Path) -> None:
    spec = msgspec.structs.replace(h.body("true").spec, **wanted(feature, tmp_path))
    if h.backend.capabilities()[feature]:
        with pytest.raises(VmctlError) as refusal:
            h.backend.validate(spec)
        assert refusal.value.exit_code in (2, 7)
    else:
        h.backend.validate(spec)


def test_everything_declared_at_once(h: Harness, tmp_path: Path) -> None:
    """One body with a terminal, a read-only root, a folder of the host and a published port, as far as declared."""
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("from the host\n")
    able = {feature for feature, reason in h.backend.capabilities().items() if not reason}
    spec: dict[str, Any] = {}
    for feature in (Feature.TTY, Feature.READ_ONLY, Feature.VOLUMES, Feature.PORTS):
        spec |= wanted(feature, tmp_path) if feature in able else {}
    script = ["echo begin"]
    expected = ["begin"]
    if Feature.VOLUMES in able:
        script.append("cat /data/file")
        expected.append("from the host")
    if Feature.READ_ONLY in able:
        script.append("(echo x >/file) 2>/dev/null || echo read-only")
        expected.append("read-only")
    ref = h.create("sh", "-c", "; ".join([*script, "sleep 1"]), **spec)
    attachment = h.backend.start(ref, attach=True)
    seen = h.backend.inspect(ref)
    outcome = pump(attachment)
    ending = "\r\n" if Feature.TTY in able else "\n"
    assert outcome.out.decode() == "".join(line + ending for line in expected)
    assert outcome.code == 0
    if Feature.PORTS in able:
        (port,) = seen.ports
        assert port.startswith("127.0.0.1:")
        assert port.endswith("->80/tcp")
    if Feature.LIMIT_PIDS in able:
        assert seen.pids_limit == h.body("true").spec.pids
    if Feature.LIMIT_MEMORY in able:
        assert seen.memory_limit == h.body("true").spec.memory
