"""
What is behind the doors: decode JSON, send one dict, pass the answer on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from functools import partial
from importlib import resources
from typing import Any, TypeVar

import anyio
from starlette.types import Receive

from bgpy.encoding import to_json
from bgpy.errors import BgpyError
from bgpy.gateway.answers import Answer, json_answer, refusal, success
from bgpy.gateway.cookie import make_cookie, set_cookie
from bgpy.gateway.doors import PATH, Call, Door
from bgpy.gateway.gate import Allow, Rules, is_token, judge
from bgpy.gateway.guide import make_guide
from bgpy.gateway.limits import ClientGone, Limits, parse_json, parse_object, read_body
from bgpy.gateway.metrics import CONTENT_TYPE, Metrics
from bgpy.gateway.openapi import make_openapi
from bgpy.gateway.pages import INDEX, INDEX_KIND, find_files
from bgpy.gateway.upstream import OWN_TIMEOUT, Upstream
from bgpy.gateway.watching import Watching
from bgpy.tasks.schema import Command

T = TypeVar("T")

_HINT = "This is bgpy. POST / answers the API guide, /openapi.json describes it for programs.\n"
#: Bytes of a body of somebody who is not logged in.
_MAX_OPEN_BODY = 64 << 10
#: Seconds after which the gateway begins to look whether somebody still waits.
_PATIENCE = 1.0


class Endpoints:
    """
    The endpoints of one app.

    Parameters
    ----------
    watching
        What streams.
    secret
        The token, the key of the cookie, and what else the gate goes by; nothing is open in these.
    others
        Doors that are not the endpoints' own, for the guide and the description; what is below a dialect has no guide.
    """

    def __init__(
        self,
        upstream: Upstream,
        watching: Watching,
        metrics: Metrics,
        limits: Limits,
        commands: Sequence[Command],
        secret: Rules,
        others: Sequence[Door] = (),
    ) -> None:
        self._upstream = upstream
        self._watching = watching
        self._metrics = metrics
        self._limits = limits
        self._secret = secret
        self._page = resources.files("bgpy.gateway").joinpath("page")
        self.doors: tuple[Door, ...] = (
            Door("/", "POST", self._guide, "API guide", result="API guide"),
            Door(
                "/", "GET", self._root, "The page, or a hint for programs.", "page", answers="text/html text/plain",
            ),
            Door("/json_test", "POST", self._reflect, "Json reflector", request="Input json", result="Input json"),
            *(door for command in commands for door in self._command_doors(command)),
            Door(
                "/execute", "POST", self._execute, "Send a dict to whatever the server was initialised with.",
                request="Any json object", result="The response as json",
            ),
            Door("/login", "POST", self._log_in, "Get the cookie of the page for the token.", "open",
                 request={"token": "The token of the server(Necessary field)"}, result="true"),
            Door("/login", "GET", self._tell_login, "Tell whether the request shows a token or cookie that is right.", "open"),
            Door("/logout", "POST", self._log_out, "Take the cookie back.", result="true"),
            Door("/openapi.json", "GET", self._openapi, "This description.", answers="json"),
            Door("/metrics", "GET", self._show_metrics, "Counters, as Prometheus reads them.", answers="text/plain"),
            Door("/healthz", "GET", self._health, "Whether the gateway is alive.", "open", answers="json"),
        )  # fmt: skip
        self._described = (*self.doors, *others)
        self._guide_text = make_guide(door for door in self._described if not door.answers.startswith("model"))
        # Behind the description: they are for browsers only, which are told by the page itself.
        self.doors += tuple(
            Door(f"/{name}", "GET", partial(self._asset, name, kind), f"Of the page: {name}.", "open", answers=kind)
            for name, kind in find_files(self._page)
        )

    def _command_doors(self, command: Command) -> tuple[Door, ...]:
        path = f"/{command.name}"
        if not command.stream:
            return (Door(path, "POST", partial(self._pass_on, command), command.help, command=command),)
        return (
            Door(path, "POST", partial(self._watching.serve_events, command), command.help, command=command,
                 answers="text/event-stream"),
            Door(path, "WEBSOCKET", partial(self._watching.serve_socket, command), command.help, command=command),
        )  # fmt: skip

    async def _body(self, call: Call) -> bytes:
        return await read_body(call.receive, call.announced, self._limits)

    async def _pass_on(self, command: Command, call: Call) -> Answer:
        message = command_message(command, parse_object(await self._body(call)))
        response = await while_connected(call.receive, self._upstream.execute(message))
        return json_answer(as_envelope(response))

    async def _execute(self, call: Call) -> Answer:
        message = parse_object(await self._body(call))
        response = await while_connected(call.receive, self._upstream.execute(message))
        # In a thread: what a task set of the user's answers may be large, and none of it is JSON yet.
        return success(await asyncio.to_thread(to_json, response))

    async def _reflect(self, call: Call) -> Answer:
        body = await self._body(call)
        return success(parse_json(body) if body.strip() else {})

    async def _guide(self, call: Call) -> Answer:
        parse_object(await self._body(call))
        return success(self._guide_text)

    async def _root(self, call: Call) -> Answer:
        if not call.facts.wants_page:
            return Answer(200, _HINT.encode("ascii"), [(b"content-type", b"text/plain; charset=utf-8")])
        path: str = call.scope["path"]
        if not path.endswith("/"):  # mounted: the page's own addresses are relative to the slash
            return Answer(307, b"", [(b"location", f"{path.rpartition('/')[2]}/".encode())])
        return await self._asset(INDEX, INDEX_KIND, call)

    async def _asset(self, name: str, kind: str, call: Call) -> Answer:
        return Answer(200, self._page.joinpath(name).read_bytes(), [(b"content-type", kind.encode("ascii"))])

    async def _log_in(self, call: Call) -> Answer:
        limits = self._limits._replace(max_body_size=min(self._limits.max_body_size, _MAX_OPEN_BODY))
        fields = parse_object(await read_body(call.receive, call.announced, limits))
        token = fields.get("token")
        if not self._secret.token:
            return success(True)
        if not isinstance(token, str):
            return refusal(400, "login needs the field 'token', a text", field="token")
        if not is_token(token, self._secret.token):
            return refusal(401, "The token is wrong")
        name = call.facts.cookie_name
        value = make_cookie(self._secret.cookie_key, name, time.time())
        header = set_cookie(name, value, secure=call.facts.scheme == "https")
        return json_answer({"request_result": True, "result": True}, headers={"set-cookie": header})

    async def _tell_login(self, call: Call) -> Answer:
        # The page asks before it asks for anything else: a refusal would be an error in the browser's console.
        return success(isinstance(judge(call.facts, self._secret, time.time()), Allow))

    async def _log_out(self, call: Call) -> Answer:
        header = set_cookie(call.facts.cookie_name, "", secure=call.facts.scheme == "https")
        return json_answer({"request_result": True, "result": True}, headers={"set-cookie": header})

    async def _openapi(self, call: Call) -> Answer:
        return json_answer(make_openapi(self._described, call.scope.get("root_path", "")))

    async def _health(self, call: Call) -> Answer:
        return json_answer({"status": "ok"})

    async def _show_metrics(self, call: Call) -> Answer:
        server, up = None, True
        try:
            response = await self._upstream.execute({"command": "get_metrics"}, OWN_TIMEOUT)
            server = response.get("result") if response.get("request_result") is True else None
        except BgpyError as error:
            up = error.executed is True  # it has answered, though it knows no such command
        text = self._metrics.render(self._upstream.watchers, server if isinstance(server, dict) else None, up=up)
        return Answer(200, text.encode("utf-8"), [(b"content-type", CONTENT_TYPE.encode("ascii"))])


async def not_found(scope: Any, receive: Any, send: Any) -> None:
    """Answer for a path that there is not."""
    await refusal(404, f"There is no {scope[PATH]:.100}; POST / tells what there is")(scope, receive, send)


def command_message(command: Command, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the message of a command; its values are to come as JSON, made where they live."""
    message = {**fields, "command": command.name}
    if any(field.name == "encoding" for field in command.fields):
        message["encoding"] = "json"
    return message


def as_envelope(response: dict[str, Any]) -> dict[str, Any]:
    """Return a response as it is where it is an envelope; else, of a server with other tasks, in one."""
    if isinstance(response.get("request_result"), bool) and "result" in response:
        return response
    return {"request_result": True, "result": response}


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """Wait for a request's answer; raises ClientGone as soon as its client has gone: the request may still run."""
    loop = asyncio.get_running_loop()
    listeners: list[asyncio.Task[None]] = []
    with anyio.CancelScope() as scope:
        # Most answers are there sooner, and pay for no listener.
        timer = loop.call_later(_PATIENCE, lambda: listeners.append(loop.create_task(_listen(receive, scope))))
        try:
            return await work
        finally:
            timer.cancel()
            for listener in listeners:
                listener.cancel()
    raise ClientGone


async def _listen(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
