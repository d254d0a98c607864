"""Timed requests over real WebSockets and HTTP, in front of a real server."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.gateways import BEARER, TOKEN, RunningGateway, wait_until
from support.servers import Served, running_server, tasks
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from bgpy.gateway import Limits
from bgpy.gateway.requests import MAX_MESSAGE_SIZE
from bgpy.system import process_start_time
from bgpy.tasks.requests import requests_tasks

#: Seconds of a request that a test ends in another way.
LONG = 1000


class Talk:
    """A WebSocket at ``/requests``."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def send(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def receive(self) -> Any:
        return json.loads(self.socket.recv(timeout=20))

    def ask(self, **message: Any) -> Any:
        """Send a message and return the next one that comes."""
        self.send(**message)
        return self.receive()

    def start(self, connid: Any, time: float = LONG, **more: Any) -> None:
        """Start a request and wait until it runs."""
        self.send(route="request", connid=connid, time=time, **more)
        wait_until(lambda: str(connid) in self.ask(route="status"))


@contextlib.contextmanager
def talking(gateway: RunningGateway, **options: Any) -> Iterator[Talk]:
    url = gateway.url.replace("http", "ws", 1) + "requests"
    with connect(url, **{"additional_headers": BEARER, "proxy": None, **options}) as socket:
        yield Talk(socket)


@contextlib.contextmanager
def running(served: Served, **settings: Any) -> Iterator[RunningGateway]:
    gateway = RunningGateway(served, **settings)
    try:
        yield gateway
    finally:
        gateway.end()


@pytest.fixture
def served() -> Iterator[Served]:
    with running_server(requests_tasks(), token=TOKEN) as served:
        yield served


@pytest.fixture
def gateway(served: Served) -> Iterator[RunningGateway]:
    with running(served) as gateway:
        yield gateway


