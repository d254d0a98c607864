"""Several servers behind one gateway: each at its own path, one log-in, and none of them falls with another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from support.gateways import BEARER, HOST, TOKEN, InMemory, RunningGateway, Workspaces
from support.servers import running_server, tasks
from support.talking import ask, closing, log_in, receive, stranger, talk

from bgpy.errors import ServerStartError
from bgpy.gateway import Limits, ServerPlace, Servers, Settings, create_app, create_servers_app
from bgpy.gateway.servers import FIND_TIMEOUT
from bgpy.gateway.settings import check_settings
from bgpy.tasks.requests import requests_tasks

OTHER = "another token of more than 22 characters"
LINE = re.compile(r'(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{([a-z]+="([^"\\\n]|\\.)*",?)+\})? -?[0-9.e+-]+)')
#: A server that is not there.
GONE = ServerPlace(port=1)


class Both(NamedTuple):
    """Two servers with scripted workspaces, the second one with a token of its own, and one that is not there."""

    gateway: RunningGateway
    first: Workspaces
    second: Workspaces


def own_name(workspaces: Workspaces, name: str) -> None:
    """Let a server say which one it is, and have no models."""
    workspaces.answers["describe"] = lambda args: {"request_result": False, "result": "it has none", "field": "name"}
    workspaces.answers["get_workspace"] = lambda args: {"request_result": True, "result": [name]}
    workspaces.answers["get_metrics"] = lambda args: {"request_result": True, "result": {"workspaces": 1, "jobs": {"done": 2}}}


@contextlib.contextmanager
def several(**settings: Any) -> Iterator[Both]:
    first, second = Workspaces(), Workspaces()
    own_name(first, "of the first")
    own_name(second, "of the second")
    with (
        running_server(tasks(first.run), token=TOKEN) as one,
        running_server(tasks(second.run), token=OTHER) as two,
        running_server(requests_tasks(), token=TOKEN) as three,
    ):
        places = {"a": ServerPlace(port=one.port), "b-2": ServerPlace(port=two.port, token=OTHER)}
        servers = {**places, "timed": ServerPlace(port=three.port), "gone": GONE}
        gateway = RunningGateway(one, **{"servers": servers, **settings})
        try:
            yield Both(gateway, first, second)
        finally:
            for workspaces in (first, second):
                workspaces.open.set()
                workspaces.events.put(None)
            gateway.end()


@pytest.fixture
def both() -> Iterator[Both]:
    with several() as both:
        yield both


@pytest.fixture
def http(both: Both) -> Iterator[httpx.Client]:
    with both.gateway.client() as client:
        yield client


def test_each_server_is_a_whole_gateway_at_its_own_path(both: Both, http: httpx.Client) -> None:
    assert http.post("/servers/a/get_workspace").json() == {"request_result": True, "result": ["of the first"]}
    assert http.post("/servers/b-2/get_workspace/").json() == {"request_result": True, "result": ["of the second"]}
    assert http.post("/servers/b-2").json()["result"].keys() == http.post("/servers/a/").json()["result"].keys()
    assert http.get("/servers/b-2/openapi.json").json()["servers"] == [{"url": "/servers/b-2"}]
    assert http.get("/servers/a/healthz").json() == {"status": "ok"}
    with talk(both.gateway, "servers/b-2/watch") as socket:
        assert ask(socket, name="lab")["result"]["event"] == "begun"
    assert (both.first.watched.is_set(), both.second.watched.is_set()) == (False, True)
    both.second.events.put(None)
    with stranger(both.gateway, "servers/timed/requests") as socket:
        assert log_in(socket) == {"status": "Ok"}
        assert ask(socket, route="status") == {}


def test_one_log_in_is_for_all(both: Both) -> None:
    origin = {"origin": both.gateway.url.rstrip("/")}
    with both.gateway.client(token=None) as http:
        assert http.post("/login", json={"token": TOKEN}, headers=origin).json()["result"] is True
        for path in ("/servers", "/servers/a/get_workspace", "/servers/b-2/get_workspace"):
            assert http.post(path, headers=origin).status_code == 200, path
        assert http.get("/servers/b-2/login").json()["result"] is True
        assert http.post("/servers/a/logout", headers=origin).json()["result"] is True
        assert http.post("/servers/b-2/get_workspace", headers=origin).status_code == 401


def test_the_token_of_one_server_is_none_of_the_gateway(both: Both) -> None:
    with both.gateway.client(token=OTHER) as http:
        for path in ("/servers", "/servers/b-2/get_workspace", "/servers/b-2/login", "/login"):
            assert http.post(path, json={"token": OTHER}).status_code == 401, path


def test_the_list_says_of_each_server_how_it_is(both: Both, http: httpx.Client) -> None:
    answer = http.get("/servers")
    assert http.post("/servers", json={}).json()["result"][0]["name"] == "a"
    assert TOKEN not in answer.text
    assert OTHER not in answer.text
    first, second, timed, gone = answer.json()["result"]
    port = both.gateway.served.port
    assert (first["name"], first["path"], first["address"]) == ("a", "/servers/a/", f"127.0.0.1:{port}")
    assert (first["alive"], first["workspaces"], first["jobs"]) == (True, 1, {"done": 2})
    assert {"version", "python", "uptime"} < first.keys()
    assert (second["name"], second["alive"]) == ("b-2", True)
    assert (timed["alive"], timed["workspaces"], timed["jobs"]) == (True, None, None)
    assert (gone["alive"], gone.keys()) == (False, {"name", "path", "address", "alive", "reason"})
    assert "Cannot connect to 127.0.0.1:1" in gone["reason"]


def test_a_server_that_is_down_is_so_alone_and_comes_back(both: Both, http: httpx.Client) -> None:
    down = http.post("/servers/gone/get_workspace")
    assert (down.status_code, down.json()["executed"]) == (503, False)
    assert http.get("/servers/gone/v2/health/ready").status_code == 503
    assert http.post("/servers/a/get_workspace").status_code == 200
    assert http.get("/servers/gone/healthz").status_code == 200  # the gateway's own


def test_a_server_that_was_restarted_is_found_by_the_same_gateway() -> None:
    workspaces = Workspaces()
    with running_server(tasks(workspaces.run), token=TOKEN) as served:
        port = served.port
        gateway = RunningGateway(served, servers={"a": ServerPlace(port=port)})
        with contextlib.ExitStack() as stack:
            stack.callback(gateway.end)
            http = stack.enter_context(gateway.client())
            assert http.post("/servers/a/get_status", json={"name": "x"}).status_code == 200
            served.end()
            assert http.get("/servers").json()["result"][0]["alive"] is False
            assert http.post("/servers/a/get_status", json={"name": "x"}).status_code == 503
            with running_server(tasks(workspaces.run), token=TOKEN, port=port):
                assert http.post("/servers/a/get_status", json={"name": "x"}).status_code == 200
                assert http.get("/servers").json()["result"][0]["alive"] is True


def test_the_metrics_of_all_servers_are_one_page_with_their_names(both: Both, http: httpx.Client) -> None:
    http.post("/servers/a/get_workspace")
    text = http.get("/metrics").text
    lines = text.split("\n")
    assert lines.pop() == ""
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    assert len({line for line in lines if line.startswith("# TYPE")}) == text.count("# TYPE")
    assert 'bgpy_gateway_requests_total{server="a",route="/get_workspace",method="POST",status="200"} 1' in lines
    assert {'bgpy_server_up{server="a"} 1', 'bgpy_server_up{server="gone"} 0'} < set(lines)
    assert {'bgpy_workspaces{server="b-2"} 1', 'bgpy_jobs{server="b-2",state="done"} 2'} < set(lines)
    http.get("/nothing")
    own = http.get("/metrics").text
    assert '\nbgpy_gateway_requests_total{route="/metrics",method="GET",status="200"} 1\n' in own
    assert '\nbgpy_gateway_requests_total{route="other",method="GET",status="404"} 1\n' in own
    assert 'server="' not in http.get("/servers/a/metrics").text


def test_a_path_of_no_server_says_where_they_are(both: Both, http: httpx.Client) -> None:
    for path in ("/servers/nope/get_workspace", "/servers//get_workspace", "/get_workspace", "/servers/A", "/servers/a%0A"):
        answer = http.post(path)
        assert (answer.status_code, "GET /servers" in answer.json()["result"]) == (404, True), path
    assert http.post("/metrics").status_code == 405


def test_browsers_get_the_page_of_the_servers_and_programs_a_hint(both: Both, http: httpx.Client) -> None:
    assert "GET /servers" in http.get("/").text
    browser = {"accept": "text/html"}
    with both.gateway.client(token=None) as stranger_http:
        page = stranger_http.get("/", headers=browser)
        assert 'src="servers.js"' in page.text
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert stranger_http.get("/servers.js").headers["content-type"] == "text/javascript; charset=utf-8"
        assert stranger_http.get("/servers", headers=browser).status_code == 401
        assert stranger_http.get("/servers/a", headers=browser).headers["location"] == "a/"
        assert 'src="app.js"' in stranger_http.get("/servers/a/", headers=browser).text


def test_every_file_that_the_page_imports_is_there(both: Both) -> None:
    with both.gateway.client(token=None) as http:
        script, page = http.get("/servers.js").text, http.get("/", headers={"accept": "text/html"}).text
        names = re.findall(r'from "\./([^"]+)"', script) + re.findall(r'(?:src|href)="([a-z]+\.[a-z]+)"', page)
        assert {"api.js", "page.css", "servers.js"} <= set(names)
        assert [name for name in names if http.get(f"/{name}").status_code != 200] == []
        assert "innerHTML" not in script


# Models without the name of their server


def having(*names: str) -> Any:
    """Return what a server with these workspaces says of one."""

    def answer(args: dict[str, Any]) -> dict[str, Any]:
        if args["name"] in names:
            return {"request_result": True, "result": {}}
        return {"request_result": False, "result": "There is none", "error": "WorkspaceNotFoundError"}

    return answer


def test_a_model_is_asked_at_the_one_server_that_has_its_workspace(both: Both, http: httpx.Client) -> None:
    both.first.answers["get_status"] = having("digits", "twice", "a b")
    both.second.answers["get_status"] = having("faces", "twice")
    for workspaces, mine in ((both.first, "first"), (both.second, "second")):
        refused = {"request_result": False, "result": f"the {mine} was asked", "field": "name"}
        workspaces.answers["describe"] = workspaces.answers["infer"] = lambda args, refused=refused: refused  # type: ignore[misc]
    for path, mine in (("digits", "first"), ("faces", "second"), ("a%20b", "first"), ("digits/metadata", "first")):
        assert http.get(f"/v1/models/{path}").json() == {"error": f"the {mine} was asked"}, path
    assert http.get("/v2/models/faces").json() == {"error": "the second was asked"}
    assert http.post("/v1/models/faces:predict", content=b"{}").json() == {"error": "the second was asked"}
    assert http.post("/v2/models/digits/infer", content=b"{}").json() == {"error": "the first was asked"}
    two = http.get("/v2/models/twice/ready")
    assert (two.status_code, "/servers/a and /servers/b-2" in two.json()["error"]) == (409, True)
    none = http.get("/v1/models/nope")  # one that is not there may have it
    assert (none.status_code, "gone did not answer" in none.json()["error"]) == (503, True)
    assert http.get("/v2/models/digits/nothing").status_code == 404
    for path in ("/v1/models", "/v2", "/v2/health/live", "/v2/models/stats", "/v2/repository/index"):
        answer = http.get(path)
        assert (answer.status_code, "/servers/NAME/v" in answer.json()["error"]) == (404, True), path
    for name in ("content-security-policy", "x-content-type-options"):  # though it has passed two gates
        assert len(http.get("/v1/models/digits").headers.get_list(name)) == 1
    counted = http.get("/metrics").text
    assert 'requests_total{route="/v1/models/{name}",method="POST",status="400"} 1\n' in counted
    assert 'requests_total{server="b-2",route="/v1/models/{name}:predict",method="POST",status="400"} 1\n' in counted


def test_a_model_that_several_have_stays_so_while_one_of_them_is_silent() -> None:
    both, one_alone = Workspaces(), Workspaces()
    both.answers["get_status"] = one_alone.answers["get_status"] = having("twice")
    with running_server(tasks(one_alone.run), token=TOKEN) as one:
        with running_server(tasks(both.run), token=TOKEN) as other:
            places = {"a": ServerPlace(port=one.port), "b": ServerPlace(port=other.port)}
            gateway = RunningGateway(one, servers=places)
            answers = []
            with gateway.client() as http:
                answers.append(http.get("/v2/models/twice"))
        try:
            with gateway.client() as http:
                answers += [http.get("/v2/models/twice") for _ in range(2)]
                one_alone.answers["get_status"] = having()
                answers.append(http.get("/v2/models/twice"))
        finally:
            gateway.end()
    assert [answer.status_code for answer in answers] == [409, 409, 409, 503]


def test_a_refusal_in_the_log_says_at_which_server(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "bgpy.gateway")
    with both.gateway.client(None) as http:
        assert [http.get(f"{path}/get_workspace").status_code for path in ("/servers/b-2", "")] == [401, 401]
    paths = [message.split()[2] for message in caplog.messages if message.startswith("Refused")]
    assert paths == ["'/servers/b-2/get_workspace'", "'/get_workspace'"]


def test_a_model_that_no_server_has_is_not_found() -> None:
    workspaces = Workspaces()
    workspaces.answers["get_status"] = having()
    with running_server(tasks(workspaces.run), token=TOKEN) as served, running_server(requests_tasks(), token=TOKEN) as other:
        places = {"a": ServerPlace(port=served.port), "without": ServerPlace(port=other.port)}
        gateway = RunningGateway(served, servers=places)
        try:
            with gateway.client() as http:
                answer = http.get("/v2/models/nope")
                assert (answer.status_code, answer.json()) == (404, {"error": "No server has a workspace 'nope'"})
        finally:
            gateway.end()


def test_a_server_that_says_nothing_holds_up_no_model_of_another_one_for_long() -> None:
    workspaces = Workspaces()
    workspaces.answers["get_status"] = having("digits")
    workspaces.answers["describe"] = lambda args: {"request_result": False, "result": "it was asked", "field": "name"}
    with running_server(tasks(workspaces.run), token=TOKEN) as served, socket.create_server(("127.0.0.1", 0)) as silent:
        servers = {"a": ServerPlace(port=served.port), "silent": ServerPlace(port=silent.getsockname()[1])}
        gateway = RunningGateway(served, servers=servers)
        try:
            with gateway.client() as http:
                began = time.monotonic()
                assert http.get("/v2/models/digits").json() == {"error": "it was asked"}
                assert time.monotonic() - began < 5 * FIND_TIMEOUT
                answer = http.get("/v2/models/nope")
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        finally:
            gateway.end()


def test_where_a_model_is_is_asked_once_in_some_seconds(both: Both, http: httpx.Client) -> None:
    asked: list[str] = []

    def count(args: dict[str, Any]) -> dict[str, Any]:
        asked.append(args["name"])
        return having("digits")(args)  # type: ignore[no-any-return]

    both.first.answers["get_status"] = count
    both.second.answers["get_status"] = having()
    for _ in range(3):
        http.get("/v1/models/digits")
    assert asked == ["digits"]
    for _ in range(2):
        http.get("/v1/models/nope")
    assert asked == ["digits", "nope", "nope"]  # a no is not kept: it may be created the next moment


# The gate


def test_nothing_of_any_server_answers_without_a_login() -> None:
    app = create_servers_app({"a": GONE, "b": GONE}, TOKEN)
    asking = InMemory(app)
    own = {door.path for door in app.doors if not door.summary.startswith("Of the page")}
    theirs = {door.path for door in create_app(token=TOKEN).doors if not door.summary.startswith("Of the page")}
    paths = own | {f"/servers/{name}{path}" for name in ("a", "b", "c") for path in theirs} | {"/servers/a", "/servers/c", "/x"}
    open_paths = {f"{root}{path}" for root in ("", "/servers/a", "/servers/b") for path in ("/healthz", "/login")}
    assert len(paths) > 100

    async def walk() -> list[Any]:
        wrong: list[Any] = []
        for path in paths:
            for method in ("GET", "POST", "PUT"):
                status = (await asking.http(method, path, {"authorization": "Bearer wrong"}))[0]
                if status != 401 and not (path in open_paths and method != "PUT"):
                    wrong.append((method, path, status))
            sent = await asking.upgrade(path, {"authorization": "Bearer wrong"})
            if sent[0].get("status") != 401:
                wrong.append((path, sent))
            for foreign in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
                status = (await asking.http("POST", path, {"host": HOST, **BEARER, **foreign}))[0]
                if status != 403:
                    wrong.append((path, foreign, status))
        return wrong

    assert asyncio.run(walk()) == []


def test_it_works_mounted_where_no_lifespan_is_told(both: Both) -> None:
    port = both.gateway.served.port

    async def go() -> None:
        app = create_servers_app({"a": ServerPlace(port=port)}, TOKEN)
        outer = InMemory(Starlette(routes=[Mount("/lab", app)]))
        status, _, body = await outer.http("POST", "/lab/servers/a/get_workspace", BEARER)
        assert (status, json.loads(body)["result"]) == (200, ["of the first"])
        assert json.loads((await outer.http("GET", "/lab/servers", BEARER))[2])["result"][0]["alive"] is True
        described = json.loads((await outer.http("GET", "/lab/servers/a/openapi.json", BEARER))[2])
        assert described["servers"] == [{"url": "/lab/servers/a"}]
        assert (await outer.http("POST", "/lab/servers/a/get_workspace"))[0] == 401
        await app.close()

    asyncio.run(go())


def test_the_end_closes_the_streams_of_all_servers() -> None:
    with several() as both, talk(both.gateway, "servers/a/watch") as one, talk(both.gateway, "servers/b-2/watch") as two:
        for socket in (one, two):
            assert ask(socket, name="lab")["result"]["event"] == "begun"
        both.gateway.server.stop()
        assert [closing(socket)[0] for socket in (one, two)] == [1001, 1001]


def test_the_limits_are_those_of_each_server() -> None:
    with several(limits=Limits(max_watchers=1, max_body_size=100)) as both, contextlib.ExitStack() as stack:
        http = stack.enter_context(both.gateway.client())
        for path in ("/servers/a/json_test", "/servers/b-2/json_test", "/servers"):
            assert http.post(path, json="x" * 100).status_code == 413, path
        sockets = {}
        for name in ("a", "b-2"):
            sockets[name] = stack.enter_context(talk(both.gateway, f"servers/{name}/watch"))
            assert ask(sockets[name], name="lab")["result"]["event"] == "begun"
        with talk(both.gateway, "servers/a/watch") as third:
            third.send('{"name": "lab"}')
            assert "1 watchers are the most" in receive(third)["result"]


# What is refused at once


@pytest.mark.parametrize("name", ["", "a b", "a/b", ".", "..", "ä", "x" * 65])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(ServerStartError, match="cannot name a server"):
        create_servers_app({"good": GONE, name: GONE}, TOKEN)
    with pytest.raises(ServerStartError, match="cannot name a server"):
        check_settings(Settings(token=TOKEN, servers={name: GONE}))


def test_no_server_at_all_is_refused() -> None:
    with pytest.raises(ServerStartError, match="at least one"):
        create_servers_app({}, TOKEN)
    with pytest.raises(ServerStartError, match="at least one"):
        check_settings(Settings(token=TOKEN, servers={}))


def test_the_python_way_is_typed_and_served() -> None:
    app = create_servers_app({"a": ServerPlace("127.0.0.1", 1)}, TOKEN)
    assert isinstance(app, Servers)
    assert app.table.open_pages() == {"/"}
