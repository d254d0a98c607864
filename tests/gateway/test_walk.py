"""Nothing is open by accident: all routes and upgrades, walked without a token, wherever the app is mounted."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any
from unittest.mock import ANY

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from support.commands import ROOT
from support.gateways import BEARER, HOST, TOKEN, InMemory, Workspaces
from support.servers import running_server, tasks

from bgpy.gateway import Limits, create_app
from bgpy.gateway.upstream import Upstream
from bgpy.tasks.tensorflow.commands import COMMANDS

PAGE = ROOT / "bgpy/gateway/page"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "ANY"]
#: What everybody may have: nothing else.
ASSETS = {f"/{file.relative_to(PAGE).as_posix()}" for file in PAGE.rglob("*") if file.is_file() and file.name != "index.html"}
OPEN = {("GET", "/healthz"), ("GET", "/login"), ("POST", "/login")} | {("GET", path) for path in ASSETS}
#: WebSockets that let in who has yet to say the token.
TALKING = {"/requests", "/runtime"}
BAD_LOGINS: list[list[tuple[str, str]]] = [
    [],
    [("authorization", "Bearer")],
    [("authorization", "Bearer wrong")],
    [("authorization", f"Bearer {TOKEN.upper()}")],
    [("cookie", "bgpy-8000=1.9999999999.00.00")],
    [("cookie", f"bgpy-8000={TOKEN}"), ("origin", f"http://{HOST}")],
]


def walked_paths(app: Any) -> list[str]:
    """Return each path of the app, twice, and some that it has not."""
    paths = {re.sub(r"\{\w+\}", "7", door.path) for door in app.doors}
    paths |= {"/metrics/more", "/inner", "/inner/deep", "/nothing", "/v1", "/V1/models/7", "/v2/nothing", "/v1/healthz"}
    return sorted(paths | {f"{path}/" for path in paths if path != "/"} | {f"{path}/x" for path in paths})


def below_a_dialect(path: str) -> bool:
    return re.match("/v[12](/|$)", path, re.IGNORECASE) is not None


def open_by_right(method: str, path: str) -> bool:
    return ("GET" if method == "HEAD" else method, path.rstrip("/")) in OPEN


def may_say_the_token(path: str, login: Sequence[tuple[str, str]]) -> bool:
    return path.rstrip("/") in TALKING and not dict(login).get("authorization", "").startswith("Bearer")


async def plain(request: Any) -> PlainTextResponse:
    return PlainTextResponse("inside")


async def chat(socket: Any) -> None:
    await socket.accept()
    await socket.close()


@pytest.fixture
def app() -> Any:
    """Return an app that has more behind it than the gateway's own doors: mounts, and a WebSocket within."""
    made = create_app(token=TOKEN, port=1)
    inner = [Route("/deep", plain, methods=METHODS[:7]), WebSocketRoute("/chat", chat)]
    made.routes.append(Mount("/inner", routes=inner))
    made.routes.append(Mount("/other", Starlette(routes=[Route("/deep", plain), WebSocketRoute("/chat", chat)])))
    return made


@pytest.mark.parametrize("root_path", ["", "/sub/app"])
@pytest.mark.parametrize("login", BAD_LOGINS)
def test_no_path_and_no_method_answers_without_a_login(app: Any, root_path: str, login: Sequence[tuple[str, str]]) -> None:
    asking = InMemory(app, root_path)

    async def walk() -> list[tuple[str, str, int]]:
        wrong = []
        for path in [*walked_paths(app), "/other/deep"]:
            for method in METHODS:
                status, headers, body = await asking.http(method, path, login)
                if status != 401 and not open_by_right(method, path):
                    wrong.append((method, path, status))
                elif status == 401:
                    refusal = json.loads(body)
                    assert list(refusal) == ["error"] if below_a_dialect(path) else refusal["request_result"] is False
                    assert headers["www-authenticate"] == "Bearer"
        return wrong

    assert asyncio.run(walk()) == []


@pytest.mark.parametrize("login", BAD_LOGINS)
@pytest.mark.parametrize("extensions", [True, False])
def test_no_path_lets_a_websocket_in_without_a_login(app: Any, login: Sequence[tuple[str, str]], extensions: bool) -> None:
    asking = InMemory(app)

    async def walk() -> set[str]:
        said = set()
        for path in [*walked_paths(app), "/inner/chat", "/other/chat"]:
            if may_say_the_token(path, login):
                continue
            for message in await asking.upgrade(path, login, extensions):
                said.add(f"{message['type']} {message.get('status', message.get('code', ''))}")
        return said

    with_answer = {"websocket.http.response.start 401", "websocket.http.response.body "}
    assert asyncio.run(walk()) == (with_answer if extensions else {"websocket.close 1008"})