@pytest.fixture
def http(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with gateway.client() as client:
        yield client


@pytest.fixture
def talk(gateway: RunningGateway) -> Iterator[Talk]:
    with talking(gateway) as talk:
        yield talk


def no_stream(gateway: RunningGateway) -> None:
    wait_until(lambda: gateway.server.app._upstream.watchers == 0)


def test_a_request_is_answered_when_its_time_is_over(talk: Talk, gateway: RunningGateway) -> None:
    assert talk.ask(route="request", connid=12, time=0.1) == {"status": "Ok", "connid": 12}
    assert talk.ask(route="request", connid=12, time=0.1, id="x") == {"status": "Ok", "connid": 12, "id": "x"}
    no_stream(gateway)


def test_a_kill_is_told_to_the_killer_and_to_the_starter_and_to_nobody_else(gateway: RunningGateway, talk: Talk) -> None:
    with talking(gateway) as killer, talking(gateway) as other:
        talk.start("a", id=1)
        other.start("b", id=2)
        assert killer.ask(route="kill", connid="a", id=3) == {"status": "Ok", "connid": "a", "id": 3}
        assert talk.receive() == {"status": "Killed", "connid": "a", "id": 1}
        assert killer.ask(route="kill", connid="a") == {"status": "Invalid connection Id", "connid": "a"}
        assert list(other.ask(route="status")) == ["b"]
        killer.ask(route="kill", connid="b")
        assert other.receive() == {"status": "Killed", "connid": "b", "id": 2}


def test_what_is_said_is_done_in_its_order(talk: Talk) -> None:
    for _ in range(20):
        talk.send(route="request", connid="a", time=LONG, id="request")
        talk.send(route="status", id="status")
        talk.send(route="kill", connid="a", id="kill")
    answers = [talk.receive() for _ in range(60)]
    assert [answer["status"] for answer in answers if answer["id"] == "kill"] == ["Ok"] * 20
    assert [answer["status"] for answer in answers if answer["id"] == "request"] == ["Killed"] * 20
    assert [len(answer) for answer in answers if answer["id"] == "status"] == [2] * 20


def test_status_tells_the_seconds_that_are_left(talk: Talk) -> None:
    assert talk.ask(route="status") == {}
    talk.start("a", 500)
    talk.start(7, 5)
    left = talk.ask(route="status")
    assert 490 < left["a"] <= 500
    assert 0 <= left["7"] <= 5


def test_many_wait_on_one_connection_without_holding_up_what_comes_after_them(talk: Talk) -> None:
    for connid in range(40):  # more than a conversation has under way
        talk.send(route="request", connid=connid, time=LONG)
    wait_until(lambda: len(talk.ask(route="status")) == 40)
    for connid in range(40):
        talk.send(route="kill", connid=connid)
    answers = [talk.receive() for _ in range(80)]
    assert sorted(answer["connid"] for answer in answers if answer["status"] == "Killed") == list(range(40))


def test_a_script_is_answered_with_its_value_and_output(talk: Talk) -> None:
    answer = talk.ask(route="request", connid="j", time=60, job="print('hello')\n6 * 7")
    output = {"stdout": "hello\n", "stderr": "", "truncated": False}
    assert answer == {"status": "Ok", "connid": "j", "value": 42, "output": output}


def test_a_script_whose_answer_is_large_is_answered_whole(talk: Talk) -> None:
    answer = talk.ask(route="request", connid="j", time=60, job="'x' * 100_000")
    assert (answer["status"], len(answer["value"])) == ("Ok", 100_000)


def test_a_script_that_fails_is_an_error_with_its_traceback(talk: Talk) -> None:
    answer = talk.ask(route="request", connid="j", time=60, job="def f():\n    1 / 0\nf()")
    assert (answer["status"], answer["connid"]) == ("Error", "j")
    assert answer["message"] == "ZeroDivisionError: division by zero"
    assert answer["error"]["type"] == "ZeroDivisionError"
    assert "line 2, in f" in answer["error"]["traceback"]


@pytest.mark.parametrize("deaf", [False, True])
def test_a_script_is_stopped_at_the_end_of_the_time(talk: Talk, deaf: bool) -> None:
    ignore = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" if deaf else ""
    answer = talk.ask(route="request", connid="j", time=1, job=f"{ignore}while True: pass")
    assert (answer["status"], answer["connid"]) == ("Timeout", "j")
    assert talk.ask(route="status") == {}


def test_a_kill_ends_the_process_of_the_script(talk: Talk, gateway: RunningGateway, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    job = f"import os, pathlib\npathlib.Path({str(path)!r}).write_text(str(os.getpid()))\nwhile True: pass"
    talk.start("j", job=job)
    wait_until(lambda: path.exists() and path.read_text() != "")
    pid = int(path.read_text())
    assert process_start_time(pid) is not None
    with talking(gateway) as killer:
        assert killer.ask(route="kill", connid="j")["status"] == "Ok"
        assert process_start_time(pid) is None
    assert talk.receive() == {"status": "Killed", "connid": "j", "output": {"stdout": "", "stderr": "", "truncated": False}}


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"route": "request", "connid": "c", "time": True}, "time", "number"),
    ({"route": "request", "connid": "c", "time": "5"}, "time", "number"),
    ({"route": "request", "connid": "c", "time": 0}, "time", "more than 0"),
    ({"route": "request", "connid": "c", "time": -1}, "time", "more than 0"),
    ({"route": "request", "connid": "c", "time": 1e300}, "time", "at most"),
    ({"route": "request", "connid": "c"}, "time", "request needs the field 'time'"),
    ({"route": "request", "time": 1}, "connid", "request needs the field 'connid'"),
    ({"route": "request", "connid": True, "time": 1}, "connid", "string or integer"),
    ({"route": "request", "connid": "c", "time": 1, "timeout": 5}, "timeout", "no field 'timeout'"),
    ({"route": "request", "connid": "c", "time": 1, "job": 5}, "job", "string or null"),
    ({"route": "kill"}, "connid", "kill needs the field 'connid'"),
    ({"route": "status", "connid": "c"}, "connid", "no field 'connid'"),
    ({"route": "start"}, "route", "request, kill, status"),
    ({"connid": "c"}, "route", "needs the field 'route'"),
    ({"route": ["kill"]}, "route", "request, kill, status"),
]


