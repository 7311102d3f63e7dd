"""The import direction of the design, checked on the sources: who may import whom inside vmctl."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "vmctl"
BACKENDS = ("docker", "fake", "libvirt", "sandbox")

LEAVES = {"crashpoint", "errors", "paths", "suggest", "undo", "units"}
"""Small modules that everybody may use; they import only each other."""

ALLOWED: dict[str, set[str]] = {
    "model": {"model", "errors", "units"},
    "ledger": {"ledger", "model", *LEAVES},
    "allocation": {"allocation", "ledger", "model", *LEAVES},
    "monitor": {"monitor", "ledger", "model", *LEAVES},
    "images": {"images", "model", *LEAVES},
    "backends": {"backends", "images", "model", *LEAVES},
    "ops": {"ops", "app", "allocation", "backends", "config", "images", "ledger", "monitor", "model", *LEAVES},
    "app": {"allocation", "backends", "config", "images", "ledger", "model", *LEAVES},
    "config": {"model", "output", *LEAVES},
    "specs": {"specs", "config", "model", *LEAVES},
    "output": {"output", "specs", "model", *LEAVES},
    "cli": {"cli", "app", "config", "output", "ops", "specs", "images", "model", "backends", *LEAVES},
    "__main__": {"cli"},
    "__init__": set(),
} | {leaf: set(LEAVES) for leaf in LEAVES}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import of vmctl, those inside functions included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.startswith("vmctl"))
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "relative import"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "vmctl":
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def violations() -> Iterator[str]:
    for path in sources():
        for line, name in imported(path):
            target = name.split(".")[1] if "." in name else "relative"
            if target != "__version__" and target not in ALLOWED[part(path)]:
                yield f"{path.relative_to(ROOT)}:{line}: {part(path)} must not import {name}"


def test_imports_point_one_way() -> None:
    assert list(violations()) == []


def test_every_part_has_a_rule() -> None:
    assert {part(path) for path in sources()} <= ALLOWED.keys()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_does_not_import_another(backend: str) -> None:
    others = tuple(f"vmctl.backends.{other}" for other in BACKENDS if other != backend)
    folder = PACKAGE / "backends" / backend
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    assert [f"{file}:{line}" for file in files for line, name in imported(file) if name.startswith(others)] == []


def test_only_output_and_cli_write_to_the_screen() -> None:
    """``print`` is nobody's; stdout and stderr as text belong to output (cp's tar stream is bytes)."""
    found = []
    for path in sources():
        text = path.read_text(encoding="utf-8")
        if part(path) in ("output", "cli", "__main__") or '__name__ == "__main__"' in text:
            continue  # the latter are programs of their own: supervisors, tools of the set-up
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: print")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("sys.stdout.write", "sys.stderr.write"):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node.func)}")
    assert found == []
