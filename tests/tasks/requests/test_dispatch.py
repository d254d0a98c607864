"""From messages to answers: each command of the task set, and each way in which a message can be wrong."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.desks import CommandDesk
from support.scripted import Backends, KeepingSocket

from bgpy.errors import MessageTooLargeError
from bgpy.tasks.requests import dispatch as dispatching
from bgpy.tasks.requests.commands import COMMANDS, MAX_RECALLED
from bgpy.tasks.requests.dispatch import dispatch
from bgpy.tasks.requests.modules import Search
from bgpy.tasks.requests.requests import Requests
from bgpy.tasks.schema import REQUIRED
from bgpy.tasks.workspace.workspaces import Workspaces

START: dict[str, Any] = {"command": "start_request", "connid": "a", "time": 1000}


class Deferrable(KeepingSocket):
    """A client whose requests may be answered later; keeps how much later at most."""

    deferrable = True


class Desk(CommandDesk):
    """Requests with scripted backends, and the clients that ask."""

    def __init__(self) -> None:
        self.workspaces = Workspaces(make_backend=Backends().make)
        self.requests = Requests(self.workspaces)
        self.search = Search(self.workspaces)

    def send(self, client: KeepingSocket, message: dict[str, Any]) -> None:
        dispatch(self.requests, self.search, client, message)

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        client = KeepingSocket()
        self.send(client, message)
        return client.answer()

    def close(self) -> None:
        self.requests.close()
        self.workspaces.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.close()


def test_a_start_is_answered_at_once(desk: Desk) -> None:
    answer = desk.ask(**START)
    assert answer == {"status": "Started", "connid": "a", "request": answer["request"]}
    assert desk.ask("get_requests") == {"a": pytest.approx(1000, abs=5)}


def test_others_are_told_plain_data_whatever_class_a_start_has_sent(desk: Desk) -> None:
    class Name(str, enum.Enum):
        OF_MEMBER = "of value"

    class Seconds(float):
        pass

    desk.ask(**{**START, "connid": Name.OF_MEMBER, "time": Seconds(1000)})
    ((connid, left),) = desk.ask("get_requests").items()
    assert (connid, type(connid), type(left)) == ("of value", str, float)
    killed = desk.ask("kill_request", connid="of value")
    assert (killed["status"], type(killed["connid"])) == ("Ok", str)


def test_a_start_may_wait_for_the_end(desk: Desk) -> None:
    answer = desk.ask("start_request", connid=7, time=0.01, timeout=10)
    assert answer == {"status": "Ok", "connid": 7, "request": answer["request"]}


def test_a_wait_that_is_too_short_is_answered_when_it_is_over(desk: Desk) -> None:
    assert desk.ask(**START, timeout=0.01)["status"] == "Started"


def test_a_deferred_answer_comes_at_the_end_and_once(desk: Desk) -> None:
    client = Deferrable()
    desk.send(client, {**START, "timeout": 100})
    assert client.deferred == pytest.approx(160)
    assert client.responses.empty()
    assert desk.ask("kill_request", connid="a") == {"status": "Ok", "connid": "a"}
    answer = client.answer()["result"]
    assert answer == {"status": "Killed", "connid": "a", "request": answer["request"]}


def test_a_deferred_answer_comes_when_the_wait_is_over(desk: Desk) -> None:
    client = Deferrable()
    desk.send(client, {**START, "timeout": 0.01})
    assert client.answer()["result"]["status"] == "Started"
    desk.ask("kill_request", connid="a")
    assert client.responses.empty()


def test_nobody_waits_who_is_not_waited_for(desk: Desk) -> None:
    client = KeepingSocket(awaited=False)
    desk.send(client, {**START, "timeout": 1000})
    assert list(desk.ask("get_requests")) == ["a"]


def test_a_kill_of_what_does_not_run_says_so(desk: Desk) -> None:
    assert desk.ask("kill_request", connid=7.0) == {"status": "Invalid connection Id", "connid": 7}


def test_ends_are_recalled(desk: Desk) -> None:
    ended = desk.ask("start_request", connid="b", time=0.01, timeout=10)["request"]
    runs = desk.ask(**START)["request"]
    answers = desk.ask("recall_requests", requests=[ended, runs, 5])
    assert answers == {
        str(ended): {"status": "Ok", "connid": "b"},
        str(runs): None,
        "5": {"status": "Error", "message": "The request 5 was never given"},
    }
    assert desk.ask("recall_requests", requests=[]) == {}


def test_the_end_of_one_request_can_be_waited_for(desk: Desk) -> None:
    number = desk.ask(**START)["request"]
    assert desk.ask("recall_requests", requests=[number], timeout=0.01) == {str(number): None}
    client = Deferrable()
    desk.send(client, {"command": "recall_requests", "requests": [number], "timeout": 100})
    desk.ask("kill_request", connid="a")
    assert client.answer()["result"] == {str(number): {"status": "Killed", "connid": "a"}}
    again = desk.ask("recall_requests", requests=[number], timeout=100)
    assert again == {str(number): {"status": "Killed", "connid": "a"}}


def test_an_answer_that_the_client_cannot_take_is_refused_instead(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    client = KeepingSocket()
    respond = client.respond

    def refuse_the_first(response: dict[str, Any], *, more: bool = False) -> None:
        monkeypatch.setattr(client, "respond", respond)
        raise MessageTooLargeError(10, 5, True)

    monkeypatch.setattr(client, "respond", refuse_the_first)
    desk.send(client, START)
    answer = client.answer()
    assert (answer["request_result"], answer["error"]) == (False, "MessageTooLargeError")


class Watcher:
    """A client that watches, in a thread."""

    def __init__(self, desk: Desk, since: int | None) -> None:
        self.client = KeepingSocket()
        message = {"command": "watch_requests", "since": since}
        self._thread = threading.Thread(target=desk.send, args=(self.client, message))
        self._thread.start()

    def next(self) -> tuple[dict[str, Any], bool]:
        response, more = self.client.responses.get(timeout=10)
        assert response["request_result"] is True
        assert abs(response["result"].pop("time") - time.time()) < 60
        return response["result"], more

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


def test_a_watcher_hears_at_once_where_it_begins_and_then_of_everything_up_to_the_end(desk: Desk) -> None:
    desk.ask("start_request", connid="before", time=1000)
    watcher = Watcher(desk, None)
    assert watcher.next() == ({"event": "alive", "number": 1}, True)
    number = desk.ask(**START)["request"]
    started = {"event": "started", "number": 2, "request": number, "connid": "a", "left": 1000.0}
    assert watcher.next() == (started, True)
    desk.ask("kill_request", connid="a")
    answer = {"status": "Killed", "connid": "a"}
    assert watcher.next() == ({"event": "ended", "number": 3, "request": number, "connid": "a", "answer": answer}, True)
    desk.requests.shut()
    assert watcher.next()[0]["answer"] == {"status": "Error", "connid": "before", "message": "The server is ending"}
    assert watcher.next() == ({"event": "gone", "number": 4}, False)
    watcher.join()


def test_what_came_before_is_replayed_behind_a_gap_where_the_log_does_not_reach_back(desk: Desk) -> None:
    desk.requests.log._max_events = 1
    for connid in "ab":
        desk.ask("start_request", connid=connid, time=1000)
    watcher = Watcher(desk, 0)
    assert watcher.next()[0]["event"] == "alive"
    assert watcher.next()[0] == {"event": "gap", "number": 1, "missed": [1, 1]}
    assert watcher.next()[0]["connid"] == "b"
    desk.requests.shut()
    watcher.join()


def test_a_watcher_hears_from_a_server_on_which_nothing_happens(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "ALIVE_INTERVAL", 0.01)
    watcher = Watcher(desk, None)
    assert [watcher.next()[0]["event"] for _ in range(3)] == ["alive"] * 3
    watcher.client.connected = False
    watcher.join()


@pytest.mark.parametrize("message", [{}, {"command": None}, {"command": 5}, {"command": ["a"]}, {"command": "nonsense"}])
def test_an_unknown_command_is_refused(desk: Desk, message: dict[str, Any]) -> None:
    reason, field = desk.refused(message)
    assert field == "command"
    assert "start_request" in reason


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"time": True}, "time"),
        ({"time": "5"}, "time"),
        ({"time": 0}, "time"),
        ({"time": float("nan")}, "time"),
        ({"time": float("inf")}, "time"),
        ({"connid": None}, "connid"),
        ({"connid": True}, "connid"),
        ({"connid": 1.5}, "connid"),
        ({"connid": ""}, "connid"),
        ({"job": 5}, "job"),
        ({"timeout": -1}, "timeout"),
        ({"tiem": 5}, "tiem"),
    ],
)
def test_a_wrong_field_of_a_start_is_named(desk: Desk, fields: dict[str, Any], field: str) -> None:
    assert desk.refused({**START, **fields})[1] == field
    assert desk.ask("get_requests") == {}


def test_a_connection_id_that_runs_is_refused(desk: Desk) -> None:
    desk.ask(**START)
    reason, field = desk.refused(START)
    assert (reason, field) == ("A request with the connection id 'a' runs already.", "connid")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"requests": list(range(MAX_RECALLED + 1))}, "requests"),
        ({"requests": ["1"]}, "requests"),
        ({"requests": [1, 2], "timeout": 1}, "timeout"),
    ],
)
def test_a_wrong_recall_is_refused(desk: Desk, fields: dict[str, Any], field: str) -> None:
    assert desk.refused({"command": "recall_requests", **fields})[1] == field


def test_a_search_is_passed_on_and_what_it_refuses_too(desk: Desk) -> None:
    assert desk.ask("query_module", lib="no name", text="x")["status"] == "Error"
    assert desk.refused({"command": "query_module", "lib": [], "text": ""})[1] == "lib"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_each_command_names_a_field_that_is_missing(desk: Desk, command: Any) -> None:
    for field in command.fields:
        if field.default is REQUIRED:
            others = {other.name: "x" for other in command.fields if other is not field and other.default is REQUIRED}
            assert field.name in desk.refused({"command": command.name, **others})[0]
