"""What a program in a sandbox can and cannot do, as root's backend and as an ordinary user's."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sandbox import Sandboxes, tree_of
from vmctl.backends.base import Ref
from vmctl.backends.sandbox.client import read_order
from vmctl.errors import CannotInvoke, ProgramNotFound, Unsupported, VmctlError
from vmctl.model.image import PreparedImage
from vmctl.model.spec import Mount
from vmctl.model.state import State

pytestmark = pytest.mark.sandbox

CONFINED = {"CapEff": "0000000000000000", "CapBnd": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"}
IDLE = ("sleep", "600")


@pytest.fixture
def sandboxes(tmp_path: Path) -> Iterator[Sandboxes]:
    made = Sandboxes(tmp_path)
    yield made
    made.clean()


@pytest.fixture
def tree(tmp_path: Path) -> PreparedImage:
    return tree_of(tmp_path)


def status_lines(text: bytes) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
    return {key: value.strip() for key, value in pairs if key in CONFINED}


def test_program_and_exec_have_no_rights_and_the_same_filters(sandboxes: Sandboxes, tree: PreparedImage) -> None:
    ref = sandboxes.start(*IDLE, image=tree)
    assert status_lines(sandboxes.exec(ref, "cat", "/proc/1/status").out) == CONFINED  # bwrap's own process inside
    main = sandboxes.backend.inspect(ref).pid
    assert status_lines(Path(f"/proc/{main}/status").read_bytes()) == CONFINED
    assert status_lines(sandboxes.exec(ref, "cat", "/proc/self/status").out) == CONFINED


def test_program_and_exec_inherit_three_descriptors_only(sandboxes: Sandboxes, tree: PreparedImage) -> None:
    ref = sandboxes.start(*IDLE, image=tree)
    main = sandboxes.backend.inspect(ref).pid
    assert sorted(os.listdir(f"/proc/{main}/fd")) == ["0", "1", "2"]
    assert sandboxes.exec(ref, "sh", "-c", "ls /proc/$$/fd; true").out.split() == [b"0", b"1", b"2"]


def test_exec_shares_every_namespace(sandboxes: Sandboxes, tree: PreparedImage) -> None:
    ref = sandboxes.start(*IDLE, image=tree)
    main = sandboxes.backend.inspect(ref).pid
    for name in ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user"):
        inside = sandboxes.exec(ref, "readlink", f"/proc/self/ns/{name}").out.decode().strip()
        assert inside == os.readlink(f"/proc/{main}/ns/{name}")
        assert inside != os.readlink(f"/proc/self/ns/{name}")


def test_root_inside_is_nobody_outside(sandboxes: Sandboxes, tree: PreparedImage) -> None:
    ref = sandboxes.start("sh", "-c", "touch /etc/x; sleep 600", image=tree)
    assert sandboxes.exec(ref, "id", "-u").out == b"0\n"
    assert sandboxes.exec(ref, "stat", "-c", "%u", "/etc/passwd").out == b"0\n"
    sandboxes.until(lambda: (ref.directory / "upper/etc/x").exists())
    base = read_order(ref.directory)["id_base"]
    assert base >= 524288
    assert (ref.directory / "upper/etc/x").stat().st_uid == base
    assert Path(f"/proc/{sandboxes.backend.inspect(ref).pid}").stat().st_uid == base
    assert stat.S_IMODE(ref.directory.stat().st_mode) == 0o700


def test_the_shared_tree_stays_untouched(sandboxes: Sandboxes, tree: PreparedImage) -> None:
    assert tree.tree is not None
    before = sorted(str(path) for path in tree.tree.rglob("*"))
    outcome, ref = sandboxes.run("sh", "-c", "echo x >/etc/passwd; rm /bin/echo; ls /bin/echo", image=tree)
    assert outcome.code == 1
    assert sorted(str(path) for path in tree.tree.rglob("*")) == before
    assert "root" in (tree.tree / "etc/passwd").read_text()
    sandboxes.backend.start(ref)  # what was written stays in the instance's own layer
    sandboxes.backend.wait(ref, 10)
    assert b"No such file" in sandboxes.log(ref)


@pytest.mark.parametrize(("user", "expected"), [("1000:7", b"1000 7\n"), ("daemon", b"1 1\n"), ("", b"0 0\n")])
def test_user_is_looked_up_inside(sandboxes: Sandboxes, tree: PreparedImage, user: str, expected: bytes) -> None:
    outcome, _ = sandboxes.run("sh", "-c", 'echo "$(id -u) $(id -g)"', image=tree, user=user)
    assert (outcome.out, outcome.code) == (expected, 0)


def test_unknown_user_is_refused(sandboxes: Sandboxes, tree: PreparedImage) -> None:
    ref = sandboxes.create("true", image=tree, user="alice")
    with pytest.raises(CannotInvoke, match="no user called 'alice'"):
        sandboxes.backend.start(ref)
    assert sandboxes.backend.inspect(ref).state is State.FAILED


def test_a_host_program_sees_no_private_files_and_writes_nothing(sandboxes: Sandboxes) -> None:
    script = "ls /; ls /etc/shadow /root /home /var; echo x >/usr/x; echo x >/x; echo x >/tmp/x && cat /tmp/x"
    outcome, _ = sandboxes.run("sh", "-c", script)
    names = set(outcome.out.decode().split())
    assert names <= {"bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "opt", "proc", "run", "sbin", "tmp",
                     "usr", "x"}
    assert outcome.err.count(b"No such file") == 4
    assert outcome.err.count(b"Read-only file system") == 2
    assert outcome.out.endswith(b"x\n")
    assert not Path("/usr/x").exists()


def test_kernel_files_of_the_host_are_masked_and_read_only(sandboxes: Sandboxes, tree: PreparedImage) -> None:
    writes = "echo 1 >/proc/sys/kernel/core_pattern; echo 5 >/proc/self/oom_score_adj"
    script = f"cat /proc/keys /proc/kallsyms; {writes}; ls /sys"
    outcome, _ = sandboxes.run("sh", "-c", script, image=tree)
    assert outcome.out == b""
    assert outcome.err.count(b"Read-only file system") == 2
    assert Path("/proc/sys/kernel/random/boot_id").read_text() not in outcome.out.decode()


def test_no_further_user_namespace(sandboxes: Sandboxes, tree: PreparedImage) -> None:
    assert sandboxes.run("cat", "/proc/sys/user/max_user_namespaces", image=tree)[0].out == b"0\n"


def test_network_is_loopback_only_unless_it_is_the_hosts(sandboxes: Sandboxes) -> None:
    assert sandboxes.run("cat", "/proc/net/dev")[0].out.count(b":") == 1
    shared = sandboxes.run("cat", "/proc/net/dev", network="host")[0].out
    assert shared.count(b":") == Path("/proc/net/dev").read_bytes().count(b":")


def test_environment_is_not_on_a_command_line(sandboxes: Sandboxes) -> None:
    ref = sandboxes.start(*IDLE, env={"PASSWORD": "hunter2-of-this-test"})
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert b"hunter2-of-this-test" not in process.read_bytes(), process
        except (FileNotFoundError, ProcessLookupError):
            continue
    assert b"hunter2" in Path(f"/proc/{sandboxes.backend.inspect(ref).pid}/environ").read_bytes()


# -- shared folders -------------------------------------------------------------------------------------------------


def test_shared_folder_belongs_to_its_owner(sandboxes: Sandboxes, tree: PreparedImage, tmp_path: Path) -> None:
    folder = tmp_path / "share"
    folder.mkdir(mode=0o700)
    (folder / "mine").write_text("from outside\n")
    mounts = (Mount(source=str(folder), target="/data/in"),)
    outcome, _ = sandboxes.run("sh", "-c", "cat /data/in/mine; echo y >/data/in/theirs", image=tree, mounts=mounts)
    assert outcome.out == b"from outside\n"
    assert (folder / "theirs").read_text() == "y\n"
    assert (folder / "theirs").stat().st_uid == os.getuid()


def test_no_setuid_file_can_be_left_in_a_shared_folder(
    sandboxes: Sandboxes, tree: PreparedImage, tmp_path: Path
) -> None:
    folder = tmp_path / "share"
    folder.mkdir()
    mounts = (Mount(source=str(folder), target="/data"),)
    modes = "chmod 4755 /data/su; chmod 2755 /data/su; chmod u+s /data/su"
    script = f"cp /bin/busybox /data/su; {modes}; mknod /data/d b 8 0"
    outcome, _ = sandboxes.run("sh", "-c", script, image=tree, mounts=mounts)
    assert outcome.code != 0
    assert [path.name for path in folder.iterdir()] == ["su"]
    assert stat.S_IMODE((folder / "su").stat().st_mode) & 0o6000 == 0


def test_read_only_share_and_root(sandboxes: Sandboxes, tree: PreparedImage, tmp_path: Path) -> None:
    mounts = (Mount(source=str(tmp_path), target="/data", read_only=True),)
    script = "touch /data/x; touch /x; touch /tmp/x && echo tmp"
    outcome, _ = sandboxes.run("sh", "-c", script, image=tree, mounts=mounts, read_only=True)
    assert outcome.err.count(b"Read-only file system") == 2
    assert outcome.out == b"tmp\n"


# -- hostile images -------------------------------------------------------------------------------------------------


def test_a_link_in_the_place_of_a_file_is_replaced(sandboxes: Sandboxes, tree: PreparedImage, tmp_path: Path) -> None:
    assert tree.tree is not None
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tree.tree / "etc/resolv.conf").unlink(missing_ok=True)
    (tree.tree / "etc/resolv.conf").symlink_to(victim)
    (tree.tree / "etc/hosts").symlink_to("/oldroot" + str(victim))
    outcome, _ = sandboxes.run("cat", "/etc/hosts", image=tree)
    assert b"localhost" in outcome.out
    assert victim.read_text() == "untouched"


@pytest.mark.parametrize("folder", ["proc", "dev", "etc"])
def test_a_link_in_the_place_of_a_folder_is_refused(
    sandboxes: Sandboxes, tree: PreparedImage, tmp_path: Path, folder: str
) -> None:
    assert tree.tree is not None
    (tree.tree / folder).rename(tree.tree / f"old-{folder}")
    (tree.tree / folder).symlink_to(tmp_path)
    ref = sandboxes.create("true", image=tree)
    with pytest.raises(VmctlError, match="is a link or no folder"):
        sandboxes.backend.start(ref)
    assert not list(tmp_path.glob("resolv.conf"))


def test_programs_that_cannot_be_started(sandboxes: Sandboxes, tree: PreparedImage) -> None:
    ref = sandboxes.start(*IDLE, image=tree)
    for program, error in (("nothing-here", ProgramNotFound), ("/bin/no", ProgramNotFound), ("/etc", CannotInvoke)):
        with pytest.raises(error):
            sandboxes.backend.start(sandboxes.create(program, image=tree))
        with pytest.raises(error):
            sandboxes.exec(ref, program)


# -- system calls ---------------------------------------------------------------------------------------------------

PROBE = """
import ctypes, errno, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(*words):
    ctypes.set_errno(0)
    libc.syscall(*(ctypes.c_long(word) for word in words))
    return errno.errorcode.get(ctypes.get_errno(), 'ok')
