"""The two system-call filters of every application: Docker's default profile as an allow list, and our deny list.

They are compiled through libseccomp (ctypes: its one maintained binding is not on PyPI) and kept as bytes below the
state directory, so that a start loads no library. A system call must pass both programs.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import platform
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from vmctl.errors import BackendUnavailable, VmctlError

PROFILE = Path(__file__).parent / "profiles" / "docker-default.json"

_FORMAT = 1
"""Raised when the same rules are compiled differently: the cache must not serve what an older vmctl made."""

_ALLOW = 0x7FFF_0000
_KILL_PROCESS = 0x8000_0000
_ERRNO = 0x0005_0000
_ATTRIBUTE_BAD_ARCH = 2

_OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
_ARCHES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}


class Compare(NamedTuple):
    """A condition on one argument; for MASKED_EQ ``value`` is the mask and ``second`` the wanted bits."""

    argument: int
    operator: str
    value: int
    second: int = 0


class Rule(NamedTuple):
    """Answer ``action`` to these calls when every condition holds."""

    names: tuple[str, ...]
    action: int
    conditions: tuple[Compare, ...] = ()


class Filters(NamedTuple):
    """Files with the compiled programs, in the order in which they are loaded."""

    allow: Path
    deny: Path


def filters(cache: Path, *, setuid_files: bool) -> Filters:
    """The programs, compiled unless they are in ``cache``. Without ``setuid_files`` no file can be made setuid.

    Raises BackendUnavailable when libseccomp is missing, VmctlError when it refuses a rule.
    """
    profile = PROFILE.read_bytes()
    deny = _deny_rules(setuid_files=setuid_files)
    key = hashlib.sha256(profile + repr((_FORMAT, deny, platform.machine())).encode()).hexdigest()[:16]
    made = Filters(cache / f"seccomp-{key}-allow.bpf", cache / f"seccomp-{key}-deny.bpf")
    if not (made.allow.exists() and made.deny.exists()):
        cache.mkdir(parents=True, exist_ok=True)
        library = _Library()
        rules = list(_profile_rules(profile, _ARCHES.get(platform.machine(), "")))
        allow = library.compile(_ERRNO | errno.EPERM, rules)
        _store(made.allow, allow)
        # A call younger than the profile answers ENOSYS, so that programs fall back to what they used before.
        newest = max(library.number(name) for rule in rules for name in rule.names)
        _store(made.deny, _answer_enosys_above(newest) + library.compile(_ALLOW, deny))
    return made


class _Condition(msgspec.Struct, rename={"second": "valueTwo", "operator": "op"}):
    index: int
    operator: str
    value: int
    second: int = 0


class _Circumstances(msgspec.Struct, frozen=True):
    caps: list[str] = []
    arches: list[str] = []


class _Entry(msgspec.Struct, rename={"number": "errnoRet"}):
    names: list[str]
    action: str
    number: int = errno.EPERM
    args: list[_Condition] | None = None
    includes: _Circumstances = _Circumstances()
    excludes: _Circumstances = _Circumstances()


class _Profile(msgspec.Struct):
    syscalls: list[_Entry]


def _profile_rules(profile: bytes, arch: str) -> Iterator[Rule]:
    """The profile's rules for a process without capabilities on this architecture."""
    for entry in msgspec.json.decode(profile, type=_Profile).syscalls:
        needs, spares = entry.includes, entry.excludes
        if needs.caps or (needs.arches and arch not in needs.arches) or arch in spares.arches:
            continue
        action = _ALLOW if entry.action == "SCMP_ACT_ALLOW" else _ERRNO | entry.number
        conditions = tuple(Compare(c.index, c.operator, c.value, c.second) for c in entry.args or ())
        yield Rule(tuple(entry.names), action, conditions)


_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_TERMINAL_TRICKS = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD
_MASK32 = 0xFFFF_FFFF  # the kernel looks at 32 bits of these arguments only: so must a filter (CVE-2019-10063)
_O_TMPFILE = 0o20000000


