"""The README's own code blocks, run as they stand there."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
from support.pages import ROOT, assert_prints, read_blocks, run

from bgpy import connect

pytestmark = pytest.mark.process


def python_blocks() -> list[str]:
    return [block.text for block in read_blocks("README.rst") if block.kind == "python"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_first_example_is_short_and_prints_what_the_page_says(tmp_path: Path) -> None:
    first, output = read_blocks("README.rst")[1:3]
    assert (first.kind, output.kind) == ("python", "text")
    assert len(first.text.splitlines()) < 15
    assert_prints(run(first.text, tmp_path), output.text)
    # "Run it again and it prints": the server of the first run has the state.
    assert_prints(run(first.text, tmp_path), "{'count': 2}\n")
    with connect("counter") as client:
        client.terminate()


def test_run_the_server_ends_with_the_response_that_the_page_names(tmp_path: Path) -> None:
    """
    The block is run as it is but for its port, which is replaced by a free one: on 54321 something else may listen, or a second
    run of these tests, and then this test would fail for no fault of the page.
    """
    _, program = python_blocks()
    assert program.count("54321") == 1
    program = program.replace("54321", str(free_port()))
    response = json.loads(run(f"{program}\nimport json\nprint(json.dumps(response))\n", tmp_path))
    assert response == {"request_count": 3, "value": 910, "status": "Exited."}
    page = (ROOT / "README.rst").read_text(encoding="utf-8")
    assert f"The last response is ``{json.dumps(response)}``" in page


def test_set_up_commands_stand_where_ci_looks_for_them() -> None:
    commands = [block.text for block in read_blocks("README.rst") if block.kind == "shell"]
    set_up = "python3 -m venv .venv && .venv/bin/python -m pip install -q -e"
    assert commands == [
        "pip install bgpy\n",
        f"{set_up} . && .venv/bin/bgpy demo\n",
        f'{set_up} ".[test]" && .venv/bin/python -m pytest\n',
    ]
    assert f"\nRun the tests:\n\n.. code-block:: shell\n\n    {commands[-1]}" in (ROOT / "README.rst").read_text(encoding="utf-8")


def test_links_lead_to_files() -> None:
    targets = re.findall(r"`[^`<]+ <([^>]+)>`_", (ROOT / "README.rst").read_text(encoding="utf-8"))
    assert len(targets) > 10
    assert [target for target in targets if not (ROOT / target).exists()] == []
