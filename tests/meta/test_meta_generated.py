"""Generated files are what their generator makes now; every option is known to some test or page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.generator import generator
from vmctl.cli.dispatch import load_command
from vmctl.cli.table import VERBS
from vmctl.output.schemas import all_schemas

ROOT = Path(__file__).resolve().parents[2]


def test_generated_files_are_up_to_date() -> None:
    stale = []
    for path, text in generator().pages().items():
        file = ROOT / path
        if path in generator().host_dependent():
            continue
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            stale.append(str(path))
    assert stale == [], "run contrib/docs/generate.py"


def test_no_schema_is_left_over() -> None:
    files = {path.stem for path in (ROOT / "contrib/docs/schema").glob("*.json")}
    assert files == set(all_schemas())


@pytest.mark.parametrize("name", sorted(all_schemas()))
def test_schemas_resolve(name: str) -> None:
    """Every reference inside a schema leads to a definition."""
    schema = all_schemas()[name]
    text = json.dumps(schema)
    for reference in (part.split('"')[0] for part in text.split('"$ref": "')[1:]):
        assert reference.startswith("#/$defs/")
        assert reference.removeprefix("#/$defs/") in schema["$defs"]


def test_every_option_is_tested_or_explained() -> None:
    """The long name of each option occurs in a test, the README or a page written by hand."""
    written = [*(ROOT / "tests").rglob("*.py"), *ROOT.glob("*.md"), *(ROOT / "contrib").rglob("*.md")]
    by_hand = [path for path in written if path.name != "commands.md"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in by_hand)
    missing = []
    for verb in (verb for verb in VERBS if verb.name != "help"):
        command = load_command(verb)
        inner = list(command.commands.values()) if verb.verbs else [command]
        for parameter in (parameter for one in inner for parameter in one.params):
            names = [name for name in parameter.opts if name.startswith("--")]
            missing += [f"{verb.name} {name}" for name in names if name not in text]
    assert missing == []
