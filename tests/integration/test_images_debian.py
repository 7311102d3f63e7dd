"""Debian from the archive that this host's apt uses: one build, looked at from all sides (20 s)."""

from __future__ import annotations

import os
import platform
import stat
import tarfile
from pathlib import Path

import pytest

from tests.support.images import assert_untouched, make_store
from vmctl.errors import VmctlError
from vmctl.images.recipe import Base, BuildRecipe
from vmctl.model.image import ImageForm


def test_a_build_is_small_usable_and_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1795000000")
    store = make_store(tmp_path)
    steps: list[str] = []
    view = store.build("debian", BuildRecipe(base=Base.DEBIAN), lambda label, done, total: steps.append(label))
    assert view.command == ("bash",)
    assert view.size < 200 << 20
    assert "installing packages" in steps
    with tarfile.open(tmp_path / "images/blobs/sha256" / view.layers[0][7:]) as tar:
        entries = tar.getmembers()
    assert not [entry.name for entry in entries if entry.isdev()]
    assert max(entry.mtime for entry in entries) <= 1795000000
    names = {entry.name for entry in entries}
    assert {"dev", "etc/os-release", "usr/bin/apt-get", "usr/share/doc/bash/copyright"} <= names
    assert not [name for name in names if name.startswith("usr/share/man/") and name.endswith(".gz")]
    tree = store.prepare("debian", ImageForm.TREE).tree
    assert tree is not None
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    assert f"VERSION_CODENAME={suite}" in (tree / "usr/lib/os-release").read_text()
    assert not stat.S_IMODE((tree / "usr/bin/su").stat().st_mode) & stat.S_ISUID
    assert not os.listdir(tmp_path / "images/tmp")


def test_a_failed_build_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(VmctlError, match="no-such-suite") as caught:
        make_store(tmp_path).build("debian", BuildRecipe(base=Base.DEBIAN, suite="no-such-suite"))
    assert "apt-get update" in caught.value.hint
    assert_untouched(tmp_path)
