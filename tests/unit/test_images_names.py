"""Names and digests of images."""

from __future__ import annotations

import pytest

from vmctl.errors import UsageError
from vmctl.images.names import digest_prefix, is_digest, parse_name


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("debian", "debian:latest"),
        ("debian:12", "debian:12"),
        ("library/my-app__x.y:V1.0_a", "library/my-app__x.y:V1.0_a"),
        ("localhost:5000/team/app", "localhost:5000/team/app:latest"),
    ],
)
def test_names_are_completed_by_the_tag_latest(text: str, full: str) -> None:
    assert parse_name(text) == full


@pytest.mark.parametrize(
    "text",
    ["", "Debian", "debian:", ":1", "a//b", "a-", "../a", "a b", "a:b:c", "a:-x", "a\n", "a" * 256, "a:" + "x" * 130],
)
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_name(text)


def test_digests_and_their_beginnings() -> None:
    assert is_digest("sha256:" + "0" * 64)
    assert not is_digest("sha256:" + "0" * 63)
    assert not is_digest("sha512:" + "0" * 128)
    assert digest_prefix("ab12") == "sha256:ab12"
    assert digest_prefix("sha256:ab12") == "sha256:ab12"
    assert digest_prefix("xyz") is None
