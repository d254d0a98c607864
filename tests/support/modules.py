"""Modules of a user that a test writes, imports and forgets."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType


def write(folder: Path, name: str, text: str) -> ModuleType:
    """Write a module and import it."""
    path = folder / f"{name.replace('.', '/')}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    importlib.invalidate_caches()
    return importlib.import_module(name)


def forget(name: str) -> None:
    """Make this process the side that has never imported a module."""
    for loaded in [loaded for loaded in sys.modules if loaded == name or loaded.startswith(name + ".")]:
        del sys.modules[loaded]
