"""Any root file system survives import, export and import again, bit by bit."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.images import entry, make_store, tar_of
from vmctl.images.names import is_name, parse_name
from vmctl.images.recipe import Base, BuildRecipe

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda name: name not in (".", "..") and not name.startswith(".wh.")
)
ODD = st.binary(min_size=1, max_size=12).map(
    lambda raw: "x" + raw.replace(b"/", b"").replace(b"\0", b"").decode("utf-8", "surrogateescape")
)
FILES = st.dictionaries(NAMES | ODD, st.binary(max_size=2000) | st.none(), min_size=1, max_size=8)
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(FILES, st.integers(0, 0o7777), st.integers(0, 1 << 20))
def test_root_file_systems(files: dict[str, bytes | None], mode: int, owner: int) -> None:
    members = [
        entry(f"{name}/", tarfile.DIRTYPE, uid=owner) if data is None else entry(name, data=data, mode=mode, uid=owner)
        for name, data in files.items()
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rootfs.tar").write_bytes(tar_of(*members))
        store = make_store(folder)
        first = store.import_("first", folder / "rootfs.tar")
        second = store.import_("second", store.docker_archive("first"))
        assert (second.digest, second.config_digest, second.layers) == (first.digest, first.config_digest, first.layers)
        layer = folder / "images" / "blobs" / "sha256" / first.layers[0][7:]
        with tarfile.open(layer, errors="surrogateescape") as tar:
            found = {one.name: (tar.extractfile(one).read() if one.isreg() else None) for one in tar}  # type: ignore[union-attr]
            assert found == {name.rstrip("/"): data for name, data in files.items()}
            assert {one.uid for one in tar} == {owner}
        third = store.import_("third", layer)
        assert third.layers == first.layers


def test_busybox(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    built = store.build("busybox", BuildRecipe(base=Base.BUSYBOX))
    assert store.build("again", BuildRecipe(base=Base.BUSYBOX)).digest == built.digest
    other = make_store(tmp_path / "other")
    copied = other.import_("copied", store.docker_archive("busybox"))
    assert (copied.digest, copied.config_digest, copied.layers) == (built.digest, built.config_digest, built.layers)
    assert b"".join(other.docker_archive("copied")) == b"".join(store.docker_archive("busybox"))
    assert copied.command == ("sh",)


@given(st.text(max_size=40))
def test_whatever_is_a_name_stays_one(text: str) -> None:
    if is_name(text):
        assert parse_name(parse_name(text)) == parse_name(text)
