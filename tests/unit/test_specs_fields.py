"""Friendly forms of values: every spelling, and every kind of nonsense."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmctl.errors import NotFound, UsageError
from vmctl.model.spec import Mount, Port
from vmctl.model.state import RestartPolicy
from vmctl.specs import fields

HERE = Path("/here")


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("80", Port(port=80)),
        ("8080:80", Port(port=80, host_port=8080)),
        (":80", Port(port=80)),
        ("0:80", Port(port=80)),
        ("0.0.0.0:8080:80", Port(port=80, host_port=8080, host_address="0.0.0.0")),
        ("127.0.0.1::80", Port(port=80)),
        ("[::1]:8080:80", Port(port=80, host_port=8080, host_address="::1")),
        ("53:53/udp", Port(port=53, host_port=53, protocol="udp")),
        ("8080:80/tcp", Port(port=80, host_port=8080)),
    ],
)
def test_ports(text: str, port: Port) -> None:
    assert fields.parse_port(text) == port


@pytest.mark.parametrize(
    "text",
    ["", "x", "80:x", "0", "65536", "70000:80", "80/sctp", "80/", "1:2:3", "999.1.1.1:1:2", "-1", "80 ", "1-2", "::80"],
)
def test_no_ports(text: str) -> None:
    with pytest.raises(UsageError):
        fields.parse_port(text)


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("/a:/b", Mount(source="/a", target="/b")),
        ("./a:/b:ro", Mount(source="/here/a", target="/b", read_only=True)),
        ("../a:/b:rw", Mount(source="/a", target="/b")),
        (".:/b", Mount(source="/here", target="/b")),
        ("data:/b", Mount(source="data", target="/b")),
        ("~/x:/b", Mount(source=str(Path.home() / "x"), target="/b")),
    ],
)
def test_mounts(text: str, mount: Mount) -> None:
    assert fields.parse_mount(text, HERE) == mount


@pytest.mark.parametrize("text", ["", "/a", "/a:b", ":/b", "/a:/b:rx", "/a:/b:ro:x", "/a:"])
def test_no_mounts(text: str) -> None:
    with pytest.raises(UsageError):
        fields.parse_mount(text, HERE)


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("type=bind,source=/a,target=/b", Mount(source="/a", target="/b")),
        ("type=bind,src=sub,dst=/b,readonly", Mount(source="/here/sub", target="/b", read_only=True)),
        ("type=volume,source=data,target=/b,ro=true", Mount(source="data", target="/b", read_only=True)),
        ("source=/a,destination=/b,readonly=false", Mount(source="/a", target="/b")),
    ],
)
def test_long_mounts(text: str, mount: Mount) -> None:
    assert fields.parse_long_mount(text, HERE) == mount


def test_an_unknown_mount_key_gets_a_hint() -> None:
    with pytest.raises(UsageError) as caught:
        fields.parse_long_mount("type=bind,sorce=/a,target=/b", HERE)
    assert caught.value.hint == "did you mean 'source'?"


@pytest.mark.parametrize("text", ["type=tmpfs,source=/a,target=/b", "type=bind,target=/b", "type=bind,source=/a"])
def test_no_long_mounts(text: str) -> None:
    with pytest.raises(UsageError):
        fields.parse_long_mount(text, HERE)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("no", (RestartPolicy.NO, 0)),
        ("always", (RestartPolicy.ALWAYS, 0)),
        ("on-failure", (RestartPolicy.ON_FAILURE, 0)),
        ("on-failure:3", (RestartPolicy.ON_FAILURE, 3)),
    ],
)
def test_restart(text: str, policy: tuple[RestartPolicy, int]) -> None:
    assert fields.parse_restart(text) == policy


@pytest.mark.parametrize("text", ["", "never", "always:3", "on-failure:", "on-failure:x", "on-failure:-1"])
def test_no_restart(text: str) -> None:
    with pytest.raises(UsageError):
        fields.parse_restart(text)


@pytest.mark.parametrize(
    ("value", "name"), [("TERM", "SIGTERM"), ("sigkill", "SIGKILL"), (9, "SIGKILL"), ("1", "SIGHUP")]
)
def test_signals(value: str | int, name: str) -> None:
    assert fields.parse_signal(value) == name


@pytest.mark.parametrize("value", ["", "TREM", "0", "999", "-9"])
def test_no_signals(value: str) -> None:
    with pytest.raises(UsageError):
        fields.parse_signal(value)


def test_environment() -> None:
    assert fields.parse_pairs(["A=1", "B=x=y", "C", "D"], inherit={"C": "from outside"}) == {
        "A": "1",
        "B": "x=y",
        "C": "from outside",
    }
    assert fields.parse_pairs({"A": 1, "B": True, "C": 1.5}, inherit={}) == {"A": "1", "B": "true", "C": "1.5"}
    assert fields.parse_pairs(["key"], inherit=None) == {"key": ""}


@pytest.mark.parametrize("env", [{"": "x"}, {"A": "\0"}, {"A\0": "x"}])
def test_environment_that_no_process_can_have(env: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        fields.check_env(env)


def test_env_file(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=1\n  B=2 \nC\n")
    assert fields.read_env_file(file) == ["A=1", "B=2", "C"]


def test_env_file_missing_or_binary(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        fields.read_env_file(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError):
        fields.read_env_file(tmp_path / "binary")


@pytest.mark.parametrize("text", ["a", "a-b.example", "A1", "x" * 63])
def test_hostnames(text: str) -> None:
    assert fields.check_hostname(text) == text


@pytest.mark.parametrize("text", ["", "-a", "a..b", "a_b", "x" * 65, "a\n"])
def test_no_hostnames(text: str) -> None:
    with pytest.raises(UsageError):
        fields.check_hostname(text)


@pytest.mark.parametrize(("text", "ppm"), [("1", 1_000_000), ("1.5", 1_500_000), ("0.5", 500_000)])
def test_ratio(text: str, ppm: int) -> None:
    assert fields.parse_ratio(text) == ppm


@pytest.mark.parametrize("text", ["0", "0.0", "-1", "x", "", "1e3", "1000"])
def test_no_ratio(text: str) -> None:
    with pytest.raises(UsageError):
        fields.parse_ratio(text)


def test_resource_amounts() -> None:
    assert fields.parse_resource_amount("mem", "2G") == 2 << 30
    assert fields.parse_resource_amount("cpu.shared", "1.5") == 1500
    assert fields.parse_resource_amount("inst", "7") == 7
    assert fields.parse_resource_amount("mem", "0", zero=True) == 0
    assert fields.parse_resource_amount("mem", None) is None
    with pytest.raises(UsageError):
        fields.parse_resource_amount("mem", "0")


def test_words() -> None:
    assert fields.parse_words("sh -c 'echo hi'") == ("sh", "-c", "echo hi")
    assert fields.parse_words(["a b", ""]) == ("a b", "")
    for bad in ("'open", ["a\0b"]):
        with pytest.raises(UsageError):
            fields.parse_words(bad)
