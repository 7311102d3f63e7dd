"""All Typer applications come from here: plain help, no pretty exceptions, no completion of Typer's own."""

from __future__ import annotations

import typer

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def make_app() -> typer.Typer:
    """The application of one plain command."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=_SETTINGS,
    )


def make_group(help: str) -> typer.Typer:
    """The application of a group of verbs, such as ``image``; a group of one verb stays a group."""
    group = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=_SETTINGS,
        no_args_is_help=True,
        help=help,
    )
    group.callback()(_nothing)
    return group


def _nothing() -> None:
    """A group does nothing by itself."""
