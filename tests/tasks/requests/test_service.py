"""The task set of requests on real servers, through its face."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers import Served, background_server, running_server
from support.waiting import wait_until

import bgpy
from bgpy.errors import RefusedError
from bgpy.system import process_start_time, wait_for_end
from bgpy.tasks import requests as package
from bgpy.tasks.requests import Request, Requests, requests_tasks
from bgpy.tasks.requests.commands import COMMANDS
from bgpy.tasks.workspace import Workspaces
from bgpy.taskset import TaskSet

#: Seconds of a request that a test ends in another way.
LONG = 1000


@pytest.fixture
def served() -> Iterator[Served]:
    with running_server(requests_tasks()) as served:
        yield served


@pytest.fixture
def requests(served: Served) -> Requests:
    return Requests(served.client())


def test_a_request_is_waited_for(requests: Requests) -> None:
    request = requests.start("a", 0.05)
    assert isinstance(request, Request)
    assert repr(request) == "<Request 'a'>"
    assert request.wait(20) == {"status": "Ok", "connid": "a"}
    assert request.wait(0) == {"status": "Ok", "connid": "a"}
    assert not request.kill()


def test_a_request_that_runs_on_has_no_answer_and_can_be_killed(requests: Requests) -> None:
    request = requests.start(7, LONG)
    assert request.wait(0) is None
    assert request.wait(0.05) is None
    assert requests.status()["7"] == pytest.approx(LONG, abs=10)
    assert request.kill()
    assert request.wait() == {"status": "Killed", "connid": 7}
    assert not requests.kill(7)


def test_a_request_is_killed_by_its_connection_id(requests: Requests) -> None:
    request = requests.start("a", LONG)
    assert requests.kill("a")
    assert request.wait(20) == {"status": "Killed", "connid": "a"}


def test_a_script_has_a_value_and_output(requests: Requests) -> None:
    answer = requests.start("a", 60, "print('hello')\n[1, 2]").wait(40)
    assert answer == {
        **{"status": "Ok", "connid": "a", "value": [1, 2]},
        "output": {"stdout": "hello\n", "stderr": "", "truncated": False},
    }


def test_a_request_that_cannot_be_is_refused(requests: Requests) -> None:
    requests.start("a", LONG)
    for connid, seconds, field in (("a", 1, "connid"), ("b", -1, "time")):
        with pytest.raises(RefusedError) as refused:
            requests.start(connid, seconds)
        assert refused.value.field == field


def test_starts_and_ends_are_watched_from_where_one_left_off(requests: Requests) -> None:
    number = requests.start("a", 0.05).number
    watched = requests.watch(0)
    started = next(watched)
    assert (started["event"], started["request"], started["connid"]) == ("started", number, "a")
    ended = next(watched)
    assert (ended["event"], ended["request"], ended["answer"]) == ("ended", number, {"status": "Ok", "connid": "a"})
    requests.start("b", LONG)
    again = requests.watch(ended["number"])
    assert next(again)["connid"] == "b"
    for stream in (watched, again):
        stream.close()  # type: ignore[attr-defined]


def test_modules_are_searched(requests: Requests) -> None:
    answer = requests.query_module("collections", "appendl")
    assert [found["name"] for found in answer["data"]] == ["deque.appendleft"]


def test_it_goes_on_when_its_client_has_gone(served: Served) -> None:
    with served.client() as client:
        Requests(client).start("a", LONG)
    assert list(Requests(served.client()).status()) == ["a"]


def test_whoever_waits_is_told_of_the_end_of_the_server(served: Served) -> None:
    answers: list[Any] = []
    request = Requests(served.client()).start("a", LONG)
    thread = threading.Thread(target=lambda: answers.append(request.wait(60)))
    thread.start()
    served.client().terminate()
    thread.join(20)
    assert not thread.is_alive()
    assert answers == [{"status": "Error", "connid": "a", "message": "The server is ending"}]


def test_options_are_those_of_the_set(served: Served) -> None:
    with running_server(requests_tasks(max_requests=1)) as small:
        requests = Requests(small.client())
        requests.start("a", LONG)
        with pytest.raises(RefusedError, match="1 requests run"):
            requests.start("b", LONG)


def test_beside_workspaces_it_uses_theirs_and_lists_none_of_its_own() -> None:
    tasks = TaskSet.combine({"workspace": "bgpy.tasks.workspace", "requests": "bgpy.tasks.requests"})
    with running_server(tasks) as served:
        requests, workspaces = Requests(served.client()), Workspaces(served.client())
        workspaces.create("w")
        pid = requests.start("a", 60, "import os\nos.getpid()").wait(40)
        assert pid is not None
        assert pid["value"] != workspaces["w"].status()["pid"]
        assert list(workspaces) == ["w"]
        assert requests.query_module("os", "getcwd")["status"] == "Ok"


@pytest.mark.process
def test_the_end_of_the_server_ends_the_processes_of_scripts(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    job = f"""
import os, pathlib, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
pathlib.Path({str(path)!r}).write_text(str(os.getpid()))
while True: pass
"""
    with background_server(requests_tasks()) as server, bgpy.Client(server.host, server.port, timeout=30) as client:
        Requests(client).start("a", LONG, job)
        wait_until(lambda: path.exists() and path.read_text() != "")
        pid = int(path.read_text())
        start_time = process_start_time(pid)
        assert start_time is not None
        client.terminate()
        assert wait_for_end(pid, start_time, 10)


def test_all_commands_are_those_of_the_set_and_it_can_be_pickled() -> None:
    tasks = pickle.loads(pickle.dumps(requests_tasks(max_jobs=3)))
    assert tasks.concurrent
    assert tasks.commands == TaskSet.of("bgpy.tasks.requests").commands == tuple(command.name for command in COMMANDS)


def test_a_name_that_the_package_has_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = package.Nothing


def test_the_commands_are_imported_without_what_runs_them() -> None:
    script = "import sys, bgpy.tasks.requests.commands as c\nassert 'bgpy.tasks.workspace.workspaces' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
