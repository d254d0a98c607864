"""docs/runtime.rst does what it says: runs, their placeholders, the WebSocket and curl, one after another."""

from __future__ import annotations

import ast
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.pages import as_program, assert_prints, expected_output, read_blocks, run

PAGE = "docs/runtime.rst"


@pytest.mark.process
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.skipif(find_spec("starlette") is None, reason="the extra gateway is not installed")
def test_the_page_does_what_it_says(tmp_path: Path, bgpy_home: Path) -> None:
    blocks = read_blocks(PAGE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"127.0.0.1:{free.getsockname()[1]}"
    program = as_program(blocks).replace("127.0.0.1:8000", place).replace("~/.local/state/bgpy", str(bgpy_home))
    program = program.replace("bgpy serve --background", f"bgpy serve --background --bind {place}")
    assert_prints(run(program, tmp_path), expected_output(blocks).replace("127.0.0.1:8000", place))


def test_every_python_block_is_python() -> None:
    for block in read_blocks(PAGE):
        if block.kind == "python":
            ast.parse(block.text, f"{PAGE}, line {block.line}")
