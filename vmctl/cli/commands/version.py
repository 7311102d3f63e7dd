"""``vmctl version``: only its help comes here, the answer is given at the front door."""

from __future__ import annotations

from vmctl import __version__
from vmctl.cli.factory import make_app
from vmctl.output import streams

app = make_app()


@app.command()
def version() -> None:
    """Print the version of vmctl."""
    streams.answer(f"vmctl {__version__}")