@pytest.mark.parametrize("login", [login for login in BAD_LOGINS if ("authorization" not in dict(login))])
def test_who_may_say_the_token_gets_nothing_before(app: Any, login: Sequence[tuple[str, str]]) -> None:
    asking = InMemory(app)
    asked = []

    def ask(message: Any, *more: Any) -> Any:
        asked.append(message)
        raise AssertionError("The server was asked")

    app._upstream.execute = app._upstream.stream = ask
    messages = [
        *('{"action": "list"}', '{"route": "status"}', '{"token": "wrong"}', "{}", "nothing", b"\xff"),
        *(json.dumps({"token": TOKEN, "action": "list"}), json.dumps({"token": TOKEN, "route": "status"}), json.dumps([TOKEN])),
    ]

    async def walk() -> int:
        walked = 0
        for path in walked_paths(app):
            if not may_say_the_token(path, login):
                continue
            assert await asking.upgrade(path, login) == [{"type": "websocket.accept", "headers": ANY, "subprotocol": None}]
            for message in messages:
                # What else is said behind it, the token too, is not heard any more.
                said = [message, json.dumps({"token": TOKEN}), message]
                accepted, error, closed = await asking.upgrade(path, login, messages=said)
                assert accepted["type"] == "websocket.accept"
                assert (
                    {"field", "message"} <= json.loads(error["text"]).keys() <= {"field", "message", "type", "action", "status"}
                )
                assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
                walked += 1
        return walked

    assert asyncio.run(walk()) == len(messages) * len(TALKING) * 2  # with a slash at the end, and without
    assert asked == []


def test_what_is_walked_can_be_reached_with_the_token(app: Any) -> None:
    """Else the walk would show nothing."""
    asking = InMemory(app)

    async def walk() -> dict[str, int]:
        found = {path: (await asking.http("GET", path, BEARER))[0] for path in ("/inner/deep", "/other/deep", "/openapi.json")}
        for path in ("/inner/chat", "/other/chat", "/watch", *TALKING):
            found[path] = 200 if (await asking.upgrade(path, BEARER))[0]["type"] == "websocket.accept" else 0
        return found

    assert set(asyncio.run(walk()).values()) == {200}


def test_what_the_gate_judges_and_what_is_routed_are_one_path(app: Any) -> None:
    """The dialects look at the path as it was sent; the gate looks at it decoded, and so do all other routes."""

    async def ask(path: str, raw_path: str, headers: dict[str, str]) -> int:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = InMemory(app)._scope("http", path, headers, "http")
        await app(scope | {"method": "GET", "raw_path": raw_path.encode()}, receive, send)
        return int(sent[0]["status"])

    async def walk() -> None:
        assert await ask("/v2/health/live", "/%76%32/health/live", {}) == 401
        assert await ask("/v2/health/live", "/v2/health/live", BEARER) == 200
        assert await ask("/v2/health/live", "/v2/health%2Flive", BEARER) == 404
        assert await ask("/healthz", "/%68ealthz", {}) == 200
        # What no server sends: the gate's word still holds.
        assert await ask("/v2/models/healthz", "/healthz", {}) == 401
        assert await ask("/healthz", "/v2%2Fmodels/half", {}) == 200

    asyncio.run(walk())


def test_the_open_doors_are_those_of_the_list(app: Any) -> None:
    assert app.table.open_paths() == OPEN
    assert app.table.open_pages() == {"/"}
    assert app.table.talking_paths() == TALKING


def test_a_scope_of_an_unknown_kind_is_not_let_in(app: Any) -> None:
    with pytest.raises(ValueError, match="takes no ASGI scope"):
        asyncio.run(app({"type": "webtransport", "path": "/"}, None, None))


@pytest.mark.parametrize(
    "path",
    [
        *("/healthz/../push_job", "/healthz/%2e%2e/push_job", "/app.js/../metrics", "//healthz", "/healthz//"),
        *("/v2/../healthz", "/v1/models/%2Fhealthz", "/v2%2F..%2Fhealthz"),
    ],
)
def test_a_path_that_only_looks_open_is_not(app: Any, path: str) -> None:
    assert asyncio.run(InMemory(app).http("GET", path))[0] == 401


