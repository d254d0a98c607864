"""
How uvicorn reads requests here: with bounds in time and size for what comes before the app sees anything.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request

from bgpy.gateway.doors import MESSAGE_SIZE

#: Bytes of the head of a request, and of what else comes with no byte of a body in it.
MAX_HEAD = 64 << 10
#: Pieces of a WebSocket message; each costs something, also an empty one.
MAX_PIECES = 10_000
#: Seconds for what a client still sends when it is told that it has broken the rules.
_DRAIN_TIMEOUT = 5.0
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


#: Bytes from which on a piece is not copied to join it with others.
_LARGE = 64 << 10


class JoiningTransport:
    """
    A transport that sends what is written in one turn of the event loop in one piece.

    uvicorn writes head and body of a response apart, and a call to the system costs more than all else in a small response.

    Parameters
    ----------
    transport
        What sends; all that is not writing is left to it.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send with what else is written in this turn; at once what is large."""
        if len(data) >= _LARGE:
            self.flush()
            self._transport.write(data)
            return
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(data)

    def flush(self) -> None:
        """Send what has been written."""
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            self._transport.write(b"".join(pieces))

    def write_eof(self) -> None:
        """Say that nothing more comes, behind what has been written."""
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Close behind what has been written."""
        self.flush()
        self._transport.close()


class HttpProtocol(HttpToolsProtocol):
    """
    uvicorn's, which by itself waits without end for the head of a request, however long that becomes.

    As many connections as there may be, none of which sends one, would shut out all others; and one header without an end would
    take all memory. The same bound holds for what may follow the pieces of a chunked body.

    Parameters
    ----------
    head_timeout
        Seconds for the head of a request.
    """

    def __init__(self, head_timeout: float, **options: Any) -> None:
        super().__init__(**options)
        self._head_timeout = head_timeout
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_head = False
        #: Bytes since something of a request was complete, and in the fields of this one.
        self._unread = 0
        self._fields = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head."""
        super().connection_made(JoiningTransport(transport, self.loop))  # type: ignore[arg-type]
        self._time_head()

    def data_received(self, data: bytes) -> None:
        """Read on, as long as that leads to something."""
        self._unread += len(data)
        super().data_received(data)
        if self._in_head:
            self._time_head()  # not before: most heads come whole
        if self._unread > MAX_HEAD or self._fields > MAX_HEAD:
            self._refuse()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        super().connection_lost(exc)
        self._stop_timer()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._fields = 0
        self._in_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count it."""
        self._fields += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a field, of the head or behind the body."""
        self._fields += len(name) + len(value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Give the request to the app, unless its head is too large."""
        self._unread = 0
        self._in_head = False
        self._stop_timer()
        if self._fields <= MAX_HEAD:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._unread = 0
        if self._fields <= MAX_HEAD:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Take note of the end of a request."""
        self._unread = 0
        if self._fields <= MAX_HEAD:
            super().on_message_complete()

    def _refuse(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    def _time_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_timeout, self.timeout_keep_alive_handler)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class SocketProtocol(WebSocketsSansIOProtocol):
    """
    uvicorn's, with a size of messages that each endpoint may raise, and an end for who takes no bytes.

    That leaves a connection open as long as its client does not take what is to be sent, answers pings without end to who reads
    no answer, takes pieces of a message without end as long as they are empty, and logs an error for each upgrade that was
    refused with an answer, which it takes for none, and for each text that is not UTF-8.
    """

    _drain: asyncio.TimerHandle | None = None

    def handle_connect(self, event: Request) -> None:
        """Begin a WebSocket; tell the app how it may raise the size of messages."""
        super().handle_connect(event)
        if not self.close_sent:
            self.scope["extensions"][MESSAGE_SIZE] = {"set": self._set_message_size}

    def handle_cont(self, event: Frame) -> None:
        """Take a further piece of a message, of as many as anybody needs."""
        if len(self.frames) < MAX_PIECES:
            super().handle_cont(event)
        else:
            self._fail(CloseCode.MESSAGE_TOO_BIG, "Too many pieces")

    def handle_ping(self) -> None:
        """Answer a ping, but not while what was sent before has not gone."""
        answer = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self.transport.write(answer)

    def send_receive_event_to_app(self) -> None:
        """Give the app a message; a text that is none ends the connection, as RFC 6455 (8.1) has it."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            self.frames = [b"".join(self.frames)]
            try:
                self.frames[0].decode("utf-8")
            except UnicodeDecodeError:
                self._fail(CloseCode.INVALID_DATA, "The text is not UTF-8")
                return
        super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        """
        End a connection that has broken the rules, and read on for a while what its client still sends.

        A socket that is closed with bytes unread is reset, and the client would never see why it was closed.
        """
        if self.close_sent:
            return
        self.close_sent = True
        self.frames = []
        reason = self.conn.close_sent
        assert reason is not None
        self.queue.put_nowait({"type": "websocket.disconnect", "code": reason.code, "reason": reason.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(_DRAIN_TIMEOUT, self.transport.close)

    def keepalive_timeout(self) -> None:
        """End a connection that answers no ping, but not while its answer may wait behind what the app has not read."""
        if self.read_paused:
            self.pong_timer = self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()
        self._abort_later()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Let what was sent last go out, if its client takes it; where the app has not even closed, nothing is left to say."""
        super().on_task_complete(task)
        if self.disconnected:
            return
        if self.handshake_complete and not self.close_sent:
            self.transport.abort()
        else:
            self._abort_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        super().connection_lost(exc)
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None

    async def send(self, message: Any) -> None:
        """Send, where this side has not ended it: the app may not know yet. Do not wait for a handshake that was refused."""
        if self.close_sent and message["type"] == "websocket.send":
            raise ClientDisconnected
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True

    def _set_message_size(self, size: int) -> None:
        self.conn.max_message_size = size

    def _fail(self, code: CloseCode, reason: str) -> None:
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def _abort_later(self) -> None:
        if self._drain is None and not self.disconnected:
            self._drain = self.loop.call_later(self.close_timeout, self.transport.abort)