print(call(425, 1, 0), call(435, 0, 0), call(272, 0x10000000), call(16, 0, 0x5412, 0), call(16, 0, 0x1_0000_5412, 0))
print(call(41, 40, 1, 0), call(41, 16, 3, 9), call(41, 38, 5, 0), call(41, 1, 1, 0), call(470),
      call(165, 0, 0, 0, 0, 0))
print(call(101, 0, 0), call(321, 0, 0, 0), call(250, 0, 0, 0, 0), call(323, 0))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")
def test_filtered_calls(sandboxes: Sandboxes) -> None:
    """io_uring, clone3, unshare, TIOCSTI (twice); vsock, audit, AF_ALG, unix, a future call, mount; ptrace, bpf ..."""
    python = os.path.realpath(sys.executable)
    prefix = sys.base_prefix
    mounts = () if prefix == "/usr" else (Mount(source=prefix, target=prefix, read_only=True),)
    outcome, _ = sandboxes.run(python, "-I", "-c", PROBE, mounts=mounts)
    first, second, third = outcome.out.decode().splitlines()
    assert first == "ENOSYS ENOSYS EPERM EPERM EPERM"
    assert second == "EAFNOSUPPORT EPROTONOSUPPORT EAFNOSUPPORT ok ENOSYS EPERM"
    assert third.split()[1:] == ["EPERM", "EPERM", "EPERM"]


def test_ports_networks_and_volumes_are_refused_before_anything_is_made(sandboxes: Sandboxes) -> None:
    for wanted in ({"network": "lan"}, {"mounts": (Mount(source="data", target="/data"),)}):
        with pytest.raises(Unsupported):
            sandboxes.create("true", **wanted)
    assert not list(sandboxes.folder.glob("instances/*"))


def test_a_long_state_folder(tmp_path: Path) -> None:
    made = Sandboxes(tmp_path / ("x" * 120))
    try:
        ref = made.start(*IDLE)
        assert made.exec(ref, "echo", "hi").out == b"hi\n"
        made.backend.stop(ref, timeout=5)
        assert made.backend.inspect(ref).state is State.STOPPED
    finally:
        made.clean()


def test_ref_of_nothing(sandboxes: Sandboxes) -> None:
    sandboxes.backend.delete(Ref("01m80aetnk1a12rngtzha2tdmj", sandboxes.folder / "instances" / "nothing"))
