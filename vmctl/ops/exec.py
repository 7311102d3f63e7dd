"""``vmctl exec``: another process inside a running instance."""

from __future__ import annotations

import msgspec

from vmctl.app import App
from vmctl.backends.base import CanExec, Stdio
from vmctl.errors import Unsupported
from vmctl.model.capability import Feature
from vmctl.model.process import resolve_process
from vmctl.model.state import Exit
from vmctl.ops.instances import find, image_config, speaking_of


class ExecOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to run; None keeps what the instance's main process has."""

    argv: tuple[str, ...]
    env: dict[str, str] = {}
    workdir: str | None = None
    user: str | None = None
    tty: bool = False
    stdin: bool = False


def execute(app: App, ref: str, options: ExecOptions, stdio: Stdio) -> Exit | None:
    """Run a process inside with the streams of ``stdio``; its Exit, or None if the session was cut.

    Raises NotFound, WrongState, Unsupported, ProgramNotFound (127), CannotInvoke (126).
    """
    record = find(app, ref)
    backend = app.backend(record.backend)
    if not isinstance(backend, CanExec):
        raise Unsupported(f"{backend.name} cannot exec: {backend.capabilities()[Feature.EXEC]}")
    wanted = msgspec.structs.replace(
        record.spec,
        entrypoint=(),
        command=options.argv,
        env={**record.spec.env, **options.env},
        workdir=options.workdir or record.spec.workdir,
        user=record.spec.user if options.user is None else options.user,
        tty=options.tty,
        stdin=options.stdin,
    )
    process = resolve_process(wanted, image_config(app, record))
    with speaking_of(record):
        attachment = backend.exec(app.ref(record.id), process)
        try:
            return attachment.pump(stdio)
        finally:
            attachment.close()