def test_a_wrong_message_is_answered_with_what_is_wrong_and_the_connection_is_kept(talk: Talk) -> None:
    for message, field, words in WRONG:
        answer = talk.ask(**message, id="i")
        assert words in answer.pop("message")
        connid = message.get("connid")
        about = {"connid": connid} if isinstance(connid, str) else {}
        assert answer == {"status": "Error", "field": field, "id": "i", **about}
    assert talk.ask(route="status") == {}


def test_what_is_no_json_object_is_an_error_and_the_connection_is_kept(talk: Talk) -> None:
    for message in ("no json", "[]", '{"route": NaN}', b"\xff\xfe", '"x"'):
        talk.socket.send(message)
        assert talk.receive()["status"] == "Error", message
    talk.socket.send(b'{"route": "status"}')
    assert talk.receive() == {}


def test_a_time_that_json_has_no_number_for_is_an_error(talk: Talk) -> None:
    for number in ("NaN", "Infinity", "1e999"):
        talk.socket.send(f'{{"route": "request", "connid": "c", "time": {number}}}')
        assert talk.receive()["status"] == "Error"
    assert talk.ask(route="status") == {}


def test_a_connection_id_that_an_answer_has_as_a_field_is_an_error(talk: Talk) -> None:
    """An answer to `status` has the connection ids as fields, beside the id of the message."""
    for connid in ("id", "status"):
        answer = talk.ask(route="request", connid=connid, time=LONG, id=1)
        assert (answer["status"], answer["field"], answer["connid"]) == ("Error", "connid", connid)
        assert f"The connection id '{connid}'" in answer["message"]
        assert talk.ask(route="kill", connid=connid)["status"] == "Invalid connection Id"
    assert talk.ask(route="status", id=1) == {"id": 1}


def test_a_connection_id_that_runs_is_an_error(gateway: RunningGateway, talk: Talk) -> None:
    talk.start("a")
    with talking(gateway) as other:
        answer = other.ask(route="request", connid="a", time=5)
        assert answer == {
            **{"status": "Error", "message": "A request with the connection id 'a' runs already."},
            **{"field": "connid", "connid": "a"},
        }
    assert list(talk.ask(route="status")) == ["a"]


def test_a_message_that_is_too_large_closes(talk: Talk) -> None:
    assert talk.ask(route="request", connid="j", time=60, job="1" + " " * (MAX_MESSAGE_SIZE - 1000))["value"] == 1
    with contextlib.suppress(ConnectionClosed):
        talk.send(route="request", connid="j", time=60, job=" " * MAX_MESSAGE_SIZE)
        talk.receive()
    assert talk.socket.close_code == 1009


def test_the_token_may_be_the_first_message(gateway: RunningGateway) -> None:
    with talking(gateway, additional_headers={}) as talk:
        assert talk.ask(token=TOKEN) == {"status": "Ok"}
        assert talk.ask(route="status") == {}
    with talking(gateway, additional_headers={}) as talk:
        assert talk.ask(route="status")["status"] == "Error"
        with pytest.raises(ConnectionClosed):
            talk.receive()
        assert talk.socket.close_code == 1008


def test_a_request_goes_on_when_its_client_has_gone(gateway: RunningGateway) -> None:
    with talking(gateway) as talk:
        talk.start("a")
    no_stream(gateway)
    with talking(gateway) as talk:
        assert list(talk.ask(route="status")) == ["a"]
        assert talk.ask(route="kill", connid="a")["status"] == "Ok"


