"""The code blocks of the documentation and the examples, run; and what its tables and lists say, looked up in the code."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from support.pages import ROOT, as_program, assert_prints, expected_output, read_blocks, run

import bgpy

#: Pages whose python and shell blocks are one program. What cannot run here (another machine) stands behind ``::`` on them.
PAGES = ["docs/start.rst", "docs/tasks.rst", "docs/workspaces.rst", "docs/lifecycle.rst", "docs/security.rst"]


def included_examples() -> list[tuple[str, str]]:
    """Return each example that a page includes, with the output that the page shows behind it."""
    found = []
    for page in PAGES:
        blocks = read_blocks(page)
        for block, output in pairwise(blocks):
            if block.kind == "file":
                assert output.kind == "text", f"{page}, line {block.line}: an example without its output"
                found.append((block.text, output.text))
    return found


@pytest.mark.process
@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(page: str, tmp_path: Path) -> None:
    blocks = read_blocks(page)
    assert_prints(run(as_program(blocks), tmp_path), expected_output(blocks))


@pytest.mark.process
@pytest.mark.ray
@pytest.mark.timeout(180)
def test_the_page_of_clusters_does_what_it_says(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="could not import 'ray'")
    blocks = read_blocks("docs/scaling.rst")
    assert_prints(run(as_program(blocks), tmp_path, 150), expected_output(blocks))


@pytest.mark.process
@pytest.mark.parametrize(("example", "output"), included_examples())
def test_an_example_prints_what_its_page_says(example: str, output: str, tmp_path: Path) -> None:
    program = (ROOT / example).read_text(encoding="utf-8")
    assert_prints(run(program, tmp_path), output)


@pytest.mark.process
def test_the_counter_of_the_examples_goes_on_counting(tmp_path: Path) -> None:
    program = (ROOT / "examples/counter.py").read_text(encoding="utf-8")
    assert [run(program, tmp_path) for _ in range(2)] == ["{'count': 1}\n", "{'count': 2}\n"]
    with bgpy.connect("counter") as client:
        client.terminate()


def test_every_example_is_run_by_a_test() -> None:
    tested = {example for example, _ in included_examples()} | {"examples/counter.py"}
    assert {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")} == tested


def test_every_public_name_is_in_the_reference() -> None:
    pages = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("api.rst", "errors.rst")]
    described = set(re.findall(r"^\.\. auto\w+:: bgpy\.(?:errors\.)?(\w+)", "\n".join(pages), re.MULTILINE))
    assert set(bgpy.__all__) - described == {"__version__"}


UNITS = {"": 1, "s": 1, "min": 60, "h": 3600, "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def table_rows() -> list[tuple[str, str]]:
    """Return (value, name of the constant) of each row of the limits on the page about a server's life."""
    page = (ROOT / "docs/lifecycle.rst").read_text(encoding="utf-8")
    return re.findall(r"^\S.*?  +([\d,]+(?: \w+)?)  +``(bgpy\.[\w.()]+)``$", page, re.MULTILINE)


def find(name: str) -> object:
    """Return what ``package.module.CONSTANT`` is, or the default of an argument, as in ``bgpy.Client(connect_timeout)``."""
    path, _, argument = name.rstrip(")").partition("(")
    found: object = bgpy
    for part in path.split(".")[1:]:
        if isinstance(found, ModuleType) and not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    return inspect.signature(found).parameters[argument].default if argument else found  # type: ignore[arg-type]


def test_the_limits_are_those_of_the_code() -> None:
    rows = table_rows()
    assert len(rows) > 20
    for value, name in rows:
        number, _, unit = value.partition(" ")
        assert int(number.replace(",", "")) * UNITS[unit] == find(name), name


@pytest.mark.parametrize("page", [*PAGES, "README.rst"])
def test_every_python_block_is_python(page: str) -> None:
    for block in read_blocks(page):
        if block.kind == "python":
            ast.parse(block.text, f"{page}, line {block.line}")