def _deny_rules(*, setuid_files: bool) -> list[Rule]:
    """What Docker's profile leaves open and an application does not need."""
    rules = [Rule(("io_uring_setup", "io_uring_enter", "io_uring_register"), _ERRNO | errno.ENOSYS)]
    for request in _TERMINAL_TRICKS:
        matches = Compare(1, "SCMP_CMP_MASKED_EQ", _MASK32, request)
        rules.append(Rule(("ioctl",), _ERRNO | errno.EPERM, (matches,)))
    refused = _ERRNO | errno.EAFNOSUPPORT
    rules.append(Rule(("socket", "socketpair"), refused, (Compare(0, "SCMP_CMP_GT", _AF_NETLINK),)))
    for family in set(range(_AF_NETLINK)) - {_AF_UNIX, _AF_INET, _AF_INET6}:
        rules.append(Rule(("socket", "socketpair"), refused, (Compare(0, "SCMP_CMP_EQ", family),)))
    netlink = Compare(0, "SCMP_CMP_EQ", _AF_NETLINK)
    not_route = Compare(2, "SCMP_CMP_NE", 0)
    rules.append(Rule(("socket",), _ERRNO | errno.EPROTONOSUPPORT, (netlink, not_route)))
    return rules if setuid_files else rules + _setuid_rules()


def _setuid_rules() -> list[Rule]:
    """No setuid and no setgid file, by whichever call: for applications that write into folders of the host."""
    rules = [Rule(("openat2",), _ERRNO | errno.ENOSYS)]  # its mode is in memory, where a filter cannot look
    for bit in (stat.S_ISUID, stat.S_ISGID):
        for name, index in (("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("mknod", 1), ("mknodat", 2), ("creat", 1)):
            rules.append(Rule((name,), _ERRNO | errno.EPERM, (Compare(index, "SCMP_CMP_MASKED_EQ", bit, bit),)))
        for name, index in (("open", 1), ("openat", 2)):
            for flag in (os.O_CREAT, _O_TMPFILE):  # without one of them the mode is whatever the register held
                makes = Compare(index, "SCMP_CMP_MASKED_EQ", flag, flag)
                mode = Compare(index + 1, "SCMP_CMP_MASKED_EQ", bit, bit)
                rules.append(Rule((name,), _ERRNO | errno.EPERM, (makes, mode)))
    return rules


def _answer_enosys_above(newest: int) -> bytes:
    """BPF to put before a program: load the number; above ``newest`` answer ENOSYS, else go on."""
    load_word, jump_greater, answer = 0x20, 0x25, 0x06
    return b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (load_word, 0, 0, 0),
            (jump_greater, 0, 1, newest),
            (answer, 0, 0, _ERRNO | errno.ENOSYS),
        )
    )


class _Argument(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class _Library:
    """The few functions of libseccomp that are needed."""

    def __init__(self) -> None:
        try:
            self._lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        except OSError:
            raise BackendUnavailable(
                "libseccomp is missing, so applications could not be confined", hint="apt-get install libseccomp2"
            ) from None
        self._lib.seccomp_init.restype = ctypes.c_void_p

    def number(self, name: str) -> int:
        """The call's number on this machine; negative where it has none."""
        return int(self._lib.seccomp_syscall_resolve_name(name.encode()))

    def compile(self, default: int, rules: Sequence[Rule]) -> bytes:
        """BPF that answers ``default`` unless a rule matches, and kills a process of another architecture."""
        context = ctypes.c_void_p(self._lib.seccomp_init(ctypes.c_uint32(default)))
        try:
            self._ok(self._lib.seccomp_attr_set(context, _ATTRIBUTE_BAD_ARCH, ctypes.c_uint32(_KILL_PROCESS)))
            for rule in rules:
                if rule.action != default:  # which libseccomp refuses
                    self._add(context, rule)
            return self._export(context)
        finally:
            self._lib.seccomp_release(context)

    def _add(self, context: ctypes.c_void_p, rule: Rule) -> None:
        conditions = [_Argument(c.argument, _OPERATORS[c.operator], c.value, c.second) for c in rule.conditions]
        array = (_Argument * len(conditions))(*conditions)
        for name in rule.names:
            number = self.number(name)
            if number >= 0:
                action = ctypes.c_uint32(rule.action)
                self._ok(self._lib.seccomp_rule_add_array(context, action, number, len(conditions), array), name)

    def _export(self, context: ctypes.c_void_p) -> bytes:
        fd = os.memfd_create("seccomp")
        with os.fdopen(fd, "rb") as stream:
            self._ok(self._lib.seccomp_export_bpf(context, fd))
            stream.seek(0)
            return stream.read()

    @staticmethod
    def _ok(result: int, what: str = "the filter") -> None:
        if result < 0:
            raise VmctlError(f"libseccomp refuses {what}: {os.strerror(-result)}")


def _store(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
