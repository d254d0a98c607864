"""Every endpoint over real HTTP: routes, envelopes and statuses."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import httpx
import pytest
from support.gateways import TOKEN, Alien, RunningGateway, Unloadable, Workspaces, running_gateway, wait_until
from support.servers import running_server, tasks

from bgpy.gateway import Limits
from bgpy.gateway.upstream import own_wait
from bgpy.tasks.schema import REQUIRED, Command
from bgpy.tasks.tensorflow.commands import COMMANDS

POSTED = [command for command in COMMANDS if not command.stream]
SAMPLES: dict[str, Any] = {
    "name": "lab",
    "job": "x = 1",
    "variable": "x",
    "value": [1],
    "timeout": 0.0,
    "path": "/models/a",
    "node": "a",
    "to": "lab",
    "key": "00",
    "reference": "00",
}


def least(command: Command) -> dict[str, Any]:
    """Return the fields that a command needs."""
    needed = [field for field in command.fields if field.default is REQUIRED]
    return {field.name: 0 if "integer" in field.types else SAMPLES[field.name] for field in needed}


def test_each_command_has_an_endpoint_with_and_without_a_slash(http: httpx.Client) -> None:
    for command in POSTED:
        fields = {field.name: field.default for field in command.fields if field.default is not REQUIRED} | least(command)
        if "encoding" in fields:
            fields["encoding"] = "json"
        for slash in ("", "/"):
            answer = http.post(f"/{command.name}{slash}", json=least(command))
            assert answer.status_code == 200
            assert answer.json() == {"request_result": True, "result": fields}


def test_values_come_as_json_whatever_the_client_says(http: httpx.Client) -> None:
    fields = {"name": "lab", "job": "1", "encoding": "objects", "command": "destroy"}
    assert http.post("/push_job", json=fields).json()["result"]["encoding"] == "json"


def test_a_refused_request_is_an_envelope_with_status_200(http: httpx.Client) -> None:
    answer = http.post("/get_status/", json={})
    assert answer.status_code == 200
    assert answer.json() == {
        "request_result": False,
        "result": "get_status needs the field 'name': The workspace's name.",
        "field": "name",
    }
    assert http.post("/create/", json={"encoding": "json"}).json()["field"] == "encoding"


def test_no_body_is_an_empty_object(http: httpx.Client) -> None:
    for body in (b"", b"  ", b"{}"):
        assert http.post("/get_workspace/", content=body).json() == {"request_result": True, "result": {}}


BAD_BODIES = {
    "word": b"x",
    "array": b"[1]",
    "text": b'"text"',
    "nan": b'{"name": NaN}',
    "infinity": b'{"name": 1e999}',
    "digits": b'{"name": %s}' % (b"9" * 5000),
    "depth": b"[" * 5000,
    "utf-16": b"\xff\xfe",
}


def test_a_body_that_is_no_json_object_is_400(http: httpx.Client) -> None:
    for path in ("/get_status/", "/execute", "/watch/", "/login", "/"):
        for kind, body in BAD_BODIES.items():
            answer = http.post(path, content=body)
            assert answer.status_code == 400, (path, kind)
            assert answer.json()["request_result"] is False
            assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_413(workspaces: Workspaces, chunked: bool) -> None:
    with running_gateway(workspaces, limits=Limits(max_body_size=100_000)) as gateway, gateway.client() as http:
        body = b'{"a": "%s"}' % (b"x" * 200_000)
        for path in ("/json_test/", "/watch/", "/get_status"):
            answer = http.post(path, content=iter([body[:99_999], body[99_999:]]) if chunked else body)
            assert answer.status_code == 413
            assert answer.json() == {"request_result": False, "result": "The body is too large", "executed": False}
        assert http.post("/json_test/", content=b'"%s"' % (b"x" * 99_998)).status_code == 200


def test_a_body_that_drips_is_408(workspaces: Workspaces) -> None:
    with running_gateway(workspaces, limits=Limits(body_timeout=0.1)) as gateway:
        head = f"POST /json_test HTTP/1.1\r\nHost: localhost\r\nAuthorization: {gateway.client().headers['authorization']}\r\n"
        with socket.create_connection(("127.0.0.1", gateway.port), 20) as sock:
            sock.sendall(f"{head}Content-Length: 10\r\n\r\n12".encode())
            assert sock.recv(65536).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/push_job/", "POST"),
        ("DELETE", "/push_job", "POST"),
        ("PUT", "/execute", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("OPTIONS", "/", "GET, HEAD, POST"),
        ("GET", "/watch", "POST"),
    ],
)
def test_a_wrong_method_is_405_and_says_which_are_right(http: httpx.Client, method: str, path: str, allow: str) -> None:
    answer = http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allow
    assert answer.json()["request_result"] is False


def test_an_unknown_path_is_404(http: httpx.Client) -> None:
    for path in ("/nothing", "/push_job/x", "/push_job//", "/PUSH_JOB", "/page/index.html", "/%00", "/app.js/x"):
        answer = http.send(httpx.Request("POST", httpx.URL(http.base_url, raw_path=path.encode()), headers=http.headers))
        assert answer.status_code == 404, path
        assert answer.json()["request_result"] is False


def test_who_is_not_logged_in_gets_401_and_no_answer(gateway: RunningGateway) -> None:
    with gateway.client(token=None) as http:
        for method, path in [("POST", "/push_job/"), ("GET", "/metrics"), ("POST", "/"), ("GET", "/openapi.json"), ("GET", "/x")]:
            answer = http.request(method, path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["request_result"] is False
    with gateway.client(token="wrong") as http:
        assert http.post("/get_workspace/").json() == {"request_result": False, "result": "The token is wrong"}


def test_the_guide_the_hint_and_the_reflector(http: httpx.Client) -> None:
    guide = http.post("/").json()
    assert guide["request_result"] is True
    assert guide["result"]["/push_job/"]["context"] == "Push job by python file or script"
    hint = http.get("/")
    assert hint.headers["content-type"].startswith("text/plain")
    assert hint.text.count("\n") == 1
    values: list[Any] = [{"a": [1, None, "ä\ud800"]}, [], "text", 2.5, None]
    for value in values:
        body = json.dumps(value).encode()
        assert http.post("/json_test/", content=body).json() == {"request_result": True, "result": value}
    assert http.post("/json_test").json() == {"request_result": True, "result": {}}


def test_the_page_is_there_for_browsers_with_its_rules(gateway: RunningGateway) -> None:
    with gateway.client(token=None) as http:
        page = http.get("/", headers={"accept": "text/html"})
        assert page.status_code == 200
        assert "<title>bgpy</title>" in page.text
        for path, kind in [("/page.css", "text/css"), ("/app.js", "text/javascript")]:
            assert path[1:] in page.text
            assert http.get(path).headers["content-type"].startswith(kind)
        assert "<style" not in page.text  # default-src 'self' forbids them
        assert "<script>" not in page.text


@pytest.mark.parametrize("path", ["/", "/healthz", "/nothing", "/app.js"])
def test_every_response_has_the_headers_that_keep_scripts_out(gateway: RunningGateway, path: str) -> None:
    with gateway.client(token=None) as http:
        headers = http.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'self'; frame-ancestors 'none'")
    assert headers["x-content-type-options"] == "nosniff"
    assert not [name for name in headers if name.startswith("access-control-")]


def test_health_says_only_that_it_is_alive(gateway: RunningGateway) -> None:
    with gateway.client(token=None) as http:
        assert http.get("/healthz").json() == {"status": "ok"}
        assert http.head("/healthz").content == b""


def test_execute_goes_to_whatever_the_server_was_initialised_with(http: httpx.Client, workspaces: Workspaces) -> None:
    assert http.post("/execute", json={"any": ["thing"]}).json() == {
        "request_result": True,
        "result": {"echo": {"any": ["thing"]}},
    }
    odd: dict[Any, Any] = {"nan": float("nan"), 1: b"\xff", "set": {1}, "alien": Alien(), "large": 10**5000}
    workspaces.answers["odd"] = lambda args: odd
    answer = http.post("/execute", json={"command": "odd"})
    assert answer.status_code == 200
    assert answer.json()["result"]["set"] == [1]


@pytest.mark.parametrize("command", ["push_job", "workspace.push_job"])
def test_execute_asks_for_the_values_of_a_command_as_json(http: httpx.Client, workspaces: Workspaces, command: str) -> None:
    workspaces.answers[command] = dict
    asked = {"command": command, "name": "lab", "job": "1", "type": 1}
    assert http.post("/execute", json=asked).json()["result"] == {**asked, "encoding": "json"}
    own = {**asked, "encoding": "objects"}
    assert http.post("/execute", json=own).json()["result"] == own
    other = {**asked, "colour": "red"}  # of a task set that has a command of that name
    assert http.post("/execute", json=other).json()["result"] == other


def test_a_server_with_other_tasks_answers_a_command_in_the_envelope(http: httpx.Client, workspaces: Workspaces) -> None:
    workspaces.answers["get_status"] = lambda args: {"count": 1}
    assert http.post("/get_status/").json() == {"request_result": True, "result": {"count": 1}}


@pytest.mark.parametrize("path", ["/execute", "/get_status/"])
def test_a_response_that_cannot_be_unpickled_is_an_envelope_that_says_so(
    http: httpx.Client, workspaces: Workspaces, path: str
) -> None:
    workspaces.answers["get_status"] = lambda args: {"value": Unloadable()}
    answer = http.post(path, json={"command": "get_status"})
    assert answer.status_code == 200
    envelope = answer.json()
    assert envelope["request_result"] is False
    assert envelope["executed"] is True
    assert "this cannot be unpickled" in envelope["result"]


def test_a_task_that_raises_is_an_envelope_with_its_error(http: httpx.Client, workspaces: Workspaces) -> None:
    def fail(args: dict[str, Any]) -> dict[str, Any]:
        raise LookupError("no such thing")

    workspaces.answers["get_status"] = fail
    answer = http.post("/get_status/", json={"name": "lab"})
    assert answer.status_code == 200
    assert answer.json()["error"]["type"] == "LookupError"
    assert answer.json()["executed"] is True


def test_an_odd_value_in_an_answer_is_never_a_500(http: httpx.Client, workspaces: Workspaces) -> None:
    workspaces.answers["get_variable"] = lambda args: {
        "request_result": True,
        "result": {"nan": float("nan"), "bytes": b"\x00", "surrogate": "\ud800", (1, 2): {1, 2}},
    }
    answer = http.post("/get_variable/", json={"name": "lab"})
    assert answer.status_code == 200
    assert answer.json()["request_result"] is True


def test_a_server_that_is_not_there_is_503_and_comes_back(workspaces: Workspaces) -> None:
    with running_gateway(workspaces) as gateway, gateway.client() as http:
        assert http.post("/get_workspace/").status_code == 200
        gateway.served.end()
        for path in ("/get_workspace/", "/execute", "/watch/"):
            answer = http.post(path, json={"name": "lab"} if path == "/watch/" else {})
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["request_result"] is False
            assert answer.json()["executed"] is False
        assert http.get("/healthz").status_code == 200
        assert "bgpy_server_up 0" in http.get("/metrics").text
        with running_server(tasks(workspaces.run), token=TOKEN, port=gateway.served.port):
            assert http.post("/get_workspace/").status_code == 200


def test_a_server_that_does_not_answer_in_time_is_504(workspaces: Workspaces) -> None:
    workspaces.answers["get_status"] = workspaces.wait_at_the_gate
    # Long enough to reach the server on a busy machine: who did not get that far is told 503.
    with running_gateway(workspaces, limits=Limits(request_timeout=1)) as gateway, gateway.client() as http:
        answer = http.post("/get_status/", json={"name": "lab"})
        assert answer.status_code == 504
        assert answer.json()["executed"] is None


def test_a_request_is_given_the_time_that_it_says(workspaces: Workspaces) -> None:
    assert own_wait({"timeout": 5}) == 5.0
    assert own_wait({}) == 0.0
    for odd in ("5", True, None, -3, float("inf"), float("nan"), [1]):
        assert own_wait({"timeout": odd}) == 0.0


def test_a_client_that_leaves_is_not_waited_for(
    gateway: RunningGateway, workspaces: Workspaces, caplog: pytest.LogCaptureFixture
) -> None:
    workspaces.answers["get_status"] = workspaces.wait_at_the_gate
    with gateway.client() as http, pytest.raises(httpx.ReadTimeout):
        http.post("/get_status/", json={"name": "lab"}, timeout=0.2)
    assert workspaces.begun.acquire(timeout=20)
    wait_until(lambda: not gateway.server.app._tasks)  # it has given up, though the server has not answered
    assert not workspaces.open.is_set()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_metrics_count_what_came_and_what_the_server_says(http: httpx.Client, workspaces: Workspaces) -> None:
    workspaces.answers["get_metrics"] = lambda args: {
        "request_result": True,
        "result": {"workspaces": 2, "jobs": {"running": 1, "queued": 4}},
    }
    http.post("/get_workspace/")
    http.post("/get_workspace")
    http.post("/nothing/at/all")
    page = http.get("/metrics")
    assert page.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'requests_total{route="/get_workspace",method="POST",status="200"} 2' in page.text
    assert 'requests_total{route="other",method="POST",status="404"} 1' in page.text
    assert "nothing" not in page.text
    assert "\nbgpy_workspaces 2\n" in page.text
    assert '\nbgpy_jobs{state="queued"} 4\n' in page.text


def test_log_in_gives_a_cookie_that_opens_what_the_token_opens(gateway: RunningGateway) -> None:
    origin = {"origin": gateway.url.rstrip("/")}
    with gateway.client(token=None) as http:
        assert http.post("/login", json={"token": "wrong"}).status_code == 401
        assert http.post("/login", content=rb'{"token": "\ud800"}').status_code == 401
        assert http.post("/login", json={"token": 5}).status_code == 400
        assert http.post("/login", json={}).status_code == 400
        assert http.post("/login", json={"token": TOKEN}, headers={"origin": "http://evil.example"}).status_code == 403
        assert not http.cookies
        answer = http.post("/login", json={"token": TOKEN}, headers=origin)
        assert answer.json() == {"request_result": True, "result": True}
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"bgpy-{gateway.port}=1.")
        assert cookie.endswith("; Max-Age=43200; Path=/; HttpOnly; SameSite=Strict")
        assert TOKEN not in cookie
        assert http.post("/get_workspace/", json={}, headers=origin).status_code == 200
        assert http.post("/get_workspace/", json={}).status_code == 403
        assert http.get("/metrics").status_code == 200
        assert "Max-Age=0" in http.post("/logout", headers=origin).headers["set-cookie"]
        assert not http.cookies
        assert http.get("/metrics").status_code == 401


def test_who_is_not_logged_in_may_send_little(gateway: RunningGateway) -> None:
    body = json.dumps({"token": "x" * Limits().max_message_size}).encode()
    with gateway.client(token=None) as http:
        assert http.post("/login", content=body).status_code == 413
        assert http.post("/login", content=iter([body])).status_code == 413
        assert http.post("/login", content=body[:-100] + b'"}').status_code == 401
    with gateway.client() as http:
        assert http.post("/json_test", content=body).status_code == 200


def test_sixteen_connections_at_once_get_their_own_answers(gateway: RunningGateway) -> None:
    async def ask(http: httpx.AsyncClient, name: str) -> bool:
        answers = [await http.post("/get_status/", json={"name": f"{name}-{number}"}) for number in range(5)]
        return [answer.json()["result"]["name"] for answer in answers] == [f"{name}-{number}" for number in range(5)]

    async def ask_all() -> list[bool]:
        async with httpx.AsyncClient(base_url=gateway.url, headers=gateway.client().headers, trust_env=False) as http:
            return await asyncio.gather(*(ask(http, str(number)) for number in range(16)))

    assert all(asyncio.run(ask_all()))
