"""The command lines of sandboxes, word for word. VMCTL_TEST_GOLDEN=write renews the files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmctl.backends.base import Body
from vmctl.backends.sandbox.plan import native_plan
from vmctl.model.image import ImageConfig, PreparedImage
from vmctl.model.process import resolve_process
from vmctl.model.spec import InstanceSpec, Mount
from vmctl.model.state import Kind, RestartPolicy

GOLDEN = Path(__file__).parent
CONFIG = ImageConfig(cmd=("serve",), env=("A=image",), user="app", workdir="/srv", stop_signal="SIGQUIT")
IMAGE = PreparedImage(name="web", digest="", config_digest="", config=CONFIG, tree=Path("/var/lib/vmctl/trees/web"))
SPECS = {
    "host": InstanceSpec(kind=Kind.APP, name="web", command=("sh", "-c", "echo 'ü \"quoted\"'")),
    "image": InstanceSpec(kind=Kind.APP, name="web", image="web"),
    "full": InstanceSpec(
        kind=Kind.APP,
        name="web",
        image="web",
        command=("sh",),
        env={"A": "spec"},
        workdir="/tmp",
        user="1000:7",
        hostname="other",
        cpu_millis=1500,
        memory=256 << 20,
        pids=64,
        mounts=(Mount(source="/data", target="/data/", read_only=True), Mount(source="/x", target="/y")),
        network="host",
        tty=True,
        stdin=True,
        read_only=True,
        restart=RestartPolicy.ON_FAILURE,
        restart_max=3,
        stop_signal="USR1",
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_plan(name: str) -> None:
    spec = SPECS[name]
    image = IMAGE if spec.image else None
    body = Body(
        id="01hzzzzzzzzzzzzzzzzzzzzzzz",
        ledger="00000000-0000-0000-0000-000000000001",
        claim="01hzzzzzzzzzzzzzzzzzzzzzzc",
        name=spec.name,
        spec=spec,
        directory=Path("/var/lib/vmctl/instances/01hzzzzzzzzzzzzzzzzzzzzzzz"),
        process=resolve_process(spec, CONFIG if image else ImageConfig()),
        image=image,
    )
    text = native_plan(body).text
    file = GOLDEN / f"sandbox_{name}.json"
    if os.environ.get("VMCTL_TEST_GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text()
    assert str(body.directory) not in text
