"""docs/requests.rst does what it says, over WebSockets, with curl and from Python; and its limits are those of the code."""

from __future__ import annotations

import importlib
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.pages import ROOT, check_python_blocks, check_served_page

PAGE = "docs/requests.rst"
NEEDED = ("anyio", "httptools", "starlette", "uvicorn", "websockets")
UNITS = {"": 1, "s": 1, "MiB": 1 << 20}


@pytest.mark.process
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.skipif(any(find_spec(name) is None for name in NEEDED), reason=f"not installed: one of {', '.join(NEEDED)}")
def test_the_page_does_what_it_says(tmp_path: Path, bgpy_home: Path) -> None:
    check_served_page(PAGE, tmp_path, bgpy_home)


def test_every_python_block_is_python() -> None:
    check_python_blocks(PAGE)


def test_the_limits_are_those_of_the_code() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    rows = re.findall(r"^\S.*?  +([\d,]+)(?: (\w+))?  +``(bgpy\.[\w.]+)``$", page, re.MULTILINE)
    assert len(rows) == 14
    for number, unit, name in rows:
        module, _, constant = name.rpartition(".")
        assert int(number.replace(",", "")) * UNITS[unit] == getattr(importlib.import_module(module), constant), name
