"""docs/requests.rst does what it says, over WebSockets, with curl and from Python; and its limits are those of the code."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.pages import ROOT, as_program, assert_prints, expected_output, read_blocks, run

PAGE = "docs/requests.rst"
NEEDED = ("anyio", "httptools", "starlette", "uvicorn", "websockets")
UNITS = {"": 1, "s": 1, "MiB": 1 << 20}


@pytest.mark.process
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.skipif(any(find_spec(name) is None for name in NEEDED), reason=f"not installed: one of {', '.join(NEEDED)}")
def test_the_page_does_what_it_says(tmp_path: Path, bgpy_home: Path) -> None:
    blocks = read_blocks(PAGE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"127.0.0.1:{free.getsockname()[1]}"
    program = as_program(blocks).replace("127.0.0.1:8000", place).replace("~/.local/state/bgpy", str(bgpy_home))
    program = program.replace("bgpy serve --background", f"bgpy serve --background --bind {place}")
    wanted = expected_output(blocks).replace("127.0.0.1:8000", place)
    assert_prints(run(program, tmp_path), wanted)


def test_every_python_block_is_python() -> None:
    for block in read_blocks(PAGE):
        if block.kind == "python":
            ast.parse(block.text, f"{PAGE}, line {block.line}")


def test_the_limits_are_those_of_the_code() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    rows = re.findall(r"^\S.*?  +([\d,]+)(?: (\w+))?  +``(bgpy\.[\w.]+)``$", page, re.MULTILINE)
    assert len(rows) == 14
    for number, unit, name in rows:
        module, _, constant = name.rpartition(".")
        assert int(number.replace(",", "")) * UNITS[unit] == getattr(importlib.import_module(module), constant), name
