"""``vmctl create``."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.factory import make_app
from vmctl.cli.params import COMMAND_SETTINGS, Format
from vmctl.cli.preview import DryRun, PrintNative, preview
from vmctl.cli.results import show_result
from vmctl.cli.spec_flags import SpecFlags, spec_of, takes_spec
from vmctl.cli.words import WordsCommand
from vmctl.config import load_config
from vmctl.paths import default_paths

app = make_app()


@app.command(cls=WordsCommand, context_settings=COMMAND_SETTINGS)
@takes_spec
def create(
    flags: SpecFlags,
    remove: Annotated[bool, typer.Option("--rm", help="Remove it when it has ended.")] = False,
    dry_run: DryRun = False,
    print_native: PrintNative = False,
    format: Format = None,
) -> int:
    """Create an instance without starting it. Takes the flags of 'vmctl run'."""
    config = load_config(default_paths())
    format = choose_format(format, config)
    spec = spec_of(flags, config, remove=remove)
    with open_app(config) as app:
        if dry_run or print_native:
            return preview(app, spec, format, native=print_native)
        from vmctl.ops.run import create as create_instance

        show_result(create_instance(app, spec), format)
    return 0
