"""Sessions: ``run``, ``start -a`` and ``exec`` with the workload's streams and exit code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vmctl.cli.results import show_result
from vmctl.cli.terminal import session
from vmctl.errors import AttachFailed, UsageError
from vmctl.model.views import ActionResult
from vmctl.ops.exec import ExecOptions, execute
from vmctl.ops.lifecycle import start
from vmctl.ops.run import run
from vmctl.output import streams
from vmctl.specs.fields import check_env, parse_pairs, read_env_file

if TYPE_CHECKING:
    from vmctl.app import App
    from vmctl.model.spec import InstanceSpec
    from vmctl.model.state import Exit


def run_detached(app: App, spec: InstanceSpec, format: str) -> int:
    """Start it, say its name, leave it running."""
    result = run(app, spec, detach=True)
    show_result(ActionResult(name=result.name, action="started", id=result.id), format)
    return 0


def run_attached(app: App, spec: InstanceSpec) -> int:
    """Start it and stay until it ends; its exit code."""
    with session(stdin=spec.stdin, tty=spec.tty) as stdio:
        result = run(app, spec, detach=False, stdio=stdio)
    return exit_code(result.exit, result.name)


def start_attached(app: App, names: list[str], *, stdin: bool) -> int:
    """Start one instance and stay until it ends. Raises UsageError for several."""
    from vmctl.ops.listing import inspect

    if len(names) != 1:
        raise UsageError("only one instance can be attached", hint="leave -a and -i out to start several")
    wants_tty = inspect(app, names[0]).spec.tty
    with session(stdin=stdin, tty=wants_tty) as stdio:
        result = start(app, names[0], attach=stdio)
    return exit_code(result.exit, names[0])


def exec_options(
    command: list[str],
    env: list[str],
    env_files: list[str],
    *,
    workdir: str | None,
    user: str | None,
    tty: bool,
    stdin: bool,
) -> ExecOptions:
    """What to run inside; the environment as for ``run``. Raises UsageError, NotFound."""
    lines = [line for file in env_files for line in read_env_file(Path(file))]
    return ExecOptions(
        argv=tuple(command),
        env=check_env(parse_pairs([*lines, *env], inherit=os.environ)),
        workdir=workdir,
        user=user,
        tty=tty,
        stdin=stdin or tty,
    )


def exec_attached(app: App, name: str, options: ExecOptions) -> int:
    """Run it inside and stay until it ends; its exit code."""
    with session(stdin=options.stdin, tty=options.tty) as stdio:
        end = execute(app, name, options, stdio)
    return exit_code(end, name)


def console_attached(app: App, name: str, *, tty: bool) -> int:
    """Stay on the console until it is left or the machine ends; neither is a failure."""
    from vmctl.ops.console import console

    if tty:
        streams.notice(f"note: connected to {name}; Ctrl-] leaves")
    with session(stdin=True, tty=tty) as stdio:
        console(app, name, stdio)
    return 0


def exit_code(end: Exit | None, name: str) -> int:
    """The workload's own code; 125 for a session that was cut: the workload may live on.

    Raises BrokenPipeError where it was cut because nobody reads its output.
    """
    if end is None:
        if streams.reader_gone():
            raise BrokenPipeError
        streams.notice(f"note: the session with {name} was cut; 'vmctl ps' shows whether it runs")
        return AttachFailed.exit_code
    if end.oom:
        streams.notice(f"note: {name} ran out of memory and was killed")
    if end.error:
        streams.notice(f"note: {name}: {end.error}")
    return end.code
