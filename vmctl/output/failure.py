"""How an error is shown: one ``error:`` line, one ``hint:`` line; JSON where JSON was asked for."""

from __future__ import annotations

import json
import sys

from vmctl.errors import VmctlError
from vmctl.output import SCHEMA, streams


def show_failure(error: VmctlError, *, as_json: bool = False) -> None:
    """Write ``error`` to stderr."""
    sys.stdout.flush()
    sys.stderr.write(_as_json(error) if as_json else _as_text(error))
    sys.stderr.flush()


def _as_text(error: VmctlError) -> str:
    lines = [streams.paint("error:", "1;31", sys.stderr) + " " + streams.one_line(error.message)]
    if hint := error.hint or error.usual_hint:
        lines.append(streams.paint("hint:", "36", sys.stderr) + " " + streams.one_line(hint))
    return "\n".join(lines) + "\n"


def _as_json(error: VmctlError) -> str:
    document = {
        "schema": SCHEMA,
        "kind": "error",
        "code": error.code,
        "exit_code": error.exit_code,
        "message": error.message,
        "hint": error.hint or error.usual_hint,
        "details": error.details,
    }
    return json.dumps(document, ensure_ascii=False, default=str) + "\n"
