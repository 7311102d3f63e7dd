"""``vmctl run``."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.factory import make_app
from vmctl.cli.params import COMMAND_SETTINGS, Format
from vmctl.cli.preview import DryRun, PrintNative, preview
from vmctl.cli.spec_flags import SpecFlags, spec_of, takes_spec
from vmctl.cli.words import WordsCommand
from vmctl.config import load_config
from vmctl.paths import default_paths

app = make_app()


@app.command(cls=WordsCommand, context_settings=COMMAND_SETTINGS)
@takes_spec
def run(
    flags: SpecFlags,
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Leave it running, print its name.")] = False,
    remove: Annotated[bool, typer.Option("--rm", help="Remove it when it has ended.")] = False,
    dry_run: DryRun = False,
    print_native: PrintNative = False,
    format: Format = None,
) -> int:
    """Create and start an instance: a container, a virtual machine (--vm) or a sandboxed application (--app).

    Attached unless -d is given: its output and its exit code are vmctl's. 2G is 2 GiB, everywhere.
    """
    config = load_config(default_paths())
    format = choose_format(format, config)
    spec = spec_of(flags, config, remove=remove)
    with open_app(config) as app:
        if dry_run or print_native:
            return preview(app, spec, format, native=print_native)
        from vmctl.cli.attached import run_attached, run_detached

        return run_detached(app, spec, format) if detach else run_attached(app, spec)
