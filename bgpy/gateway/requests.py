"""
The language of timed requests, spoken at ``/requests``, and the same over HTTP; and the search of modules.

What is answered has the plain shape of Django-websockets: no envelope, and ``{"status": "Error", "message": …}`` for an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from bgpy.errors import BgpyError, RefusedError
from bgpy.gateway.answers import Answer, failure_answer, json_answer, read_failure
from bgpy.gateway.conversation import Conversation, Conversations, Message, Send
from bgpy.gateway.doors import Call, Door
from bgpy.gateway.endpoints import while_connected
from bgpy.gateway.ends import Declined, Ends
from bgpy.gateway.limits import Limits, parse_object, read_body
from bgpy.gateway.upstream import Upstream
from bgpy.gateway.watching import Ending
from bgpy.tasks.requests.commands import GET_REQUESTS, KILL_REQUEST, QUERY_MODULE, START_REQUEST
from bgpy.tasks.schema import Command, check

#: Bytes of a message of who has logged in: there may be a script in it.
MAX_MESSAGE_SIZE = 1 << 20
#: Names and values in a query string.
_MAX_PAIRS = 100

#: What a client says, in the words of Django-websockets; not how long it waits, as a request is answered at its end.
REQUEST = START_REQUEST._replace(name="request", fields=tuple(field for field in START_REQUEST.fields if field.name != "timeout"))
KILL = KILL_REQUEST._replace(name="kill")
STATUS = GET_REQUESTS._replace(name="status")
ROUTES = {"request": REQUEST, "kill": KILL, "status": STATUS}
_UPSTREAM = {"kill": KILL_REQUEST.name, "status": GET_REQUESTS.name}
_SUMMARY = "Timed requests: start, kill and list them, as Django-websockets does."


class _GatewayEnds(Exception):
    """Say that the gateway does not wait any longer."""


class Requests:
    """The doors of timed requests and of the search."""

    def __init__(self, upstream: Upstream, conversations: Conversations, limits: Limits, ending: Ending) -> None:
        self._upstream = upstream
        self._limits = limits
        self._ending = ending
        self._ends = ends = Ends(upstream)
        serve = partial(conversations.serve, partial(RequestLanguage, upstream, ends, limits))
        path = "/requests"
        status, query = partial(self._serve, STATUS), partial(self._serve, QUERY_MODULE)
        self.doors = (
            Door(path, "WEBSOCKET", serve, _SUMMARY, "first-message"),
            Door(f"{path}/request", "POST", partial(self._serve, REQUEST), "Start a request, and answer at its end.",
                 command=REQUEST, answers="status"),
            Door(f"{path}/kill", "POST", partial(self._serve, KILL), KILL.help, command=KILL, answers="status"),
            Door(f"{path}/status", "POST", status, STATUS.help, command=STATUS, answers="status"),
            Door(f"{path}/status", "GET", status, STATUS.help, command=STATUS, answers="status"),
            Door("/query/module", "POST", query, QUERY_MODULE.help, command=QUERY_MODULE, answers="status"),
            Door("/query/module", "GET", query, QUERY_MODULE.help, command=QUERY_MODULE, answers="status"),
        )  # fmt: skip

    async def _serve(self, command: Command, call: Call) -> Answer:
        """Answer one request over HTTP."""
        request: Message = {}
        try:
            request = await self._read(command, call)
            fields = check(command, _without_route(command, request))
            return json_answer(await while_connected(call.receive, self._do(command, fields, request)))
        except _GatewayEnds:
            return json_answer(_error({"result": "The gateway is ending; the request may go on"}, request), 503)
        except BgpyError as failure:
            status, envelope = read_failure(failure)
            answer = failure_answer(failure)  # has the headers that go with the status
            return Answer(status, json_answer(_error(envelope, request)).body, answer.headers)

    async def _read(self, command: Command, call: Call) -> Message:
        body = await read_body(call.receive, call.announced, self._limits)
        if command is QUERY_MODULE and call.scope["method"] != "POST" and not body.strip():
            return _parse_query(call.scope["query_string"])
        return parse_object(body)

    async def _do(self, command: Command, fields: Message, request: Message) -> Message:
        if command is not REQUEST:
            name = _UPSTREAM.get(command.name, command.name)
            return _plain(await self._upstream.execute({**fields, "command": name}), request)
        try:
            return await self._until_end(self._ends.run(fields))
        except Declined as declined:
            return _error(declined.envelope, request)

    async def _until_end(self, work: Awaitable[Message]) -> Message:
        """Wait for a request, but not beyond the gateway's own end."""
        running, ending = asyncio.ensure_future(work), self._ending.future()
        try:
            await asyncio.wait((running, ending), return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                raise _GatewayEnds
            return running.result()
        finally:
            running.cancel()
            ending.cancel()
            await asyncio.gather(running, return_exceptions=True)


class RequestLanguage:
    """
    What is said in one conversation about timed requests.

    Attributes
    ----------
    max_size, logged_in
        As `bgpy.gateway.conversation.Language` has them.
    """

    def __init__(self, upstream: Upstream, ends: Ends, limits: Limits, conversation: Conversation) -> None:
        self.max_size = max(limits.max_message_size, MAX_MESSAGE_SIZE)
        self.logged_in: Message = {"status": "Ok"}
        self._upstream = upstream
        self._ends = ends
        self._conversation = conversation
        self._turn = asyncio.Lock()

    def error(self, envelope: dict[str, Any], request: Message) -> Message:
        """Return the message of an error: the reason, the field at fault, and the connection id."""
        return _error(envelope, request)

    async def handle(self, request: Message, send: Send) -> None:
        """
        Do what a route says, when what was said before is done: who starts a request may kill it with the next message.

        A start is done as soon as the request runs; the answer comes at its end.
        """
        route = request.get("route")
        command = ROUTES.get(route) if isinstance(route, str) else None
        if command is None:
            what = "The message needs the field 'route'" if route is None else f"There is no route {route!r:.100}"
            raise RefusedError(f"{what}; there are {', '.join(ROUTES)}", "route")
        fields = check(command, {name: value for name, value in request.items() if name not in ("route", "id")})
        async with self._turn:
            if command is REQUEST:
                started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._conversation.go_on(request, partial(self._run, fields, request, send, started))
                await started
                return
            response = await self._upstream.execute({**fields, "command": _UPSTREAM[command.name]})
        await send(_plain(response, request))

    async def _run(self, fields: Message, request: Message, send: Send, started: asyncio.Future[None]) -> None:
        """Start a request and answer at its end. There are no more of these than the server lets run."""

        def note_start() -> None:
            if not started.done():
                started.set_result(None)

        try:
            answer = await self._ends.run(fields, note_start)
        except Declined as declined:
            answer = _error(declined.envelope, request)
        finally:
            note_start()
        await send(answer)


def _plain(response: Message, request: Message) -> Message:
    """Return what is in an envelope, as it is."""
    result = response.get("result")
    if response.get("request_result") is False:
        return _error(response, request)
    if not isinstance(result, dict):
        raise RefusedError("The server has not answered as the task set of requests does; was it initialised with that?")
    return result


def _error(envelope: dict[str, Any], request: Message) -> Message:
    about = {name: envelope[name] for name in ("field", "executed") if envelope.get(name, "") not in ("", None)}
    connid = request.get("connid")
    if isinstance(connid, (str, int)) and not isinstance(connid, bool):
        about["connid"] = connid
    return {"status": "Error", "message": envelope["result"], **about}


def _without_route(command: Command, request: Message) -> Message:
    """Return the fields of a request over HTTP, which may say its route, if that is the one of its path."""
    if command.name not in ROUTES or "route" not in request:
        return request
    if request["route"] != command.name:
        raise RefusedError(f"The route of this path is {command.name!r}, not {request['route']!r:.100}", "route")
    return {name: value for name, value in request.items() if name != "route"}


def _parse_query(query: bytes) -> Message:
    """Return the fields of a query string: each ``lib`` is one more library."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_PAIRS)
    except ValueError as error:
        raise RefusedError(f"The query string cannot be read: {error}") from None
    fields: Message = {}
    for name, value in pairs:
        if name == "lib":
            fields.setdefault("lib", []).append(value)
        elif name in fields:
            raise RefusedError(f"The query string has {name!r:.100} twice", name)
        else:
            fields[name] = value
    return fields