def test_a_refused_path_cannot_write_to_the_terminal_through_the_log(app: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Any page of a browser can ask for a path, and the log of ``bgpy serve`` is on a terminal."""
    caplog.set_level("INFO", "bgpy.gateway")
    path = "/\x1b]0;owned\x07\r\n2026-01-01 INFO all is well\x9b" + "x" * 1000
    assert asyncio.run(InMemory(app).http("GET", path))[0] == 401
    (message,) = caplog.messages
    assert message.isprintable()
    assert "owned" in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("root_path", "path"), [("/healthz", "/push_job"), ("/sub", "/push_job"), ("/push_job", ""), ("/", "/metrics")]
)
def test_where_the_app_is_mounted_opens_nothing(app: Any, root_path: str, path: str) -> None:
    assert asyncio.run(InMemory(app, root_path).http("GET", path))[0] == 401


def test_the_app_works_mounted_where_no_lifespan_is_told() -> None:
    workspaces = Workspaces()
    with running_server(tasks(workspaces.run), token=TOKEN) as served:

        async def ask() -> None:
            app = create_app(port=served.port, token=TOKEN)
            outer = InMemory(Starlette(routes=[Mount("/lab", app), Route("/", plain)]))
            status, _, body = await outer.http("POST", "/lab/get_status/", BEARER, b'{"name": "a"}')
            assert (status, json.loads(body)) == (200, {"request_result": True, "result": {"name": "a"}})
            assert (await outer.http("POST", "/lab/get_status/"))[0] == 401
            assert (await outer.http("GET", "/lab/healthz"))[0] == 200
            status, headers, _ = await InMemory(app, "/lab").http("GET", "", {"accept": "text/html"})
            assert (status, headers.get("location")) == (307, "lab/")
            assert (await outer.http("GET", "/lab/", {"accept": "text/html"}))[0] == 200
            described = json.loads((await outer.http("GET", "/lab/openapi.json", BEARER))[2])
            assert described["servers"] == [{"url": "/lab"}]
            await app.close()

        asyncio.run(ask())


def test_an_event_loop_that_ended_without_a_word_takes_its_connections_along() -> None:
    made = []

    class Client:
        async def execute(self, message: dict[str, Any], **options: Any) -> dict[str, Any]:
            return message

    def make_client(connections: int) -> Any:
        made.append(connections)
        return Client()

    upstream = Upstream(make_client, Limits(max_requests=2, max_waits=4, max_watchers=3))
    for _ in range(2):
        assert asyncio.run(upstream.execute({"a": 1})) == {"a": 1}
    assert made == [2, 4, 3, 2, 4, 3]


def test_the_app_serves_one_event_loop_after_the_other() -> None:
    workspaces = Workspaces()
    with running_server(tasks(workspaces.run), token=TOKEN) as served:
        app = create_app(port=served.port, token=TOKEN)

        async def ask() -> int:
            try:
                return (await InMemory(app).http("POST", "/get_workspace", BEARER))[0]
            finally:
                await app.close()

        assert [asyncio.run(ask()) for _ in range(3)] == [200, 200, 200]


def test_the_end_of_the_lifespan_closes_the_connections() -> None:
    workspaces = Workspaces()
    with running_server(tasks(workspaces.run), token=TOKEN) as served:

        async def live() -> list[str]:
            app = create_app(port=served.port, token=TOKEN)
            told: list[str] = []
            asked: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

            async def send(message: Any) -> None:
                told.append(message["type"])
                if message["type"] == "lifespan.startup.complete":
                    assert (await InMemory(app).http("POST", "/get_workspace", BEARER))[0] == 200
                    asked.put_nowait({"type": "lifespan.shutdown"})

            asked.put_nowait({"type": "lifespan.startup"})
            await app({"type": "lifespan", "asgi": {"version": "3.0"}}, asked.get, send)
            assert app._upstream._made is None
            return told

        assert asyncio.run(live()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_no_two_doors_are_the_same() -> None:
    with pytest.raises(ValueError, match="POST /create is there twice"):
        create_app(token=TOKEN, commands=[*COMMANDS, COMMANDS[0]])