def test_the_end_of_the_server_is_told_to_all_who_wait(served: Served, gateway: RunningGateway, talk: Talk) -> None:
    talk.start("a")
    with talking(gateway) as other, gateway.client() as http:
        answers: list[httpx.Response] = []
        fields = {"connid": "h", "time": LONG}
        waiting = threading.Thread(target=lambda: answers.append(http.post("/requests/request", json=fields)))
        waiting.start()
        wait_until(lambda: "h" in talk.ask(route="status"))
        other.start("b")
        served.client().terminate()
        for each, connid in ((talk, "a"), (other, "b")):
            assert each.receive() == {"status": "Error", "message": "The server is ending", "connid": connid}
        waiting.join(20)
        assert answers[0].json() == {"status": "Error", "message": "The server is ending", "connid": "h"}
        assert talk.ask(route="request", connid="c", time=1)["status"] == "Error"  # there is no server now
    no_stream(gateway)


def test_the_end_of_the_gateway_is_told_over_http_and_the_request_goes_on(served: Served) -> None:
    answers: list[httpx.Response] = []
    with running(served) as gateway, gateway.client() as http:
        fields = {"connid": "h", "time": LONG}
        waiting = threading.Thread(target=lambda: answers.append(http.post("/requests/request", json=fields)))
        waiting.start()
        client = served.client()
        wait_until(lambda: client.execute({"command": "get_requests"}, await_response=True)["result"] != {})
        gateway.server.stop()
        waiting.join(20)
        assert (answers[0].status_code, answers[0].json()["connid"]) == (503, "h")
        assert "may go on" in answers[0].json()["message"]
        assert list(client.execute({"command": "get_requests"}, await_response=True)["result"]) == ["h"]


def test_the_end_of_the_gateway_answers_all_who_wait_at_a_socket(served: Served) -> None:
    with running(served) as gateway, talking(gateway) as talk, talking(gateway) as other:
        connids = [f"c{number}" for number in range(50)]
        for connid in connids:
            talk.send(route="request", connid=connid, time=LONG, id=f"id of {connid}")
        wait_until(lambda: len(other.ask(route="status")) == len(connids))
        gateway.server.stop()
        answers = [talk.receive() for _ in connids]
        assert [(answer["connid"], answer["id"]) for answer in answers] == [(connid, f"id of {connid}") for connid in connids]
        assert {(answer["status"], answer["message"]) for answer in answers} == {
            ("Error", "The gateway is ending; the request may go on")
        }
        for each in (talk, other):  # who waits for nothing is answered nothing
            with pytest.raises(ConnectionClosed):
                each.receive()
            assert each.socket.close_code == 1001


def test_http_answers_at_the_end(http: httpx.Client, gateway: RunningGateway) -> None:
    assert http.post("/requests/request", json={"connid": 5, "time": 0.05}).json() == {"status": "Ok", "connid": 5}
    answer = http.post("/requests/request/", json={"route": "request", "connid": 5, "time": 60, "job": "6 * 7"})
    assert (answer.status_code, answer.json()["value"]) == (200, 42)
    no_stream(gateway)


def test_http_has_twins_of_all_routes(http: httpx.Client, talk: Talk) -> None:
    talk.start("a")
    for answer in (http.get("/requests/status"), http.post("/requests/status", json={})):
        assert list(answer.json()) == ["a"]
    assert http.post("/requests/kill", json={"connid": "a"}).json() == {"status": "Ok", "connid": "a"}
    assert talk.receive() == {"status": "Killed", "connid": "a"}
    answer = http.post("/requests/kill", json={"connid": "a"})
    assert (answer.status_code, answer.json()) == (200, {"status": "Invalid connection Id", "connid": "a"})


