"""
How uvicorn reads requests here: with bounds in time and size for what comes before the app sees anything.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

#: Bytes of the head of a request, and of what else comes with no byte of a body in it.
MAX_HEAD = 64 << 10
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
        if self._unread > MAX_HEAD or self._fields > MAX_HEAD:
            self._refuse()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        super().connection_lost(exc)
        self._stop_timer()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._fields = 0
        self._time_head()
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
    """uvicorn's, which logs an error for each upgrade that was refused with an answer: it takes it for none."""

    async def send(self, message: Any) -> None:
        """Send, and do not wait for a handshake that was refused."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True
