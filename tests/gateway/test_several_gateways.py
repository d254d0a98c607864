"""Several gateways in front of one server: what is done at one is seen at the other, and goes on without it."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.gateway_process import Process
from support.gateways import TOKEN, RunningGateway, wait_until
from support.runs import Gate, text_of
from support.servers import Served, running_server
from support.talking import ask, receive, talk

from bgpy.cli.pairing import make_tasks
from bgpy.tasks.runtime import runtime_tasks
from bgpy.taskset import TaskSet

#: A request that a test ends before its time.
START = json.dumps({"route": "request", "connid": "slow", "time": 1000})


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Return a server with workspaces, runs and requests."""
    sets = {"workspace": make_tasks(["workspace"], None), "runtime": runtime_tasks(folder=str(tmp_path / "runs"))}
    with running_server(TaskSet.combine({**sets, "requests": make_tasks(["requests"], None)}), token=TOKEN) as served:
        yield served


@pytest.fixture
def pair(served: Served) -> Iterator[tuple[RunningGateway, RunningGateway]]:
    with contextlib.ExitStack() as stack:
        gateways = []
        for _ in range(2):
            gateway = RunningGateway(served)
            stack.callback(gateway.end)
            gateways.append(gateway)
        yield gateways[0], gateways[1]


def test_a_cookie_of_one_is_good_at_the_other_that_is_asked_for_by_the_same_address(
    pair: tuple[RunningGateway, RunningGateway],
) -> None:
    """As behind a proxy that shares requests out: the port in a cookie's name is that of the Host."""
    first, second = pair
    outside = {"host": "localhost:8000", "origin": "http://localhost:8000"}
    with first.client(token=None) as http:
        answer = http.post("/login", json={"token": TOKEN}, headers=outside)
        cookie = answer.headers["set-cookie"].partition(";")[0]
    with second.client(token=None) as http:
        assert http.post("/get_workspace", headers={**outside, "cookie": cookie}).json()["result"] == []
        assert http.post("/get_workspace", headers=outside).status_code == 401


def test_a_workspace_that_is_made_through_one_is_seen_and_watched_through_the_other(
    pair: tuple[RunningGateway, RunningGateway],
) -> None:
    with pair[0].client() as here, pair[1].client() as there, talk(pair[1], "watch") as watcher:
        here.post("/create_workspace", json={"name": "lab", "type": "thread"})
        assert there.post("/get_workspace").json()["result"] == ["lab"]
        watcher.send('{"name": "lab", "since": 0}')
        pushed = here.post("/push_job", json={"name": "lab", "job": "x = 41 + 1", "type": "script", "timeout": 20}).json()
        assert pushed["result"]["state"] == "done"
        seen = receive(watcher)
        while seen["result"]["event"] != "finished":
            seen = receive(watcher)
        assert there.post("/get_variable", json={"name": "lab", "variable": "x"}).json()["result"] == 42


def test_a_run_that_was_started_at_one_is_followed_and_stopped_at_the_other(
    pair: tuple[RunningGateway, RunningGateway], tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    code = f"print('before', flush=True)\n{gate.code}print('after', flush=True)\nwhile True:\n    pass\n"
    file = {"filename": "main.py", "content": code}
    with talk(pair[1]) as follower:
        with talk(pair[0]) as starter:
            started = ask(starter, action="run", python={"number": 1, "files": [file], "mainfile": "main.py"})
            session = started["sessionId"]
            assert ask(follower, action="subscribe", sessionId=session)["status"] == "Alive"
        # The connection that has started it is gone.
        gate.open()
        heard = []
        while "after" not in text_of(heard):
            heard.append(receive(follower))
        assert text_of(heard) == "before\nafter\n"
        follower.send(json.dumps({"action": "stop", "sessionId": session}))
        while not heard[-1]["type"].startswith("[state]:"):
            heard.append(receive(follower))
        assert heard[-1]["status"] == "Stopped"


def test_a_timed_request_of_one_is_listed_and_killed_at_the_other(pair: tuple[RunningGateway, RunningGateway]) -> None:
    with talk(pair[0], "requests") as starter, talk(pair[1], "requests") as other:
        starter.send(START)
        wait_until(lambda: "slow" in ask(other, route="status"))
        assert ask(other, route="kill", connid="slow") == {"status": "Ok", "connid": "slow"}
        assert receive(starter) == {"status": "Killed", "connid": "slow"}


@pytest.mark.process
def test_one_that_is_killed_takes_nothing_from_the_other(served: Served) -> None:
    first, second = Process(port=served.port), Process(port=served.port)
    asking = {"headers": {"authorization": f"Bearer {TOKEN}"}, "trust_env": False, "timeout": 20.0}
    try:
        with talk(first.url, "watch") as lost, talk(second.url, "requests") as kept:
            httpx.post(f"{first.url}create_workspace", json={"name": "lab", "type": "thread"}, **asking)  # type: ignore[arg-type]
            lost.send('{"name": "lab"}')
            with talk(first.url, "requests") as cut:
                cut.send(START)
                wait_until(lambda: "slow" in ask(kept, route="status"))
                first.signal(signal.SIGKILL)
                assert first.end()[0] == -signal.SIGKILL
            job = {"name": "lab", "job": "y = 2", "type": "script", "timeout": 20}
            pushed = httpx.post(f"{second.url}push_job", json=job, **asking)  # type: ignore[arg-type]
            assert pushed.json()["result"]["state"] == "done"
            # What was started at the dead one goes on, and ends by the living one.
            assert "slow" in ask(kept, route="status")
            assert ask(kept, route="kill", connid="slow") == {"status": "Ok", "connid": "slow"}
            wait_until(lambda: "slow" not in ask(kept, route="status"))
    finally:
        second.signal(signal.SIGTERM)
        assert second.end() == (0, "")
