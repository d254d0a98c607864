"""
Conversations over a WebSocket: one JSON object in, one or more out, many requests under way at once.

What is said is a language's: that of runs (`runtime.py`) and that of timed requests (`requests.py`). Here is what they share: who
may talk, what a message may be, whose turn it is to be sent, and how it all ends.

Who has shown neither a Bearer token nor the page's cookie may say ``{"token": …}`` first, and gets nothing before that was right.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup
from starlette.websockets import WebSocket

from bgpy.errors import RefusedError
from bgpy.gateway.answers import RETRY_AFTER, Answer, dump_json, failure_envelope, refusal
from bgpy.gateway.doors import MESSAGE_SIZE, Call
from bgpy.gateway.gate import is_token
from bgpy.gateway.limits import ClientGone, Limits, parse_object
from bgpy.gateway.watching import FAILED, GOING_AWAY, POLICY, TOO_LARGE, Ending, close_socket, in_time

#: Requests of one conversation under way at once; then no more is read.
MAX_UNDER_WAY = 32
#: Conversations at once that nobody has logged in to yet; the next one is told to come again.
MAX_STRANGERS = 64
#: Seconds for the answers to requests under way when the gateway ends.
LAST_WORDS = 2.0

_log = logging.getLogger("bgpy.gateway")

Message = dict[str, Any]
#: Sends one message as an answer to a request, with the ``id`` that this had.
Send = Callable[[Message], Awaitable[None]]


class Language(Protocol):
    """
    What is said in one conversation. Made for each, so that it may hold what the conversation is about.

    Attributes
    ----------
    max_size
        Bytes of a message of who is logged in.
    logged_in
        The answer to a token that is right.
    """

    max_size: int
    logged_in: Message

    def error(self, envelope: dict[str, Any], request: Message) -> Message:
        """
        Return how the language says what has gone wrong.

        Parameters
        ----------
        envelope
            As everywhere else: ``result`` is the reason; ``field``, ``error`` and ``executed`` where there is something to say.
        request
            What it was about; {} where that was no JSON object.
        """

    async def handle(self, request: Message, send: Send) -> None:
        """
        Answer a request.

        It counts as under way until this returns, and 32 may be: what comes much later is for `Conversation.go_on`. Whatever this
        raises is answered with `error`, and the conversation goes on. It is cancelled when the conversation ends.
        """


class Conversation:
    """
    One conversation. For the task that serves it, and for the tasks that this starts.

    Parameters
    ----------
    make_language
        Makes the language, which may send and start what it likes once there is something to handle.
    """

    def __init__(self, socket: WebSocket, limits: Limits, token: str, make_language: Callable[[Conversation], Language]) -> None:
        self._socket = socket
        self._limits = limits
        self._token = token
        self._max_size = limits.max_message_size
        self._turn = asyncio.Lock()
        self._room = asyncio.Semaphore(MAX_UNDER_WAY)
        self._tasks: TaskGroup
        self._closing: tuple[int, str] | None = None
        self._unanswered: dict[int, Message] = {}  # by the identity of the request itself
        self._language = make_language(self)

    async def send(self, message: Message, request: Message | None = None) -> None:
        """
        Send one message, when it is its turn; raises ClientGone where the client takes no more, which ends all of it.

        `request` is what it answers, None for what nobody has asked.
        """
        async with self._turn:
            if request is not None:
                self._unanswered.pop(id(request), None)
            text = dump_json(message).decode("utf-8")  # only now: many may wait, and each may be large
            await in_time(self._socket.send_text(text))

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something beside the requests, until it returns or the conversation ends. The caller bounds how much that may be."""
        self._tasks.start_soon(self._work, work)

    def go_on(self, request: Message, work: Callable[[], Awaitable[None]]) -> None:
        """Do the rest of a request as `start` does; what it raises is answered, as if `Language.handle` had raised it."""
        self.start(partial(self._try, request, work))

    def trust(self) -> None:
        """Take messages of the language's own size from now on."""
        self._max_size = self._language.max_size
        told = self._socket.scope.get("extensions", {}).get(MESSAGE_SIZE)
        if told is not None:
            told["set"](self._max_size)

    async def log_in(self) -> bool:
        """Wait for the token, and for nothing else; tell whether it came. What is none ends the conversation."""
        timeout = self._limits.login_timeout
        with anyio.move_on_after(timeout):
            data = await self._receive()
            if data is None:
                return False
            try:
                request = parse_object(data, "message")
            except RefusedError:
                request = {}
            if not _is_login(request):
                return await self._turn_away(request, 'The first message is {"token": …}: nobody has logged in yet')
            return await self._check_login(request)
        self._closing = (POLICY, f"No token within {timeout:g} s")
        return False

    async def hold(self, ending: Ending, admit: Callable[[], Awaitable[bool]] | None) -> tuple[int, str] | None:
        """
        Ask `admit` whether somebody may come in (None: who is in already), and answer until one side ends it.

        Returns
        -------
        closing
            Code and reason to close with; None where the client has gone.
        """
        async with anyio.create_task_group() as self._tasks:
            scope = self._tasks.cancel_scope
            end = ending.future()
            end.add_done_callback(lambda future: None if future.cancelled() else scope.cancel())
            try:
                await self._work(partial(self._converse, admit))
            finally:
                end.cancel()
            scope.cancel()
        if not ending.begun:
            return self._closing
        await self._answer_the_rest()
        return GOING_AWAY, "The gateway is ending"

    async def _answer_the_rest(self) -> None:
        """Say to whoever waits for an answer that none will come."""
        envelope = {"result": "The gateway is ending; the request may go on"}
        with contextlib.suppress(ClientGone), anyio.move_on_after(LAST_WORDS):
            for request in list(self._unanswered.values()):
                await self._answer(request, self._language.error(envelope, request))

    async def _converse(self, admit: Callable[[], Awaitable[bool]] | None) -> None:
        if admit is not None and not await admit():
            return
        data = await self._receive()
        while data is not None:
            ahead: asyncio.Future[str | bytes | None] | None = None
            try:
                request = parse_object(data, "message")
            except RefusedError as refused:
                await self.send(self._language.error(failure_envelope(refused), {}))
            else:
                if not _is_login(request):
                    ahead = await self._find_room()
                    self._tasks.start_soon(self._work, partial(self._handle, request))
                elif not await self._check_login(request):
                    return
            data = await (ahead or self._receive())

    async def _find_room(self) -> asyncio.Future[str | bytes | None] | None:
        """Wait for room; meanwhile the next message is read, but no more: it may be that the client has gone."""
        if not self._room.locked():
            await self._room.acquire()
            return None
        room = asyncio.ensure_future(self._room.acquire())
        ahead = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait((room, ahead), return_when=asyncio.FIRST_COMPLETED)
            if ahead.done() and ahead.result() is None:
                raise ClientGone
            await room
        except BaseException:
            room.cancel()
            ahead.cancel()
            raise
        return ahead

    async def _handle(self, request: Message) -> None:
        self._unanswered[id(request)] = request
        try:
            await self._try(request, partial(self._language.handle, request, partial(self._answer, request)))
        finally:
            self._room.release()

    async def _try(self, request: Message, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except ClientGone:
            raise
        except Exception as failure:  # noqa: BLE001 - whatever it is, the answer says it or the log does
            await self._answer(request, self._language.error(failure_envelope(failure), request))

    async def _work(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do what may find that the client has gone, which ends all of it."""
        try:
            await work()
        except ClientGone:
            self._tasks.cancel_scope.cancel()
        except Exception as failure:  # noqa: BLE001 - it is logged; the other tasks end in order
            failure_envelope(failure)  # logs it
            self._closing = (FAILED, "The gateway failed")
            self._tasks.cancel_scope.cancel()

    async def _answer(self, request: Message, message: Message) -> None:
        await self.send({**message, "id": request["id"]} if "id" in request else message, request)

    async def _receive(self) -> str | bytes | None:
        """Return the next message; None for the end, or for one that ends it."""
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | None = message.get("text")
        data: str | bytes = message.get("bytes") or b"" if text is None else text
        if len(data) > self._max_size:  # where the ASGI server has no such limit of its own
            self._closing = (TOO_LARGE, f"A message has at most {self._max_size:,} bytes")
            return None
        return data

    async def _check_login(self, request: Message) -> bool:
        shown = request["token"]
        if self._token and not (isinstance(shown, str) and is_token(shown, self._token)):
            return await self._turn_away(request, "The token is wrong")
        self.trust()
        await self._answer(request, self._language.logged_in)
        return True

    async def _turn_away(self, request: Message, reason: str) -> bool:
        self._closing = (POLICY, reason)
        await self._answer(request, self._language.error(failure_envelope(RefusedError(reason, "token")), {}))
        return False


class Conversations:
    """
    The endpoints that are conversations.

    Parameters
    ----------
    token
        What a first message must show; "" where everybody is let in.
    """

    def __init__(self, limits: Limits, ending: Ending, token: str) -> None:
        self._limits = limits
        self._ending = ending
        self._token = token
        #: How many are open that nobody has logged in to.
        self.strangers = 0

    async def serve(self, make_language: Callable[[Conversation], Language], call: Call) -> Answer | None:
        """Serve a door whose access is "first-message"."""
        stranger = call.ground == "first-message"
        if stranger and self.strangers >= MAX_STRANGERS:
            reason = f"{MAX_STRANGERS} others have not logged in yet; come again, or send the token as a header"
            return refusal(503, reason, {"retry-after": str(RETRY_AFTER)})
        socket = WebSocket(call.scope, call.receive, call.send)
        conversation = Conversation(socket, self._limits, self._token, make_language)
        with contextlib.ExitStack() as place:
            if stranger:
                self.strangers += 1
                place.callback(self._forget_stranger)
            else:
                conversation.trust()
            await socket.accept()
            closing = await conversation.hold(self._ending, partial(_admit, conversation, place) if stranger else None)
        if closing is not None:
            if closing[0] == POLICY:
                client = (call.scope.get("client") or ("?",))[0]
                _log.info("Refused %s of %s: %s", call.scope["path"], client, closing[1])
            await close_socket(socket, *closing)
        return None

    def _forget_stranger(self) -> None:
        self.strangers -= 1


async def _admit(conversation: Conversation, place: contextlib.ExitStack) -> bool:
    with place:
        return await conversation.log_in()


def _is_login(request: Message) -> bool:
    return "token" in request and request.keys() <= {"token", "id"}
