"""What runs inside an instance: spec over image config, worked out once so that all three kinds agree."""

from __future__ import annotations

import msgspec

from vmctl.errors import UsageError
from vmctl.model.image import ImageConfig
from vmctl.model.spec import InstanceSpec

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A program to run inside. ``user`` is ``name``, ``uid`` or ``uid:gid`` as inside; empty is root.

    ``env`` is the whole environment, without what the kernel or a TTY adds (TERM, HOME is set when unknown).
    """

    argv: tuple[str, ...]
    env: dict[str, str] = {}
    workdir: str = "/"
    user: str = ""
    tty: bool = False
    stdin: bool = False


def resolve_process(spec: InstanceSpec, config: ImageConfig) -> Process:
    """Docker's rules: an entrypoint given by the spec drops the image's CMD; a command replaces CMD.

    Raises UsageError when neither spec nor image names a program.
    """
    entrypoint = config.entrypoint if spec.entrypoint is None else spec.entrypoint
    command = spec.command or (config.cmd if spec.entrypoint is None else ())
    argv = (*entrypoint, *command)
    if not argv:
        raise UsageError("no command to run", hint="the image names none: add one after '--'")
    env = {"PATH": DEFAULT_PATH}
    for entry in config.env:
        name, equals, value = entry.partition("=")
        if equals:
            env[name] = value
    env.update(spec.env)
    if spec.tty:
        env.setdefault("TERM", "xterm")
    return Process(
        argv=argv,
        env=env,
        workdir=spec.workdir or config.workdir or "/",
        user=config.user if spec.user is None else spec.user,
        tty=spec.tty,
        stdin=spec.stdin,
    )
