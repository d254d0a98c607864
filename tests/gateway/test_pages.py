"""The calls of docs/http.rst, run with curl against the workspaces themselves; and what docs/gateway.rst says."""

from __future__ import annotations

import doctest
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.gateways import TOKEN, RunningGateway
from support.pages import ROOT, Block, as_program, assert_prints, expected_output, read_blocks, run
from support.servers import background_server

from bgpy.gateway import Limits, ServerPlace, conversation, cookie, create_app, limits, requests, runtime, serving
from bgpy.tasks.requests.commands import COMMANDS as OF_REQUESTS
from bgpy.tasks.runtime.commands import COMMANDS as OF_RUNS
from bgpy.tasks.tensorflow.commands import OWN

PAGE = "docs/http.rst"
GATEWAY_PAGE = "docs/gateway.rst"
HOST = "http://127.0.0.1:8000/"


def calls(page: str = PAGE) -> list[tuple[Block, Block]]:
    """Return each call with the answer that the page shows behind it."""
    return [(block, answer) for block, answer in pairwise(read_blocks(page)) if block.kind == "shell"]


def matches(got: Any, want: Any) -> bool:
    """Compare JSON with that of the page, where "..." stands for any value, and as a key for any others."""
    if want == "...":
        return True
    if isinstance(want, dict) and isinstance(got, dict):
        named = {key: value for key, value in want.items() if key != "..."}
        if "..." not in want and set(got) != set(named):
            return False
        return all(key in got and matches(got[key], value) for key, value in named.items())
    if isinstance(want, list) and isinstance(got, list):
        return len(got) == len(want) and all(map(matches, got, want))
    return bool(got == want)


def make_calls(page: str, gateway: RunningGateway, folder: Path) -> None:
    """Make the calls of a page, and compare the answers."""
    (folder / "login").write_text(f"Authorization: Bearer {TOKEN}\n", encoding="utf-8")
    for call, answer in calls(page):
        script = call.text.replace(HOST, gateway.url).replace("curl ", "curl -sS --max-time 30 ")
        ran = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True, timeout=50, check=False)
        where = f"{page}, line {call.line}: {call.text}\n{ran.stdout}{ran.stderr}"
        assert ran.returncode == 0, where
        if answer.kind == "json":
            assert matches(json.loads(ran.stdout), json.loads(answer.text)), where
        else:
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert doctest.OutputChecker().check_output(answer.text, ran.stdout, flags), where


@pytest.mark.process
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_call_of_the_page_answers_what_the_page_says(tmp_path: Path) -> None:
    with background_server("bgpy.tasks.workspace", token=TOKEN) as server:
        gateway = RunningGateway(server)
        try:
            make_calls(PAGE, gateway, tmp_path)
        finally:
            gateway.end()


@pytest.mark.process
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_call_of_the_section_about_several_servers_answers_what_it_says(tmp_path: Path) -> None:
    with (
        background_server("bgpy.tasks.workspace", token=TOKEN) as lab,
        background_server("bgpy.tasks.workspace", token=TOKEN) as gpu,
    ):
        servers = {"lab": ServerPlace(port=lab.port), "gpu": ServerPlace(port=gpu.port), "old": ServerPlace(port=1)}
        gateway = RunningGateway(lab, servers=servers)
        try:
            make_calls(GATEWAY_PAGE, gateway, tmp_path)
        finally:
            gateway.end()


def test_every_endpoint_but_those_of_models_is_on_the_page() -> None:
    called = {path.rstrip("/") or "/" for call, _ in calls() for path in re.findall(rf"{HOST[:-1]}(/\S*)", call.text)}
    doors = {door.path for door in create_app(token=TOKEN).table.doors if not door.summary.startswith("Of the page")}
    elsewhere = {f"/{command.name}" for command in (*OWN, *OF_RUNS, *OF_REQUESTS)}
    # They want a Ray cluster: docs/scaling.rst.
    elsewhere |= {"/lend_variable", "/fetch_variable", "/return_variable", "/take_variable"}
    elsewhere |= {path for path in doors if path in ("/runtime", "/query/module") or path.startswith("/requests")}
    assert called == doors - elsewhere


def test_every_call_has_its_answer_behind_it() -> None:
    assert len(calls()) > 25
    assert {answer.kind for _, answer in calls()} == {"json", "text"}


def test_the_comparison_finds_what_differs() -> None:
    assert matches({"a": 1, "b": 2}, {"a": 1, "...": "..."})
    assert not matches({"a": 1, "b": 2}, {"a": 1})
    assert not matches({"b": 2}, {"a": 1, "...": "..."})
    assert not matches({"a": {"c": 1}}, {"a": {"c": 2}})
    assert matches([{"a": 1, "b": 2}], [{"a": 1, "...": "..."}])
    assert not matches([{"a": 1}], [{"a": 1}, {"a": 1}])
    assert not matches([{"a": 1}], [{"a": 2}])


@pytest.mark.process
def test_the_program_of_the_page_about_the_gateway_does_what_it_says(tmp_path: Path) -> None:
    blocks = [block for block in read_blocks(GATEWAY_PAGE) if block.kind != "shell"]  # those are calls, see above
    assert_prints(run(as_program(blocks), tmp_path), expected_output(blocks))


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    page = (ROOT / GATEWAY_PAGE).read_text(encoding="utf-8")
    rows = dict(re.findall(r"^(\w[^`\n]*?(?:``[^`\n]+``)?[^`\n]*?)  +([\d,]+(?: [KM]iB)?)$", page, re.MULTILINE))
    units = {"KiB": 1 << 10, "MiB": 1 << 20}
    values = []
    for value in rows.values():
        number, _, unit = value.partition(" ")
        values.append(int(number.replace(",", "")) * units.get(unit, 1))
    ours = Limits()
    assert values == [
        *(ours.head_timeout, ours.max_body_size, ours.body_timeout, limits.MAX_DEPTH, limits.MAX_DIGITS),
        *(ours.max_message_size, ours.max_upload_size, requests.MAX_MESSAGE_SIZE),
        *(ours.first_message_timeout, ours.login_timeout, conversation.MAX_UNDER_WAY, runtime.MAX_WAITING),
        *(ours.request_timeout, ours.max_requests, ours.max_waits, ours.max_watchers, serving.MAX_CONNECTIONS),
    ]
    assert f"({cookie.LIFETIME // 3600} hours)" in page
