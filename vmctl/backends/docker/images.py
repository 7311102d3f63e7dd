"""Images in Docker's own store. vmctl knows an image there by the digest of its config (Docker's image id)."""

from __future__ import annotations

from collections.abc import Iterator

from vmctl.backends.docker.client import Client
from vmctl.backends.docker.native import Image
from vmctl.errors import NotFound, VmctlError


def find(client: Client, reference: str) -> Image | None:
    """The image of this id or name."""
    return client.get_many(Image, [f"/images/{reference}/json"])[0]


def load(client: Client, archive: Iterator[bytes]) -> None:
    """Load a docker-archive tar stream. Raises VmctlError with the daemon's reason if it is not one."""
    with client.sdk_errors() as sdk:
        for answer in sdk.load_image(archive):  # type: ignore[no-untyped-call]
            if "error" in answer:
                raise VmctlError(f"Docker could not load the image: {answer['error']}")


def save(client: Client, reference: str) -> Iterator[bytes]:
    """A docker-archive tar stream. Raises NotFound at once."""
    if find(client, reference) is None:
        raise NotFound(f"Docker has no image '{reference}'", hint="see: docker image ls")
    with client.sdk_errors() as sdk:
        chunks = sdk.get_image(reference)

    def stream() -> Iterator[bytes]:
        with client.sdk_errors():
            yield from chunks

    return stream()


def drop(client: Client, config_digest: str) -> None:
    """Remove it, unless it has a name in Docker: then it is the user's. Raises Conflict while a container uses it."""
    image = find(client, config_digest)
    if image is None or image.repo_tags:
        return
    try:
        with client.sdk_errors() as sdk:
            sdk.remove_image(image.id)
    except NotFound:
        return
