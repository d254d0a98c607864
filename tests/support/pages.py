"""The code blocks of the documentation, and what they print."""

from __future__ import annotations

import ast
import doctest
import os
import socket
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
#: Seconds for one page or example, servers included.
_TIMEOUT = 50


class Block(NamedTuple):
    """
    One block of a page.

    Attributes
    ----------
    kind
        "python", "shell", "text" and so on; "file" for an included example.
    line
        Of its first line on the page, from 1.
    text
        The code without its indentation; for an included file its path.
    """

    kind: str
    line: int
    text: str


def read_blocks(page: str) -> list[Block]:
    """Return the ``code-block`` and ``literalinclude`` directives of a page, named from the repository's root, in order."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    blocks = []
    for index, line in enumerate(lines):
        if line.startswith(".. literalinclude:: "):
            path = (ROOT / page).parent / line.split()[-1]
            blocks.append(Block("file", index + 1, str(path.resolve().relative_to(ROOT))))
        elif line.startswith(".. code-block:: "):
            start = index + 1
            while lines[start].startswith("    :") or not lines[start]:
                start += 1
            end = start
            while end < len(lines) and (lines[end].startswith(" ") or not lines[end]):
                end += 1
            blocks.append(Block(line.split()[-1], start + 1, textwrap.dedent("\n".join(lines[start:end])).rstrip() + "\n"))
    return blocks


def as_program(blocks: list[Block]) -> str:
    """
    Return one program of the python and shell blocks of a page, each on the line that it has there, so that tracebacks tell it.
    """
    lines: list[str] = []
    for block in blocks:
        if block.kind not in ("python", "shell"):
            continue
        lines += [""] * (block.line - 1 - len(lines))
        if block.kind == "python":
            lines += block.text.splitlines()
        else:
            lines.append(f"__import__('subprocess').run(['sh', '-ec', {block.text!r}], check=True)")
    return "\n".join(lines) + "\n"


def expected_output(blocks: list[Block]) -> str:
    """Return what the page says that its program prints: its text blocks that stand behind python and shell blocks."""
    return "".join(
        block.text for before, block in pairwise(blocks) if block.kind == "text" and before.kind in ("python", "shell")
    )


def run(program: str, folder: Path, timeout: float = _TIMEOUT) -> str:
    """
    Run a program as a script of its own in an empty folder; return what it printed. Fails where it fails.

    Parameters
    ----------
    folder
        The working directory; the script and the command ``bgpy`` for its shell blocks are put there.
    timeout
        Seconds.
    """
    script = folder / "page.py"
    script.write_text(program, encoding="utf-8")
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    command = commands / "bgpy"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bgpy "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": str(ROOT),
    }
    # Unbuffered: its lines and those of its shell blocks keep their order.
    finished = subprocess.run(
        [sys.executable, "-u", str(script)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=timeout,
        check=False,
    )
    assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}"
    return finished.stdout


def assert_prints(got: str, want: str) -> None:
    """Compare what was printed with what the page says, where ``...`` stands for anything and columns may be wider."""
    same = doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert same, f"The page says:\n{want}\nIt printed:\n{got}"


def check_served_page(page: str, folder: Path, home: Path, timeout: float = _TIMEOUT) -> None:
    """Run a page that starts a gateway, on a free port and in the home of the test, and compare what it prints."""
    blocks = read_blocks(page)
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"127.0.0.1:{free.getsockname()[1]}"
    program = as_program(blocks).replace("127.0.0.1:8000", place).replace("~/.local/state/bgpy", str(home))
    program = program.replace("bgpy serve --background", f"bgpy serve --background --bind {place}")
    assert_prints(run(program, folder, timeout), expected_output(blocks).replace("127.0.0.1:8000", place))


def check_python_blocks(page: str) -> None:
    """Each python block of a page is Python by itself."""
    for block in read_blocks(page):
        if block.kind == "python":
            ast.parse(block.text, f"{page}, line {block.line}")