def test_http_tells_what_is_wrong_in_the_same_shape(http: httpx.Client) -> None:
    wrong: list[tuple[dict[str, Any], int, str]] = [
        ({"connid": "c"}, 400, "time"),
        ({"connid": "c", "time": True}, 400, "time"),
        ({"connid": "c", "time": 1, "timeout": 1}, 400, "timeout"),
        ({"connid": "c", "time": -1}, 200, "time"),  # the server has answered
        ({"connid": "c", "time": 1, "route": "kill"}, 400, "route"),
        ({"connid": "c", "time": 1, "route": None}, 400, "route"),
        ({"connid": "c", "time": 1, "route": ["request"]}, 400, "route"),
    ]
    for body, status, field in wrong:
        answer = http.post("/requests/request", json=body)
        assert answer.status_code == status
        assert {**answer.json(), "message": ""} == {"status": "Error", "field": field, "connid": "c", "message": ""}
        assert answer.json()["message"] != ""
    assert http.post("/requests/kill", content=b"{").json()["status"] == "Error"
    answer = http.post("/query/module", json={"lib": "math", "text": "sqrt", "route": "status"})
    assert (answer.status_code, answer.json()["field"]) == (400, "route")


def test_a_client_that_leaves_http_leaves_the_request_running(gateway: RunningGateway, talk: Talk) -> None:
    with gateway.client() as http, pytest.raises(httpx.ReadTimeout):
        http.post("/requests/request", json={"connid": "h", "time": LONG}, timeout=1)
    no_stream(gateway)
    assert list(talk.ask(route="status")) == ["h"]


def test_modules_are_searched_with_a_body_or_a_query_string(http: httpx.Client) -> None:
    fields = {"lib": ["collections", "no_such_lib"], "text": "appendl"}
    answers = [
        http.get("/query/module", params=fields),
        http.request("GET", "/query/module", json=fields),
        http.post("/query/module", json=fields),
    ]
    signature = "(self, item, /)" if sys.version_info >= (3, 13) else ""  # earlier ones do not know
    for answer in answers:
        assert answer.status_code == 200
        assert answer.json() == {
            "status": "Ok",
            "message": "1 name. There is no module 'no_such_lib'.",
            "data": [
                {
                    **{"lib": "collections", "name": "deque.appendleft", "kind": "method", "signature": signature},
                    "doc": "Add an element to the left side of the deque.",
                }
            ],
        }


def test_a_query_string_that_is_wrong_is_told(http: httpx.Client) -> None:
    wrong = {
        "": "'lib'",
        "lib=os": "'text'",
        "lib=os&text=a&text=b": "'text' twice",
        "lib=os&text=a&more=1": "'more'",
        "lib=%ff&text=a": "query string",
        "&".join(["lib=os"] * 101): "query string",
    }
    for query, words in wrong.items():
        answer = http.get(f"/query/module?{query}")
        assert (answer.status_code, answer.json()["status"]) == (400, "Error")
        assert words in answer.json()["message"]


def test_nobody_gets_in_without_the_token(gateway: RunningGateway) -> None:
    with gateway.client(token=None) as http:
        for path in ("requests/request", "requests/kill", "requests/status", "query/module"):
            assert http.post(path, json={}).status_code == 401
        for path in ("requests/status", "query/module"):
            assert http.get(path).status_code == 401


def _echo(client_socket: Any, state: Any, args: Any) -> Any:
    client_socket.respond({"echo": args})
    return state


def test_a_server_without_the_task_set_is_told(tmp_path: Path) -> None:
    with running_server(tasks(_echo), token=TOKEN) as served, running(served) as gateway:
        with talking(gateway) as talk:
            for message in ({"route": "status"}, {"route": "request", "connid": "a", "time": 1}):
                assert "task set of requests" in talk.ask(**message)["message"]
        with gateway.client() as http:
            assert http.post("/requests/request", json={"connid": "a", "time": 1}).status_code == 400


def test_where_no_more_may_watch_a_request_is_refused(served: Served) -> None:
    with running(served, limits=Limits(max_watchers=0)) as gateway, gateway.client() as http:
        answer = http.post("/requests/request", json={"connid": "a", "time": 1})
        assert (answer.status_code, answer.json()["connid"]) == (503, "a")
