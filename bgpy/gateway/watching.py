"""
Streams of events: over a WebSocket, and as ``text/event-stream``.

Nothing is queued here. While a client takes no more, nothing is read from the server either, which keeps a bounded queue for each
watcher and puts a ``gap`` event where that ran over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect

from bgpy.errors import BgpyError, RefusedError
from bgpy.gateway.answers import Answer, Message, dump_json, failure_answer, json_answer, read_failure
from bgpy.gateway.doors import Call
from bgpy.gateway.limits import ClientGone, Limits, parse_object, read_body
from bgpy.gateway.upstream import Upstream
from bgpy.tasks.schema import Command

#: Seconds within which most refusals come; after it a stream is begun, even though nothing has happened yet.
_FIRST_WAIT = 0.5
#: Seconds of silence after which a stream shows that it is alive: what lies between client and gateway drops it otherwise.
BEAT = 15.0
#: Seconds that a client may take no bytes.
SEND_TIMEOUT = 30.0
_EVENT_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]

# RFC 6455, 7.4.1, and the register that it names.
GOING_AWAY = 1001
BAD_DATA = 1007
POLICY = 1008
TOO_LARGE = 1009
FAILED = 1011
TRY_AGAIN = 1013

Envelope = dict[str, Any]


class Ending:
    """Tell whoever waits that the gateway ends. For one event loop at a time."""

    def __init__(self) -> None:
        self.begun = False
        self._waiting: set[asyncio.Future[None]] = set()

    def future(self) -> asyncio.Future[None]:
        """Return a future that is done when the end begins."""
        future = asyncio.get_running_loop().create_future()
        if self.begun:
            future.set_result(None)
        else:
            self._waiting.add(future)
            future.add_done_callback(self._waiting.discard)
        return future

    def begin(self) -> None:
        """Begin the end."""
        self.begun = True
        for future in list(self._waiting):
            if not future.done():
                future.set_result(None)


class _Source:
    """The next envelope, or why there is none: whichever comes first."""

    def __init__(self, envelopes: AsyncIterator[Envelope], gone: Awaitable[None], ending: Ending) -> None:
        self._envelopes = envelopes
        self._gone = asyncio.ensure_future(gone)
        self._ending = ending.future()
        self._next: asyncio.Future[Envelope | None] | None = None
        self.ends = False

    async def next(self, timeout: float) -> Envelope | None:
        """
        Return the next envelope, None for silence or the end (`ends` says which); raises ClientGone, and what the stream raises.
        """
        if self._next is None:
            self._next = asyncio.ensure_future(_take(self._envelopes))
        done, _ = await asyncio.wait((self._next, self._gone, self._ending), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if self._gone in done:
            raise ClientGone
        if self._next in done:
            envelope = self._next.result()
            self._next = None
            self.ends = envelope is None
            return envelope
        self.ends = self._ending in done
        return None

    async def close(self) -> None:
        """Stop waiting for anything."""
        waiting = [future for future in (self._next, self._gone, self._ending) if future is not None]
        for future in waiting:
            future.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


class Watching:
    """
    The endpoints of the commands that stream.

    Parameters
    ----------
    make_message
        Makes the message of a command from its fields.
    """

    def __init__(
        self,
        upstream: Upstream,
        limits: Limits,
        ending: Ending,
        make_message: Callable[[Command, dict[str, Any]], dict[str, Any]],
    ) -> None:
        self._upstream = upstream
        self._limits = limits
        self._ending = ending
        self._make_message = make_message

    async def serve_events(self, command: Command, call: Call) -> Answer | None:
        """Answer a POST with one event for each envelope; with a plain answer where the server refuses at once."""
        fields = parse_object(await read_body(call.receive, call.announced, self._limits))
        last = _last_event(call)
        if last is not None and "since" not in fields and any(field.name == "since" for field in command.fields):
            fields["since"] = last
        async with aclosing(self._upstream.stream(self._make_message(command, fields))) as envelopes:  # type: ignore[type-var]
            source = _Source(envelopes, _disconnected(call.receive), self._ending)
            try:
                envelope = await source.next(_FIRST_WAIT)
                if envelope is not None and envelope.get("request_result") is False:
                    return json_answer(envelope)
                await call.send({"type": "http.response.start", "status": 200, "headers": _EVENT_HEADERS})
                await self._send_events(source, envelope, call.send)
            finally:
                await source.close()
        return None

    async def _send_events(self, source: _Source, envelope: Envelope | None, send: Callable[[Message], Awaitable[None]]) -> None:
        while not source.ends:
            await in_time(send({"type": "http.response.body", "body": as_event(envelope), "more_body": True}))
            try:
                envelope = await source.next(BEAT)
            except BgpyError as failure:  # the status is out: the reason is the last event
                data = as_event(read_failure(failure)[1])
                await in_time(send({"type": "http.response.body", "body": data, "more_body": True}))
                break
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def serve_socket(self, command: Command, call: Call) -> None:
        """Read one message, the fields of the command, and send each envelope as one."""
        socket = WebSocket(call.scope, call.receive, call.send)
        await socket.accept()
        code, reason = FAILED, "The gateway failed"
        try:
            fields = await self._first_message(socket)
            code, reason = await self._send_envelopes(socket, self._make_message(command, fields))
        except RefusedError as refused:
            code, reason = (POLICY, refused.reason) if refused.field == "" else (BAD_DATA, refused.reason)
        except BgpyError as failure:
            status, envelope = read_failure(failure)
            await in_time(socket.send_text(dump_json(envelope).decode("utf-8")))
            code, reason = (TRY_AGAIN if status == 503 else FAILED), type(failure).__name__
        except (WebSocketDisconnect, ClientGone):
            return
        except Exception as failure:
            failure_answer(failure)  # logs it
            raise
        finally:
            await close_socket(socket, code, reason)

    async def _first_message(self, socket: WebSocket) -> dict[str, Any]:
        waiting = asyncio.ensure_future(socket.receive())
        ending = self._ending.future()
        try:
            timeout = self._limits.first_message_timeout
            await asyncio.wait((waiting, ending), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise RefusedError("The gateway is ending" if ending.done() else f"No message within {timeout:g} s", "")
            message = waiting.result()
        finally:
            waiting.cancel()
            ending.cancel()
        if message["type"] == "websocket.disconnect":
            raise ClientGone
        data = message.get("text") or message.get("bytes") or b""
        if len(data) > self._limits.max_message_size:  # where the ASGI server has no such limit of its own
            raise RefusedError(f"A message has at most {self._limits.max_message_size:,} bytes", "")
        return parse_object(data, "message")

    async def _send_envelopes(self, socket: WebSocket, message: dict[str, Any]) -> tuple[int, str]:
        async with aclosing(self._upstream.stream(message)) as envelopes:  # type: ignore[type-var]
            source = _Source(envelopes, _closed(socket), self._ending)
            try:
                while not source.ends:
                    envelope = await source.next(BEAT)
                    if envelope is not None:
                        await in_time(socket.send_text(dump_json(envelope).decode("utf-8")))
            finally:
                await source.close()
        return (GOING_AWAY, "The gateway is ending") if self._ending.begun else (1000, "")


def as_event(envelope: Envelope | None) -> bytes:
    """Return one server-sent event, with its number as the id that a client asks to go on from; a comment for silence."""
    if envelope is None:
        return b":\n\n"
    event = envelope.get("result")
    number = event.get("number") if isinstance(event, dict) else None
    head = b"id: %d\n" % number if isinstance(number, int) else b""
    return b"%sdata: %s\n\n" % (head, dump_json(envelope))


def _last_event(call: Call) -> int | None:
    for name, value in call.scope["headers"]:
        if name.lower() == b"last-event-id" and value.isdigit() and len(value) < 20:
            return int(value)
    return None


async def _take(envelopes: AsyncIterator[Envelope]) -> Envelope | None:
    try:
        return await envelopes.__anext__()
    except StopAsyncIteration:
        return None


async def _disconnected(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _closed(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def in_time(sending: Awaitable[None]) -> None:
    """Send, but not for longer than a living client takes."""
    try:
        with anyio.fail_after(SEND_TIMEOUT):
            await sending
    except (RuntimeError, TimeoutError, WebSocketDisconnect):  # the first is what a server has for a send behind the end
        raise ClientGone from None


async def close_socket(socket: WebSocket, code: int, reason: str) -> None:
    """Close a WebSocket; one that is gone is fine. A reason has at most 123 bytes."""
    text = reason.encode("utf-8", "replace")[:120].decode("utf-8", "ignore")
    try:
        with anyio.move_on_after(SEND_TIMEOUT):
            await socket.close(code, text)
    except (RuntimeError, WebSocketDisconnect):
        pass  # it was closed already
