"""
What is behind the doors: decode JSON, send one dict, pass the answer on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, TypeVar

from starlette.types import Receive

from bgpy.encoding import to_json
from bgpy.gateway.answers import Answer, json_answer, refusal, success
from bgpy.gateway.cutting import Cut
from bgpy.gateway.doors import PATH, Call, Door
from bgpy.gateway.entry import Entry
from bgpy.gateway.gate import Rules
from bgpy.gateway.guide import make_guide
from bgpy.gateway.limits import ClientGone, Limits, parse_json, parse_object, read_body
from bgpy.gateway.metrics import CONTENT_TYPE, Metrics, render
from bgpy.gateway.openapi import make_openapi
from bgpy.gateway.pages import Page
from bgpy.gateway.upstream import Upstream
from bgpy.gateway.watching import Watching
from bgpy.tasks.schema import Command

T = TypeVar("T")

_HINT = "This is bgpy. POST / answers the API guide, /openapi.json describes it for programs.\n"
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
        self._encoding = {command.name: command for command in commands if takes_encoding(command)}
        page = Page(_HINT)
        self.doors: tuple[Door, ...] = (
            Door("/", "POST", self._guide, "API guide", result="API guide"),
            Door("/", "GET", page.root, "The page, or a hint for programs.", "page", answers="text/html text/plain"),
            Door("/json_test", "POST", self._reflect, "Json reflector", request="Input json", result="Input json"),
            *(door for command in commands for door in self._command_doors(command)),
            Door(
                "/execute", "POST", self._execute, "Send a dict to whatever the server was initialised with.",
                request="Any json object", result="The response as json",
            ),
            *Entry(secret, limits).doors,
            Door("/openapi.json", "GET", self._openapi, "This description.", answers="json"),
            Door("/metrics", "GET", self._show_metrics, "Counters, as Prometheus reads them.", answers="text/plain"),
        )  # fmt: skip
        self._described = (*self.doors, *others)
        self._guide_text = make_guide(door for door in self._described if not door.answers.startswith("model"))
        # Behind the description: they are for browsers only, which are told by the page itself.
        self.doors += page.assets()

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
        message = self._for_json(parse_object(await self._body(call)))
        response = await while_connected(call.receive, self._upstream.execute(message))
        # In a thread: what a task set of the user's answers may be large, and none of it is JSON yet.
        return success(await asyncio.to_thread(to_json, response))

    def _for_json(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a message of `execute`; where it is a command's, its values come as JSON unless it says how."""
        name = message.get("command")
        command = self._encoding.get(name.rpartition(".")[2]) if isinstance(name, str) else None
        if command is None or not message.keys() <= {"command", *(field.name for field in command.fields)}:
            return message
        return {"encoding": "json", **message}

    async def _reflect(self, call: Call) -> Answer:
        body = await self._body(call)
        return success(parse_json(body) if body.strip() else {})

    async def _guide(self, call: Call) -> Answer:
        parse_object(await self._body(call))
        return success(self._guide_text)

    async def _openapi(self, call: Call) -> Answer:
        return json_answer(make_openapi(self._described, call.scope.get("root_path", "")))

    async def _show_metrics(self, call: Call) -> Answer:
        return metrics_answer(render([await self._upstream.view(self._metrics)]))


def metrics_answer(text: str) -> Answer:
    """Return the page for Prometheus."""
    return Answer(200, text.encode("utf-8"), [(b"content-type", CONTENT_TYPE.encode("ascii"))])


async def not_found(scope: Any, receive: Any, send: Any) -> None:
    """Answer for a path that there is not."""
    await refusal(404, f"There is no {scope[PATH]:.100}; POST / tells what there is")(scope, receive, send)


def command_message(command: Command, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the message of a command; its values are to come as JSON, made where they live."""
    message = {**fields, "command": command.name}
    if takes_encoding(command):
        message["encoding"] = "json"
    return message


def takes_encoding(command: Command) -> bool:
    """Return whether a command is told how the values of its answer come."""
    return any(field.name == "encoding" for field in command.fields)


def as_envelope(response: dict[str, Any]) -> dict[str, Any]:
    """Return a response as it is where it is an envelope; else, of a server with other tasks, in one."""
    if isinstance(response.get("request_result"), bool) and "result" in response:
        return response
    return {"request_result": True, "result": response}


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """Wait for a request's answer; raises ClientGone as soon as its client has gone: the request may still run."""
    loop = asyncio.get_running_loop()
    listeners: list[asyncio.Task[None]] = []
    with Cut() as cut:
        # Most answers are there sooner, and pay for no listener.
        timer = loop.call_later(_PATIENCE, lambda: listeners.append(loop.create_task(_listen(receive, cut))))
        try:
            return await work
        finally:
            timer.cancel()
            for listener in listeners:
                listener.cancel()
    raise ClientGone


async def _listen(receive: Receive, cut: Cut) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    cut.make()
