"""The system calls that Python has no name for, through libc; nothing of vmctl is imported here.

The numbers are those of the unified table: the same on every architecture (Linux 5.12 and later have them all).
"""

from __future__ import annotations

import ctypes
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REC, MS_PRIVATE = 0x4000, 0x40000

_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_CLONE3 = 435
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_IDMAP = 0x0010_0000
_SIGCHLD = 17

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_SECCOMP = 22
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x2008_0522
_NS_GET_USERNS = 0xB701
_BPF_INSTRUCTION = 8


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _syscall(what: str, number: int, *arguments: int | bytes | None) -> int:
    words = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return _check(int(_libc.syscall(ctypes.c_long(number), *words)), what)


def clone(flags: int) -> int:
    """fork(2) into new namespaces: 0 in the child, its pid in the parent. The caller MUST have one thread."""
    arguments = struct.pack("11Q", flags, 0, 0, 0, _SIGCHLD, 0, 0, 0, 0, 0, 0)
    return _syscall("clone3", _SYS_CLONE3, arguments, len(arguments))


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(int(_libc.unshare(ctypes.c_int(flags))), "unshare")


def setns(fd: int, flags: int) -> None:
    """setns(2); with a pidfd several namespaces are entered at once."""
    _check(int(_libc.setns(ctypes.c_int(fd), ctypes.c_int(flags))), "setns")


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    arguments = [ctypes.c_char_p(os.fsencode(text) if text else None) for text in (source, target, kind)]
    data = ctypes.c_char_p(os.fsencode(options) if options else None)
    _check(int(_libc.mount(*arguments, ctypes.c_ulong(flags), data)), target)


def open_tree(path: str) -> int:
    """A detached copy of the mounts at ``path``, as a descriptor."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE
    return _syscall(path, _SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)


def map_ids(tree: int, userns: int) -> None:
    """Show the detached mount ``tree`` with its owners translated by the user namespace ``userns``."""
    attributes = struct.pack("4Q", _MOUNT_ATTR_IDMAP, 0, 0, userns)
    _syscall("mount_setattr", _SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, len(attributes))


def move_mount(tree: int, target: str) -> None:
    """Attach a detached mount at ``target``."""
    _syscall(target, _SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)


def owning_userns(namespace: int) -> int:
    """A descriptor of the user namespace that owns ``namespace``."""
    return _check(int(_libc.ioctl(ctypes.c_int(namespace), ctypes.c_ulong(_NS_GET_USERNS))), "NS_GET_USERNS")


def die_with_parent() -> None:
    """SIGKILL when the parent's thread ends. Lost at each change of identity: call it after that."""
    _prctl(_PR_SET_PDEATHSIG, 9)


def become_subreaper() -> None:
    """Orphaned descendants become children of the caller."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def drop_all_capabilities() -> None:
    """Empty the bounding, ambient, inheritable, permitted and effective sets."""
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break  # one past the last that the kernel knows
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _check(int(_libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(bytes(24)))), "capset")


def no_new_privileges() -> None:
    """Neither setuid bits nor file capabilities have any effect from now on, also for descendants."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def load_filter(program: bytes) -> None:
    """Confine the caller by a seccomp program (an array of BPF instructions)."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // _BPF_INSTRUCTION, ctypes.addressof(code))
    pointer = ctypes.create_string_buffer(header, len(header))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(pointer))


def _prctl(option: int, *arguments: int) -> None:
    words = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    _check(int(_libc.prctl(ctypes.c_int(option), *words)), f"prctl {option}")
