"""An OCI image layout on disk: blobs by digest, one index, safe against crashes and against company.

* A blob is written to ``tmp/``, synced and renamed: what is in ``blobs/`` is whole. The index is replaced as a whole
  under a lock.
* Whoever adds blobs holds the ``busy`` lock shared; whoever deletes blobs holds it alone, so nothing is collected
  between being written and being named in the index.
* What a killed process leaves in ``tmp/`` is removed by the next one that finds the store otherwise idle.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from vmctl.errors import PermissionDenied, UsageError, VmctlError
from vmctl.images import oci
from vmctl.images.files import locked, make_folder, remove_tree, replace_file, storing_in, sync_folder
from vmctl.images.names import hex_of

CHUNK = 1 << 20

Entries = list[oci.Descriptor]
"""What an index holds."""


def read_chunks(stream: BinaryIO) -> Iterator[bytes]:
    """The rest of ``stream`` in pieces of at most CHUNK bytes."""
    while chunk := stream.read(CHUNK):
        yield chunk


class Layout:
    """The folder of an image layout. It is made by the first writer; readers of a missing one see no images."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.temporary = root / "tmp"
        self._blobs = root / "blobs" / "sha256"
        self._index = root / "index.json"

    def blob_path(self, digest: str) -> Path:
        """Where the blob is, or would be."""
        return self._blobs / hex_of(digest)

    def read_document(self, descriptor: oci.Descriptor) -> bytes:
        """A small blob (manifest, config), checked against its digest. Raises VmctlError when damaged or gone."""
        try:
            document = self.blob_path(descriptor.digest).read_bytes()
        except FileNotFoundError:
            raise self._damaged(descriptor.digest, "is missing") from None
        except PermissionError as error:
            raise _unreadable(self.root) from error
        if digest_of(document) != descriptor.digest:
            raise self._damaged(descriptor.digest, "is damaged")
        return document

    def _damaged(self, digest: str, how: str) -> VmctlError:
        return VmctlError(
            f"blob {digest} of the image store {how}", hint="remove the image, then build or import it again"
        )

    def images(self) -> Entries:
        """The manifests in the index; those without REF_NAME have lost their name to a newer image."""
        try:
            document = self._index.read_bytes()
        except FileNotFoundError:
            return []
        except PermissionError as error:
            raise _unreadable(self.root) from error
        try:
            return msgspec.json.decode(document, type=oci.Index).manifests
        except msgspec.MsgspecError as error:
            raise VmctlError(
                f"{self._index} is not an image index: {error}", hint="restore it, or move the folder away"
            ) from error

    def edit(self, change: Callable[[Entries], Entries]) -> None:
        """Replace the index by what ``change`` makes of it; edits of other processes wait."""
        with storing_in(self.root), locked(self.root / ".index.lock"):
            index = oci.Index(schema_version=2, media_type=oci.INDEX, manifests=change(self.images()))
            replace_file(self._index, msgspec.json.format(oci.encode(index), indent=2), self.root / ".index.json.new")

    def blobs(self) -> list[Path]:
        """The files of all blobs."""
        return sorted(self._blobs.iterdir()) if self._blobs.is_dir() else []

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """A folder of one's own in ``tmp/``, removed afterwards; until then nothing in the store is collected."""
        with storing_in(self.root):
            self._make()
            with self.alone() as idle:
                if idle:
                    self.sweep()
            with locked(self.root / ".busy.lock", shared=True):
                folder = self.temporary / uuid.uuid4().hex
                folder.mkdir(mode=0o700)
                try:
                    yield folder
                finally:
                    remove_tree(folder)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Yields True if no one else adds to the store; then no one can until the block is left."""
        self._make()
        with locked(self.root / ".busy.lock", wait=False) as idle:
            yield idle

    def sweep(self) -> None:
        """Remove what killed processes left. Only inside :meth:`alone`."""
        for leftover in self.temporary.iterdir():
            remove_tree(leftover)

    def _make(self) -> None:
        """The image layout's own files and folders. Blobs are the owner's alone: layers may hold secrets."""
        if (self.root / "oci-layout").exists():
            return
        with storing_in(self.root):
            make_folder(self.root, 0o711)
            make_folder(self._blobs, 0o700)
            make_folder(self.temporary, 0o711)
            with locked(self.root / ".index.lock"):
                if not self._index.exists():
                    index = oci.Index(schema_version=2, media_type=oci.INDEX, manifests=[])
                    replace_file(self._index, oci.encode(index), self.root / ".index.json.new")
                version = b'{"imageLayoutVersion":"1.0.0"}'
                replace_file(self.root / "oci-layout", version, self.root / ".oci-layout.new")


class BlobWriter:
    """A sink that knows the digest and size of what went into it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        """Append ``data``."""
        self._hash.update(data)
        self.size += len(data)
        return self._stream.write(data)

    @property
    def digest(self) -> str:
        """The digest of everything written so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def descriptor(self, media_type: str) -> oci.Descriptor:
        """The blob as a manifest or index names it."""
        return oci.Descriptor(media_type=media_type, digest=self.digest, size=self.size)


class Staging:
    """Blobs on their way into a layout: none is visible before :meth:`publish`, all are gone if that is not reached."""

    def __init__(self, layout: Layout, folder: Path) -> None:
        self.folder = folder
        self._layout = layout
        self._staged: dict[str, Path] = {}

    def add(self, chunks: Iterable[bytes], expected: str | None = None) -> BlobWriter:
        """Take a blob; its digest and size are the result's. Raises UsageError if it is not what was ``expected``."""
        with self.create() as blob:
            for chunk in chunks:
                blob.write(chunk)
        if expected is not None and blob.digest != expected:
            raise UsageError(f"a blob called {expected} is {blob.digest}", hint="the image is damaged or forged")
        return blob

    @contextmanager
    def create(self) -> Iterator[BlobWriter]:
        """A blob to be written piece by piece; it has its digest when the block is left."""
        path = self.folder / uuid.uuid4().hex
        with path.open("xb") as stream:
            blob = BlobWriter(stream)
            yield blob
            stream.flush()
            os.fsync(stream.fileno())
        self._staged[blob.digest] = path

    def drop(self, digest: str) -> None:
        """Take back a blob that is not wanted after all."""
        self._staged.pop(digest).unlink()

    def path(self, digest: str) -> Path:
        """Where the blob is now."""
        return self._staged.get(digest) or self._layout.blob_path(digest)

    def publish(self, change: Callable[[Entries], Entries]) -> None:
        """Put every staged blob into the layout (over one of that name, which may be damaged), then edit the index."""
        for digest, path in self._staged.items():
            target = self._layout.blob_path(digest)
            path.chmod(0o400)
            path.replace(target)
            sync_folder(target.parent)
        self._layout.edit(change)


def _unreadable(root: Path) -> PermissionDenied:
    return PermissionDenied(
        f"the image store in {root} is not yours to read",
        hint="run as root, or set VMCTL_STATE_DIR to a folder of your own",
    )


def digest_of(document: bytes) -> str:
    """Its sha256 digest as OCI writes it."""
    return f"sha256:{hashlib.sha256(document).hexdigest()}"


def digest_of_file(path: Path) -> str:
    """The digest of a file's content."""
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
