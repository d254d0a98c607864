"""docs/runtime.rst does what it says: runs, their placeholders, the WebSocket and curl, one after another."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.pages import check_python_blocks, check_served_page

PAGE = "docs/runtime.rst"


@pytest.mark.process
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.skipif(find_spec("starlette") is None, reason="the extra gateway is not installed")
def test_the_page_does_what_it_says(tmp_path: Path, bgpy_home: Path) -> None:
    check_served_page(PAGE, tmp_path, bgpy_home)


def test_every_python_block_is_python() -> None:
    check_python_blocks(PAGE)
