"""Parameters that several commands share: each is declared once, so that it means the same everywhere."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Instances, by name or id.", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The instance, by name or id.", show_default=False)]
Format = Annotated[
    Optional[str],  # noqa: UP045 - Typer reads the annotation
    typer.Option(
        "--format", metavar="FORMAT", help="table, json, jsonl, yaml, csv or a template such as '{{.Name}}'."
    ),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print names only.")]
StopTimeout = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "-t", "--timeout", metavar="DURATION", help="Time before force is used, such as 30s (default: the instance's)."
    ),
]
Force = Annotated[bool, typer.Option("-f", "--force")]

Tty = Annotated[bool, typer.Option("-t", "--tty", help="Give the command a terminal.")]
Interactive = Annotated[bool, typer.Option("-i", "--interactive", help="Forward standard input.")]
Env = Annotated[
    list[str],
    typer.Option("-e", "--env", metavar="NAME[=VALUE]", help="Environment variable; without a value, the caller's."),
]
EnvFile = Annotated[list[str], typer.Option("--env-file", metavar="FILE", help="File of NAME=value lines.")]
Workdir = Annotated[
    Optional[str], typer.Option("-w", "--workdir", metavar="PATH", help="Working folder inside.")  # noqa: UP045
]
User = Annotated[
    Optional[str], typer.Option("-u", "--user", metavar="USER", help="Name, uid or uid:gid inside.")  # noqa: UP045
]

COMMAND_SETTINGS = {
    "allow_interspersed_args": False,
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}
"""For commands whose last words are another command: what follows the first plain word belongs to that one."""
