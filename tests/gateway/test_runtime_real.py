"""The Runtime server's protocol from end to end: real runs behind a real gateway, asked by real WebSocket clients."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.gateways import TOKEN, RunningGateway
from support.runs import DEAF, ENDLESS, Gate, text_of
from support.servers import running_server
from support.talking import ask, log_in, receive, stranger, talk
from websockets.sync.client import ClientConnection

from bgpy.tasks.runtime import runtime_tasks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def gateway(folder: Path) -> Iterator[RunningGateway]:
    with running_server(runtime_tasks(folder=str(folder)), token=TOKEN) as served:
        gateway = RunningGateway(served)
        try:
            yield gateway
        finally:
            gateway.end()


def python(*files: tuple[str, str], **more: Any) -> dict[str, Any]:
    """Return the files of a run, of which the first one is the main file."""
    listed = [{"filename": name, "content": content} for name, content in files]
    return {"number": len(files), "files": listed, "mainfile": files[0][0], **more}


def start(socket: ClientConnection, *files: tuple[str, str]) -> str:
    started = ask(socket, action="run", python=python(*files))
    assert started["type"] == "[status]:EXECUTION_STARTED", started
    return str(started["sessionId"])


def up_to(socket: ClientConnection, kind: str) -> list[dict[str, Any]]:
    """Return the messages up to one of a kind."""
    messages = [receive(socket)]
    while not messages[-1]["type"].startswith(kind):
        messages.append(receive(socket))
    return messages


def test_a_run_tells_its_output_its_placeholders_and_its_end(gateway: RunningGateway) -> None:
    main = (
        "import helper\n"
        "from bgpy.tasks.runtime import save_placeholder\n"
        "save_placeholder('message', helper.text)\n"
        "print('ä')\n"
        "numbers = [1, 2, 3]\n"
        "def total(values): return sum(values)\n"
        "save_placeholder('total', total)\n"
    )
    with stranger(gateway) as socket:
        log_in(socket)
        session = start(socket, ("main.py", main), ("helper.py", "text = 'hello'\n"))
        messages = up_to(socket, "[state]:")
        assert {message["sessionId"] for message in messages} == {session}
        assert text_of(messages) == "ä\n"
        ready = [message["name"] for message in messages if message["type"] == "[placeholder]:READY"]
        assert ready == ["message", "total", "numbers"]
        assert messages[-1]["type"] == "[state]:EXECUTION_FINISHED"
        value = ask(socket, action="get_placeholder", placeholder={"sessionId": session, "name": "message"})
        assert (value["type"], value["value"], value["value_type"]) == ("[placeholder]:VALUE", "hello", "str")
        window = ask(socket, action="get_placeholder", placeholder={"sessionId": session, "name": "numbers", "window": [1, 2]})
        assert (window["value"], window["window"]) == ([2], [1, 2])
        result = ask(socket, action="run_model", model={"sessionId": session, "name": "total", "is_data": True, "data": [4, 5]})
        assert (result["type"], result["value"]) == ("[model]:RESULT", 9)
        assert ask(socket, action="status", sessionId=session)["status"] == "Finished"


def test_a_run_that_fails_shows_where_in_its_own_files(gateway: RunningGateway, folder: Path) -> None:
    with talk(gateway) as socket:
        start(socket, ("main.py", "import deep.inner\n"), ("deep/inner.py", "\n\n1 / 0\n"))
        failed = up_to(socket, "[state]:")[-1]
        assert (failed["type"], failed["status"]) == ("[state]:EXECUTION_FAILED", "Failed")
        assert failed["error"]["type"] == "ZeroDivisionError"
        assert 'File "deep/inner.py", line 3' in failed["error"]["traceback"]
        assert str(folder) not in str(failed)


@pytest.mark.parametrize("code", [ENDLESS, DEAF], ids=["endless", "deaf"])
def test_a_run_can_be_stopped(gateway: RunningGateway, code: str) -> None:
    with talk(gateway) as socket, talk(gateway) as other:
        session = start(socket, ("main.py", code))
        up_to(socket, "[output]:STDOUT")
        stopped = ask(other, action="stop", sessionId=session, id="stop")
        assert stopped == {"type": "[status]:STATUS", "sessionId": session, "status": "Stopped", "id": "stop"}
        assert up_to(socket, "[state]:")[-1]["status"] == "Stopped"


def test_a_run_goes_on_while_nobody_listens(gateway: RunningGateway, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with talk(gateway) as socket:
        session = start(socket, ("main.py", f"print('before', flush=True)\n{gate.code}print('after')\n"))
        seen = up_to(socket, "[output]:STDOUT")[-1]["number"]
    with talk(gateway) as socket:
        assert ask(socket, action="subscribe", sessionId=session, since=seen)["status"] == "Alive"
        gate.open()
        messages = up_to(socket, "[state]:")
        assert text_of(messages).lstrip("\n") == "after\n"
    with talk(gateway) as socket:  # all of it, from the start, though it has ended
        assert ask(socket, action="subscribe", sessionId=session)["status"] == "Finished"
        messages = up_to(socket, "[state]:")
        assert messages[0]["type"] == "[status]:EXECUTION_STARTED"
        assert text_of(messages) == "before\nafter\n"


def test_of_two_runs_at_once_each_client_hears_its_own(gateway: RunningGateway) -> None:
    with talk(gateway) as first, talk(gateway) as second:
        ours = start(first, ("main.py", "print('first')\n"))
        theirs = start(second, ("main.py", "print('second')\n"))
        for socket, session, text in ((first, ours, "first\n"), (second, theirs, "second\n")):
            messages = up_to(socket, "[state]:")
            assert {message["sessionId"] for message in messages} == {session}
            assert text_of(messages) == text


@pytest.mark.parametrize("name", ["../x.py", "/tmp/x.py", "C:\\x.py", "a/../../x.py", "x.py\0"])
def test_a_file_name_that_leaves_the_folder_is_refused_and_nothing_written(
    gateway: RunningGateway, folder: Path, name: str
) -> None:
    before = sorted(folder.rglob("*"))
    with talk(gateway) as socket:
        error = ask(socket, action="run", python=python(("main.py", ""), (name, "")), id=1)
        assert (error["type"], error["action"], error["id"]) == ("[error]", "run", 1)
        assert ask(socket, action="list")["sessions"] == []
    assert sorted(folder.rglob("*")) == before


def test_files_of_many_megabytes_are_uploaded(gateway: RunningGateway) -> None:
    data = bytes(range(256)) * (20 << 10)
    with talk(gateway) as socket:
        files = [
            {"filename": "main.py", "content": "size = len(open('data.bin', 'rb').read())\n"},
            {"filename": "data.bin", "content": base64.b64encode(data).decode(), "encoding": "base64"},
        ]
        started = ask(socket, action="run", python={"number": 2, "files": files, "mainfile": "main.py"})
        assert up_to(socket, "[state]:")[-1]["type"] == "[state]:EXECUTION_FINISHED"
        value = ask(socket, action="get_placeholder", placeholder={"sessionId": started["sessionId"], "name": "size"})
        assert value["value"] == len(data)
