"""docs/tensorflow.rst does what it says: training, Python, curl and tritonclient, one after another."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.pages import check_python_blocks, check_served_page

PAGE = "docs/tensorflow.rst"
NEEDED = ("tensorflow", "tritonclient", "starlette")


@pytest.mark.process
@pytest.mark.timeout(150)
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.skipif(any(find_spec(name) is None for name in NEEDED), reason=f"not installed: one of {', '.join(NEEDED)}")
def test_the_page_does_what_it_says(tmp_path: Path, bgpy_home: Path) -> None:
    check_served_page(PAGE, tmp_path, bgpy_home, 120)


def test_every_python_block_is_python() -> None:
    check_python_blocks(PAGE)
