"""
The language of runs, spoken at ``/runtime``: the actions of the Runtime server, each of which is a command of the task set.

What the server answers is the message already. A connection hears of the runs that it has started and of those that it has
subscribed to, each once, from one stream of the server's each; while the client takes no more, nothing is read from those either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from bgpy.errors import BgpyError, OverloadedError, RefusedError
from bgpy.gateway.answers import failure_envelope
from bgpy.gateway.conversation import Conversation, Conversations, Message, Send
from bgpy.gateway.doors import Door
from bgpy.gateway.limits import Limits
from bgpy.gateway.upstream import Upstream, own_wait
from bgpy.tasks.schema import Command, check

#: Of a run that there is not; it cannot be subscribed to.
_NOT_FOUND = "Session not found"
#: What a stream says where a run says nothing; a WebSocket has other ways to learn whether its client is there.
_ALIVE = "[status]:STATUS"
#: Requests of one conversation that wait at the server at once, and those that are to: one more is refused.
MAX_WAITS = 8
MAX_WAITING = 32
#: Characters of an action that an error repeats.
_MAX_ACTION = 100
_ABOUT = ("field", "error", "traceback", "executed")


class Runtime:
    """
    The door of runs.

    Parameters
    ----------
    actions
        The commands, by what the Runtime server calls them; "run", "status" and "subscribe" among them.
    """

    def __init__(self, upstream: Upstream, conversations: Conversations, limits: Limits, actions: Mapping[str, Command]) -> None:
        serve = partial(conversations.serve, partial(RunLanguage, upstream, limits, actions))
        summary = "Runs, their placeholders and their models: the Runtime server's messages."
        self.doors = (Door("/runtime", "WEBSOCKET", serve, summary, "first-message"),)


class RunLanguage:
    """
    What is said in one conversation about runs. See `Runtime` for the parameters.

    Attributes
    ----------
    max_size, logged_in
        As `bgpy.gateway.conversation.Language` has them.
    """

    def __init__(self, upstream: Upstream, limits: Limits, actions: Mapping[str, Command], conversation: Conversation) -> None:
        self.max_size = limits.max_upload_size
        self.logged_in: Message = {"type": "[status]:LOGGED_IN"}
        self._upstream = upstream
        self._actions = actions
        self._conversation = conversation
        self._subscribed: set[str] = set()
        self._waits = asyncio.Semaphore(MAX_WAITS)
        self._waiting = 0

    def error(self, envelope: dict[str, Any], request: Message) -> Message:
        """Return the message of an error: the reason, the action, and which run and which field it is about."""
        about = {name: envelope[name] for name in _ABOUT if envelope.get(name, "") not in ("", None)}
        session = _session(request)
        if session is not None:
            about["sessionId"] = session
        action = request.get("action")
        shown = action[:_MAX_ACTION] if isinstance(action, str) else None
        return {"type": "[error]", "message": envelope["result"], "action": shown, **about}

    async def handle(self, request: Message, send: Send) -> None:
        """Do what an action says; whoever starts a run hears of it from then on."""
        name = request.get("action")
        command = self._actions.get(name) if isinstance(name, str) else None
        if name is None or command is None:
            what = "The message needs the field 'action'" if name is None else f"There is no action {name!r:.100}"
            raise RefusedError(f"{what}; there are {', '.join(self._actions)}", "action")
        said = {key: value for key, value in request.items() if key not in ("action", "id")}
        fields = check(command._replace(name=name), said)  # here, so that what is wrong is said in the client's words
        if command.stream:
            await self._subscribe(fields, request, send)
        elif own_wait(fields):
            self._wait(command, fields, request, send)
        else:
            started = await self._ask(command, fields, request, send)
            if name == "run" and started is not None:
                self._follow(started["sessionId"], started.get("number", 0))

    def _wait(self, command: Command, fields: Message, request: Message, send: Send) -> None:
        """Let the server wait, beside the requests under way: a ``stop`` is read however much waits."""
        if self._waiting >= MAX_WAITING:
            raise OverloadedError(f"{self._waiting} requests of this connection wait already, which are the most")
        self._waiting += 1
        self._conversation.go_on(request, partial(self._ask_and_wait, command, fields, request, send))

    async def _ask_and_wait(self, command: Command, fields: Message, request: Message, send: Send) -> None:
        try:
            async with self._waits:
                await self._ask(command, fields, request, send)
        finally:
            self._waiting -= 1

    async def _subscribe(self, fields: Message, request: Message, send: Send) -> None:
        """Answer with how the run is, and let what it tells follow."""
        session = str(fields["sessionId"])
        answer = await self._ask(self._actions["status"], {"sessionId": session}, request, send)
        if answer is not None and answer.get("status") != _NOT_FOUND:
            self._follow(session, fields["since"])

    async def _ask(self, command: Command, fields: Message, request: Message, send: Send) -> Message | None:
        """Answer with what the server does; return it, None where that was no."""
        response = await self._upstream.execute({**fields, "command": command.name})
        refused = response.get("request_result") is False
        answer = self.error(response, request) if refused else _message(response)
        await send(answer)
        return None if refused else answer

    def _follow(self, session: str, since: int) -> None:
        if session not in self._subscribed:
            self._subscribed.add(session)
            self._conversation.start(partial(self._pass_on, session, since))

    async def _pass_on(self, session: str, since: int) -> None:
        """Send what a run tells, up to its end; where that breaks off, say why: the client may subscribe again."""
        try:
            last = await self._pass_on_to_last(session, since)
        finally:
            self._subscribed.discard(session)
        if last is not None:  # only now: who has read it may subscribe again
            await self._conversation.send(last)

    async def _pass_on_to_last(self, session: str, since: int) -> Message | None:
        about = {"action": "subscribe", "sessionId": session}
        message = {"command": self._actions["subscribe"].name, "sessionId": session, "since": since}
        last = None
        try:
            async with aclosing(self._upstream.stream(message)) as responses:  # type: ignore[type-var]
                async for response in responses:
                    if response.get("request_result") is False:
                        return self.error(response, about)
                    told = _message(response)
                    if told["type"].startswith("[state]:"):
                        last = told
                    elif told["type"] != _ALIVE:
                        await self._conversation.send(told)
        except BgpyError as failure:
            return self.error(failure_envelope(failure), about)
        return last


def _message(response: dict[str, Any]) -> Message:
    """Return the message in an envelope; raises RefusedError where the server speaks of something else."""
    message = response.get("result")
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise RefusedError("The server has not answered as the runtime task set does; was it initialised with that?")
    return message


def _session(request: Message) -> str | None:
    """Return which run a request is about, in the object where that stands."""
    for fields in (request, request.get("placeholder"), request.get("model")):
        session = fields.get("sessionId") if isinstance(fields, dict) else None
        if isinstance(session, str):
            return session
    return None
