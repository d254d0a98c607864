"""The servers that a test of the command line has started, and a folder to start them from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import TASKS
from support.servers import recorded_servers

from bgpy.records import Registry


@pytest.fixture
def servers(bgpy_home: Path) -> Iterator[Registry]:
    """Give the registry, and end what runs in the end."""
    with recorded_servers() as registry:
        yield registry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a working directory with a module of tasks."""
    (tmp_path / "mine.py").write_text(TASKS)
    return tmp_path
