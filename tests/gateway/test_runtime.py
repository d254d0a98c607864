"""The language of runs: who hears what, and how one comes back to a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.gateways import RunningGateway, wait_until
from support.scripted_runs import Runs, gateway_of_runs
from support.talking import ask, log_in, receive, stranger, talk
from websockets.sync.client import ClientConnection

from bgpy.gateway import Limits

PYTHON = {"number": 1, "files": [{"filename": "a.py", "content": "print(1)"}], "mainfile": "a.py"}


@pytest.fixture
def gateway(runs: Runs) -> Iterator[RunningGateway]:
    with gateway_of_runs(runs) as running:
        yield running


def start(socket: ClientConnection, **more: Any) -> str:
    """Start a run and return its session."""
    started = ask(socket, action="run", python=PYTHON, **more)
    assert started["type"] == "[status]:EXECUTION_STARTED", started
    return str(started["sessionId"])


def test_who_starts_a_run_is_answered_at_once_and_hears_of_it_to_its_end(runs: Runs, gateway: RunningGateway) -> None:
    with stranger(gateway) as socket:
        assert log_in(socket) == {"type": "[status]:LOGGED_IN"}
        started = ask(socket, action="run", python=PYTHON, id=7)
        assert started == {
            "type": "[status]:EXECUTION_STARTED", "sessionId": "s0", "message": "Started", "number": 1, "id": 7,
        }  # fmt: skip
        runs.tell("s0", "[status]:STATUS", status="Alive")  # a sign of life, which nobody has asked for
        runs.tell("s0", "[output]:STDOUT", text="1\n")
        assert receive(socket) == {"type": "[output]:STDOUT", "sessionId": "s0", "number": 3, "text": "1\n"}
        runs.finish("s0")
        assert receive(socket)["type"] == "[state]:EXECUTION_FINISHED"
        assert ask(socket, action="list")["sessions"] == ["s0"]
    assert runs.asked == ["run", "watch_run", "list_runs"]


def test_of_two_clients_each_hears_of_its_own_run(runs: Runs, gateway: RunningGateway) -> None:
    with talk(gateway) as first, talk(gateway) as second:
        assert [start(first), start(second), start(first)] == ["s0", "s1", "s2"]
        runs.tell("s1", "[output]:STDOUT", text="of the second")
        runs.tell("s0", "[output]:STDOUT", text="of the first")
        for session in ("s0", "s1", "s2"):
            runs.finish(session)
        assert [receive(second)["sessionId"] for _ in range(2)] == ["s1", "s1"]
        heard = [receive(first) for _ in range(3)]
        assert sorted((message["sessionId"], message["type"]) for message in heard) == [
            ("s0", "[output]:STDOUT"), ("s0", "[state]:EXECUTION_FINISHED"), ("s2", "[state]:EXECUTION_FINISHED"),
        ]  # fmt: skip
        # Nothing else has come to either: the next message is the answer.
        assert ask(first, action="list")["type"] == ask(second, action="list")["type"] == "[status]:LIST"


def test_who_comes_back_goes_on_behind_what_was_seen(runs: Runs, gateway: RunningGateway) -> None:
    with talk(gateway) as socket:
        session = start(socket)
        runs.tell(session, "[output]:STDOUT", text="seen")
        seen = receive(socket)["number"]
        socket.socket.shutdown(2)  # without a word
    wait_until(lambda: gateway.server.app._upstream.watchers == 0)
    runs.tell(session, "[output]:STDOUT", text="missed")
    with talk(gateway) as socket:
        answer = ask(socket, action="subscribe", sessionId=session, since=seen, id="back")
        assert answer == {"type": "[status]:STATUS", "sessionId": session, "status": "Alive", "id": "back"}
        assert receive(socket)["text"] == "missed"
        runs.tell(session, "[output]:STDOUT", text="new")
        assert receive(socket)["text"] == "new"
    with talk(gateway) as socket:  # without `since`: all of it
        ask(socket, action="subscribe", sessionId=session)
        assert [receive(socket)["number"] for _ in range(4)] == [1, 2, 3, 4]


def test_one_session_is_heard_once_on_one_connection(runs: Runs, gateway: RunningGateway) -> None:
    with talk(gateway) as socket:
        session = start(socket)
        for _ in range(3):
            assert ask(socket, action="subscribe", sessionId=session)["type"] == "[status]:STATUS"
        runs.finish(session)
        assert receive(socket)["number"] == 2
        # Who has heard the end may hear all again.
        assert ask(socket, action="subscribe", sessionId=session)["type"] == "[status]:STATUS"
        assert [receive(socket)["number"] for _ in range(2)] == [1, 2]
        assert ask(socket, action="list")["type"] == "[status]:LIST"
    assert runs.asked.count("watch_run") == 2


def test_two_clients_may_hear_of_one_run(runs: Runs, gateway: RunningGateway) -> None:
    with talk(gateway) as first, talk(gateway) as second:
        session = start(first)
        assert ask(second, action="subscribe", sessionId=session, since=1)["status"] == "Alive"
        runs.tell(session, "[progress]:UPDATE", name="epochs", done=1, total=2)
        assert receive(first) == receive(second)


def test_a_session_that_there_is_not_cannot_be_heard(runs: Runs, gateway: RunningGateway) -> None:
    with talk(gateway) as socket:
        answer = ask(socket, action="subscribe", sessionId="nobody", id=1)
        assert (answer["status"], answer["id"]) == ("Session not found", 1)
        assert ask(socket, action="subscribe", sessionId=5)["status"] == "Session not found"
    assert "watch_run" not in runs.asked


#: Actions, their commands, and the fields of both.
ACTIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("status", "run_status", {"sessionId": "s", "timeout": 0}),
    ("stop", "stop_run", {"sessionId": "s"}),
    ("forget", "forget_run", {"sessionId": "s"}),
    ("list_placeholders", "list_placeholders", {"sessionId": "s"}),
    ("get_placeholder", "get_placeholder", {"placeholder": {"sessionId": "s", "name": "x", "window": [0, 5]}}),
    ("get_stats", "get_stats", {"placeholder": {"sessionId": "s", "name": "x"}}),
    ("run_model", "run_model", {"model": {"sessionId": "s", "name": "x", "is_data": True, "data": [[1]], "timeout": 5}}),
]


def test_an_action_is_a_command_with_its_fields(runs: Runs, gateway: RunningGateway) -> None:
    seen = []

    def keep(args: dict[str, Any]) -> dict[str, Any]:
        seen.append(args)
        return {"request_result": True, "result": {"type": "[answer]"}}

    with talk(gateway) as socket:
        for action, command, fields in ACTIONS:
            runs.answers[command] = keep
            assert ask(socket, action=action, id="a", **fields) == {"type": "[answer]", "id": "a"}
            assert seen.pop() == {**fields, "command": command}


#: What cannot be done, the field at fault, and what the error says.
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({}, "action", "needs the field 'action'"),
    ({"action": "launch"}, "action", "no action 'launch'; there are run, "),
    ({"action": ["run"]}, "action", "no action ['run']"),
    ({"action": "x" * 10_000}, "action", "no action 'xxx"),
    ({"action": "run"}, "python", "needs the field 'python'"),
    ({"action": "run", "python": {"number": 1}}, "files", "needs the field 'files'"),
    ({"action": "status"}, "sessionId", "status needs the field 'sessionId'"),
    ({"action": "subscribe"}, "sessionId", "subscribe needs the field 'sessionId'"),
    ({"action": "subscribe", "sessionId": "s", "since": "x"}, "since", "'since' of subscribe is integer"),
    ({"action": "get_placeholder", "placeholder": {"sessionId": "s"}}, "name", "needs the field 'name'"),
    ({"action": "list", "colour": 1}, "colour", "list has no field 'colour'"),
]


def test_what_cannot_be_done_is_named_and_the_connection_kept(gateway: RunningGateway) -> None:
    with talk(gateway) as socket:
        for request, field, said in WRONG:
            error = ask(socket, **request, id=1)
            assert (error["type"], error["field"], error["id"]) == ("[error]", field, 1), request
            action = request.get("action")
            assert error["action"] == (action[:100] if isinstance(action, str) else None), request
            assert said in error["message"], request
        assert ask(socket, action="list")["type"] == "[status]:LIST"


def test_an_error_says_which_run_it_is_about(runs: Runs, gateway: RunningGateway) -> None:
    runs.answers["get_stats"] = lambda args: {"request_result": False, "result": "There is no x", "field": "name"}
    with talk(gateway) as socket:
        assert ask(socket, action="get_stats", placeholder={"sessionId": "s", "name": "x"}) == {
            "type": "[error]", "message": "There is no x", "action": "get_stats", "field": "name", "sessionId": "s",
        }  # fmt: skip


def test_a_command_cannot_be_smuggled_in(runs: Runs, gateway: RunningGateway) -> None:
    with talk(gateway) as socket:
        assert ask(socket, action="list", command="stop_run")["type"] == "[status]:LIST"
    assert runs.asked == ["list_runs"]


def test_a_server_that_has_gone_is_an_error_and_the_connection_kept(runs: Runs, gateway: RunningGateway) -> None:
    with talk(gateway) as socket:
        session = start(socket)
        runs.end()
        gateway.served.end()
        broken = receive(socket)
        assert (broken["type"], broken["sessionId"]) == ("[error]", session)
        error = ask(socket, action="list", id=1)
        assert (error["type"], error["action"], error["executed"], error["id"]) == ("[error]", "list", False, 1)


def test_a_server_with_other_tasks_is_an_error(runs: Runs, gateway: RunningGateway) -> None:
    runs.answers["list_runs"] = lambda args: {"echo": args}
    with talk(gateway) as socket:
        error = ask(socket, action="list")
        assert error["type"] == "[error]"
        assert "runtime task set" in error["message"]


def test_a_run_that_cannot_be_watched_has_still_started(runs: Runs) -> None:
    with gateway_of_runs(runs, limits=Limits(max_watchers=1)) as gateway, talk(gateway) as socket:
        start(socket)
        session = start(socket)
        error = receive(socket)
        assert (error["type"], error["sessionId"]) == ("[error]", session)
        assert "1 watchers" in error["message"]


def test_what_a_run_asks_to_wait_is_waited_for(runs: Runs) -> None:
    """A prediction may take longer than any other answer; so says its own object."""
    runs.answers["run_model"] = runs.wait_at_the_gate
    with gateway_of_runs(runs, limits=Limits(request_timeout=0.2)) as gateway, talk(gateway) as socket:
        model = {"sessionId": "s", "name": "m", "data": [1]}
        socket.send(json.dumps({"action": "run_model", "model": {**model, "timeout": 15}, "id": "long"}))
        assert runs.begun.acquire(timeout=20)
        error = ask(socket, action="run_model", model={**model, "timeout": 0}, id="short")
        assert (error["type"], error["id"]) == ("[error]", "short")
        runs.open.set()
        late = receive(socket)
        assert (late["id"], late["type"]) == ("long", "[placeholder]:STATS")


def test_what_a_run_is_made_of_is_described_for_programs_and_people(gateway: RunningGateway) -> None:
    with gateway.client() as http:
        paths = http.get("/openapi.json").json()["paths"]
        guide = http.post("/").json()["result"]
    python = paths["/run/"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]["python"]
    assert (python["type"], python["required"], python["additionalProperties"]) == (
        "object",
        ["number", "files", "mainfile"],
        False,
    )
    assert python["properties"]["files"]["items"]["required"] == ["filename", "content"]
    assert "number, files and mainfile" in guide["/run/"]["json"]["request"]["python"]


def test_the_commands_of_runs_are_endpoints_as_well(runs: Runs, gateway: RunningGateway) -> None:
    with gateway.client() as http:
        started = http.post("/run", json={"python": PYTHON}).json()
        assert (started["request_result"], started["result"]["type"]) == (True, "[status]:EXECUTION_STARTED")
        runs.finish("s0")
        told = http.post("/watch_run", json={"sessionId": "s0"}).text
    assert [json.loads(line[6:])["result"]["number"] for line in told.splitlines() if line.startswith("data: ")] == [1, 2]
