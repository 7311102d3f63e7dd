"""``vmctl claim``."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.factory import make_group
from vmctl.cli.params import COMMAND_SETTINGS, Format, Quiet
from vmctl.cli.preview import verdict_code
from vmctl.cli.spec_flags import SpecFlags, spec_of, takes_spec
from vmctl.cli.words import WordsCommand
from vmctl.config import load_config
from vmctl.output.show import show, show_detail
from vmctl.paths import default_paths

app = make_group("What instances hold of the host.")


@app.command("ls")
def list_(
    all: Annotated[bool, typer.Option("-a", "--all", help="Released ones too.")] = False,
    format: Format = None,
    quiet: Quiet = False,
) -> None:
    """List claims, and what workloads that vmctl did not start can take."""
    from vmctl.ops.claims import list_claims
    from vmctl.output.listings import CLAIMS

    format = choose_format(format)
    with open_app() as opened:
        show(CLAIMS, list_claims(opened, all), format, quiet=quiet)


@app.command()
def inspect(
    ref: Annotated[str, typer.Argument(metavar="CLAIM", help="A claim's id, or an instance.", show_default=False)],
    format: Format = None,
) -> None:
    """Show one claim whole."""
    from vmctl.ops.claims import inspect_claim
    from vmctl.output.listings import CLAIMS

    format = choose_format(format)
    with open_app() as opened:
        show_detail(CLAIMS, [inspect_claim(opened, ref)], format)


@app.command(cls=WordsCommand, context_settings=COMMAND_SETTINGS)
@takes_spec
def explain(flags: SpecFlags, format: Format = None) -> int:
    """Say whether an instance would fit, and if not, what is short and who holds it. Takes the flags of 'vmctl run'.

    The exit code is 0 when it fits, 75 when it does not fit now, 5 when it never can.
    """
    from vmctl.ops.claims import explain as explain_spec
    from vmctl.output.explanation import show_explanation

    config = load_config(default_paths())
    format = choose_format(format, config)
    spec = spec_of(flags, config)
    with open_app(config) as opened:
        explanation = explain_spec(opened, spec)
    show_explanation(explanation, format)
    return verdict_code(explanation)
