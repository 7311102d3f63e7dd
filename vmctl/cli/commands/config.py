"""``vmctl config``."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.context import choose_format
from vmctl.cli.factory import make_group
from vmctl.cli.params import Format
from vmctl.config import load_config, set_option, unset_option
from vmctl.errors import NotFound
from vmctl.output import streams
from vmctl.output.options import OptionView, option_listing
from vmctl.output.show import show
from vmctl.paths import default_paths

app = make_group("Options and where they come from: VMCTL_*, ./vmctl.toml, your file, /etc/vmctl/config.toml.")

OptionName = Annotated[str, typer.Argument(metavar="OPTION", help="As 'config ls' names it.", show_default=False)]


@app.command("ls")
def list_(
    show_origin: Annotated[bool, typer.Option("--show-origin", help="Where each value comes from.")] = False,
    format: Format = None,
) -> None:
    """List every option with the value that counts."""
    config = load_config(default_paths())
    format = choose_format(format, config)
    views = [
        OptionView(
            name=value.option.name,
            value=value.text,
            origin=value.origin,
            variable=value.option.variable,
            help=value.option.help,
        )
        for value in config
    ]
    show(option_listing(origin=show_origin), views, format)


@app.command()
def get(option: OptionName) -> None:
    """Print the value of one option."""
    streams.answer(load_config(default_paths()).text(option))


@app.command("set")
def set_(
    option: OptionName,
    value: Annotated[str, typer.Argument(metavar="VALUE", show_default=False)],
) -> None:
    """Set an option in your own file; its comments stay."""
    set_option(default_paths().user_config, option, value)


@app.command()
def unset(option: OptionName) -> None:
    """Remove an option from your own file."""
    file = default_paths().user_config
    if not unset_option(file, option):
        raise NotFound(f"'{option}' is not set in {file}", hint="'vmctl config ls --show-origin' shows where it is set")


@app.command()
def path() -> None:
    """Print the path of your own file."""
    streams.answer(str(default_paths().user_config))
