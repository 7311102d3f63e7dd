"""Looking after the store: what nobody needs any more, what it weighs, whether it is whole."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vmctl.errors import VmctlError
from vmctl.images import oci
from vmctl.images.files import remove_tree, size_on_disk
from vmctl.images.layout import Layout, digest_of_file
from vmctl.images.names import hex_of
from vmctl.images.prepare import Forms
from vmctl.images.progress import Progress
from vmctl.model.views import DiskUsageRow


class Upkeep:
    """Works on a layout and the forms beside it."""

    def __init__(self, layout: Layout, forms: Forms) -> None:
        self._layout = layout
        self._forms = forms

    def collect(self) -> int:
        """Remove blobs and forms that no entry of the index leads to; bytes freed. Only inside ``Layout.alone``."""
        entries = self._layout.images()
        used = self._used_blobs(entries)
        digests = {entry.digest for entry in entries}
        garbage = [path for path in self._layout.blobs() if path.name not in used]
        garbage += [path for digest, path in self._forms.all() if digest not in digests]
        freed = 0
        for path in garbage:
            freed += size_on_disk(path)
            remove_tree(path)
        return freed

    def usage(self) -> list[DiskUsageRow]:
        """One row for the images' blobs, one for each form."""
        entries = self._layout.images()
        named = [entry for entry in entries if oci.REF_NAME in (entry.annotations or {})]
        needed = self._used_blobs(named)
        digests = {entry.digest for entry in named}
        blobs = [(path.name in needed, path) for path in self._layout.blobs()]
        rows = [_row("images", len({entry.digest for entry in entries}), blobs)]
        for what, forms in (("image trees", self._forms.trees()), ("image disks", self._forms.disks())):
            rows.append(_row(what, len(forms), [(digest in digests, path) for digest, path in forms]))
        return rows

    def verify(self, progress: Progress) -> list[str]:
        """Problems, one line each."""
        problems = []
        blobs = self._layout.blobs()
        for number, path in enumerate(blobs):
            progress("verifying", number, len(blobs))
            if digest_of_file(path) != f"sha256:{path.name}":
                problems.append(f"blob sha256:{path.name} is damaged")
        present = {path.name for path in blobs}
        for entry in self._layout.images():
            try:
                manifest = oci.decode_manifest(self._layout.read_document(entry))
                oci.decode_config(self._layout.read_document(manifest.config), len(manifest.layers))
            except VmctlError as error:
                problems.append(f"image {entry.digest}: {error.message}")
                continue
            missing = [layer.digest for layer in manifest.layers if hex_of(layer.digest) not in present]
            problems += [f"image {entry.digest}: layer {digest} is missing" for digest in missing]
        return problems

    def _used_blobs(self, entries: Iterable[oci.Descriptor]) -> set[str]:
        """File names of the blobs of these images. A damaged image keeps nothing but what can be read of it."""
        used = set()
        for entry in entries:
            used.add(hex_of(entry.digest))
            try:
                manifest = oci.decode_manifest(self._layout.read_document(entry))
            except VmctlError:
                continue
            used |= {hex_of(part.digest) for part in (manifest.config, *manifest.layers)}
        return used


def _row(what: str, count: int, parts: list[tuple[bool, Path]]) -> DiskUsageRow:
    sizes = [(needed, size_on_disk(path)) for needed, path in parts]
    return DiskUsageRow(
        what=what,
        count=count,
        size=sum(size for _, size in sizes),
        reclaimable=sum(size for needed, size in sizes if not needed),
    )
