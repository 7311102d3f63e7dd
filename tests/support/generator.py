"""The documentation generator as a module: it lives outside of any package."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from types import ModuleType

_FILE = Path(__file__).resolve().parents[2] / "contrib/docs/generate.py"


@functools.cache
def generator() -> ModuleType:
    """``contrib/docs/generate.py``, imported once."""
    spec = importlib.util.spec_from_file_location("vmctl_docs_generate", _FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
