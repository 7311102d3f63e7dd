"""``vmctl schema``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vmctl.cli.factory import make_app
from vmctl.errors import NotFound
from vmctl.output import streams
from vmctl.suggest import did_you_mean

app = make_app()


@app.command()
def schema(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="'spec' or a kind of output.")] = "spec",
    list_names: Annotated[bool, typer.Option("--list", help="List the names instead.")] = False,
) -> None:
    """Print the JSON Schema of spec files ('spec'), or of one kind of JSON output."""
    from vmctl.output.schemas import all_schemas

    schemas = all_schemas()
    if list_names:
        streams.answer("\n".join(schemas))
    elif name in schemas:
        streams.answer(json.dumps(schemas[name], indent=2))
    else:
        raise NotFound(f"no schema called '{name}'", hint=did_you_mean(name, schemas, "'vmctl schema --list'"))
