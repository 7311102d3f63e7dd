"""``vmctl shell`` on a real instance: commands piped into the best shell there is."""

from __future__ import annotations

import pytest

from tests.support.runner import Vmctl

pytestmark = pytest.mark.sandbox


def test_commands_are_piped_into_a_shell(vmctl_with_image: Vmctl) -> None:
    vmctl_with_image("run", "-d", "--app", "--name", "box", "busybox", "--", "sleep", "1000").expect()
    done = vmctl_with_image("shell", "box", "--workdir", "/tmp", stdin="pwd\necho err >&2\nexit 4\n")
    assert (done.code, done.out, done.err) == (4, "/tmp\n", "err\n")
    vmctl_with_image("rm", "-f", "box").expect()
