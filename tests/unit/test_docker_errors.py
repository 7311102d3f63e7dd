"""What the daemon says becomes a typed error, without native ids."""

from __future__ import annotations

import pytest

from vmctl.backends.docker import errors
from vmctl.backends.docker.adapter import open_backend
from vmctl.errors import (
    BackendUnavailable,
    CannotInvoke,
    Conflict,
    NotFound,
    PermissionDenied,
    ProgramNotFound,
    UsageError,
    VmctlError,
)
from vmctl.model.observed import Health

RUNC = "failed to create shim: OCI runtime create failed: runc create failed: unable to start container process: "


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (RUNC + 'exec: "nosuch": executable file not found in $PATH: unknown', ProgramNotFound),
        (RUNC + 'exec: "/nope": stat /nope: no such file or directory: unknown', ProgramNotFound),
        (RUNC + 'exec: "/etc/passwd": permission denied: unknown', CannotInvoke),
        (RUNC + 'exec: "/etc": is a directory: unknown', CannotInvoke),
        ('OCI runtime exec failed: exec failed: exec: "x": permission denied: unknown\r\n', CannotInvoke),
        ("linux spec user: unable to find user nobody: no matching entries in passwd file", CannotInvoke),
        (RUNC + "error mounting /a to rootfs: no such file or directory: unknown", None),
        ("driver failed programming external connectivity", None),
    ],
)  # fmt: skip
def test_programs_that_cannot_be_started(message: str, kind: type[VmctlError] | None) -> None:
    found = errors.program_failure(message)
    assert type(found) is (kind or type(None))


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available", UsageError),
        (403, "endpoint with name x already exists", PermissionDenied),
        (404, "network nosuch not found", NotFound),
        (409, "conflict", Conflict),
        (500, "Bind for 127.0.0.1:8080 failed: port is already allocated", Conflict),
        (500, "write /var/lib/docker/x: no space left on device", VmctlError),
        (500, "something else", VmctlError),
    ],
)
def test_by_status_and_text(status: int, message: str, kind: type[VmctlError]) -> None:
    assert type(errors.failure(status, message)) is kind


def test_no_native_id_and_one_line() -> None:
    message = f"container {'a' * 64} /vmctl-01m809kgmskvngza6tg0d3q1jy:\n  broken"
    error = errors.failure(500, message)
    assert error.message == "Docker failed: container (this container) (this container): broken"


def test_socket_missing(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    backend = open_backend(tmp_path)
    with pytest.raises(BackendUnavailable) as error:
        backend.instances()
    assert error.value.hint
    assert backend.probe().health in (Health.UNDETECTED, Health.UNHEALTHY)
    assert backend.probe().reason
    with pytest.raises(BackendUnavailable), backend._client.sdk_errors() as sdk:
        sdk.ping()


def test_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The ledger counts this host's memory: a container elsewhere does not belong in it."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    backend = open_backend(tmp_path)
    with pytest.raises(BackendUnavailable, match=r"tcp://192\.0\.2\.1:2375"):
        backend.foreign()
    assert backend.probe().health is not Health.HEALTHY


def test_no_permission() -> None:
    error = errors.unavailable("/run/docker.sock", PermissionError())
    assert type(error) is PermissionDenied
    assert "usermod -aG docker" in error.hint


@pytest.mark.parametrize(("systemd", "words"), [(True, "systemctl start docker"), (False, "dockerd")])
def test_remedy_with_and_without_systemd(monkeypatch: pytest.MonkeyPatch, systemd: bool, words: str) -> None:
    monkeypatch.setattr(errors.shutil, "which", lambda _: "/usr/sbin/dockerd")
    monkeypatch.setattr(errors.os.path, "isdir", lambda _: systemd)
    assert words in errors.unavailable("/s", ConnectionRefusedError()).hint


def test_remedy_when_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors.shutil, "which", lambda _: None)
    assert "apt install docker.io" in errors.unavailable("/s", FileNotFoundError()).hint
