"""Hostile root folders: no link is followed, and users are found by the image's own files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmctl.backends.sandbox.rootfs import LaunchError, ensure_target, find_identity, read_text

PASSWD = "root:x:0:0:r:/root:/bin/sh\napp:x:10:20:::/bin/sh\nbig:x:70000:1::/:\nbroken\n7:x:9:9::/seven:\n"
GROUP = "root:x:0:\nstaff:x:50:app,other\nwheel:x:10:app\nodd:x:y:app\n"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", (0, 0, (), "/root")),
        ("app", (10, 20, (10, 50), "/")),
        ("10", (10, 20, (10, 50), "/")),
        ("app:staff", (10, 50, (), "/")),
        ("1234", (1234, 0, (), "/")),
        ("1234:99", (1234, 99, (), "/")),
        ("7", (7, 0, (), "/")),
    ],
)
def test_identities(user: str, expected: tuple[int, int, tuple[int, ...], str]) -> None:
    assert tuple(find_identity(user, PASSWD, GROUP)) == expected


@pytest.mark.parametrize("user", ["nobody", "app:nothing", "big", "65536", "0:65536"])
def test_no_such_identity(user: str) -> None:
    with pytest.raises(LaunchError) as caught:
        find_identity(user, PASSWD, GROUP)
    assert caught.value.code == "cannot-invoke"


def test_targets_are_made(tmp_path: Path) -> None:
    ensure_target(str(tmp_path), "/a/b/c", folder=True, owner=os.getuid())
    ensure_target(str(tmp_path), "/a/b/file", folder=False, owner=os.getuid())
    ensure_target(str(tmp_path), "/", folder=True, owner=os.getuid())
    assert (tmp_path / "a/b/c").is_dir()
    assert (tmp_path / "a/b/file").read_bytes() == b""


@pytest.mark.parametrize("path", ["/link", "/link/inner", "/in/link/inner", "/in/../../up", "/file/inner"])
def test_targets_behind_links_are_refused(tmp_path: Path, path: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "in", outside):
        folder.mkdir(parents=True)
    (root / "link").symlink_to(outside)
    (root / "in/link").symlink_to("/")
    (root / "file").touch()
    with pytest.raises(LaunchError):
        ensure_target(str(root), path, folder=True, owner=os.getuid())
    assert not list(outside.iterdir())


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("x")
    (tmp_path / "hosts").symlink_to(victim)
    ensure_target(str(tmp_path), "/hosts", folder=False, owner=os.getuid())
    assert (tmp_path / "hosts").read_bytes() == b""
    assert not (tmp_path / "hosts").is_symlink()
    assert victim.read_text() == "x"


def test_texts_are_read_through_no_link_and_from_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("text")
    (tmp_path / "link").symlink_to("etc")
    (tmp_path / "etc/other").symlink_to("passwd")
    os.mkfifo(tmp_path / "etc/pipe")
    assert read_text(str(tmp_path), "/etc/passwd") == "text"
    assert [read_text(str(tmp_path), path) for path in ("/link/passwd", "/etc/other", "/etc/pipe", "/no")] == [""] * 4
