"""
The protocol driven over an asyncio transport: one connection, and how it is made.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import cast

from bgpy.addresses import address_bytes, resolve_addresses
from bgpy.aio.waiting import Watch, within
from bgpy.connection import CLOSED_EARLY, Dialer
from bgpy.errors import BgpyError, ConnectError, RemoteProtocolError
from bgpy.protocol.exchange import BrokenConnection
from bgpy.protocol.frames import FLAG_MORE, Buffer, Frame, FrameMac, FrameReader, encode_frame, frame_size
from bgpy.protocol.handshake import ClientHello, Opener, Opening, Step, client_opening
from bgpy.protocol.messages import Payload
from bgpy.protocol.states import ConnectionState, Role
from bgpy.system import make_probe, prepare_socket
from bgpy.tls import check_token_tls
from bgpy.wires import PROGRESS_TIMEOUT

#: Most bytes that are given to the transport at once: what the kernel does not take of them is copied.
_PIECE = 128 << 10
#: Bytes of frames that nobody has asked for yet, from which on no more are read.
_MAX_UNREAD = 64 << 10
#: Seconds for a TLS handshake as far as the event loop is concerned: the limit of `dial` is the one that counts.
_NO_LIMIT = 1e6


class AsyncConnection(asyncio.BufferedProtocol):
    """
    One open connection of an event loop. One coroutine at a time sends and receives.

    Attributes
    ----------
    state
        Where the connection stands in the table of `bgpy.protocol.states`.
    ended
        Done when the socket is closed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, max_size: int) -> None:
        self.state = ConnectionState(Role.CLIENT)
        self.ended: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        # The same, but where TLS lies between.
        self._plain: asyncio.Transport
        self._transport: asyncio.Transport
        self._max_size = max_size
        self._opener: Opener | None = None
        self._readable: Callable[[], object]
        self._opening: Opening | None = None
        self._reader: FrameReader | None = None
        self._mac: FrameMac | None = None
        # During the opening exactly this much is read: what follows belongs to the frames.
        self._memory = memoryview(bytearray(1))
        self._filled = 0
        self._frames: deque[Frame] = deque()
        self._unread = 0
        self._failure: BrokenConnection | BgpyError | None = None
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._crowded = False
        self._received = 0
        self._handed = 0
        self._reading_watch = Watch(loop, self._reading_progress, lambda: self._stuck("no byte of a frame under way came"))
        self._writing_watch = Watch(loop, self._writing_progress, lambda: self._stuck("the other side took no byte"))

    @property
    def opening(self) -> Opening:
        """What both ends agreed on."""
        assert self._opening is not None
        return self._opening

    @property
    def _paused(self) -> bool:
        """Whether no more is read until somebody takes the frames that are there."""
        return self._unread > _MAX_UNREAD

    # What the client calls

    async def start_tls(self, dialer: Dialer) -> None:
        """Do the TLS handshake. Raises AuthenticationError, and OSError where the connection breaks."""
        import ssl

        assert dialer.context is not None
        try:
            transport = await self._loop.start_tls(
                self._plain, self, dialer.context, server_hostname=dialer.host, ssl_handshake_timeout=_NO_LIMIT
            )
        except ssl.SSLError as error:
            raise dialer.tls_refused(error) from error
        assert transport is not None
        self._transport = transport
        if dialer.tls_by_token:
            check_token_tls(self._transport.get_extra_info("ssl_object"), dialer.address)

    async def open(self, dialer: Dialer, hello: ClientHello) -> None:
        """Prove the token to each other. Raises `BrokenConnection`, and what `client_opening` raises."""
        local, remote = self._transport.get_extra_info("sockname"), self._transport.get_extra_info("peername")
        if remote is None:  # cut before anybody asked who is there
            raise BrokenConnection(CLOSED_EARLY)
        self._opener = client_opening(dialer.terms(local, remote, dialer.secure), hello)
        self._take_step(next(self._opener))
        while self._opening is None:
            await self._coming_news()

    async def transmit(self, kind: int, flags: int, part: int, number: int, payload: Payload, timeout: float | None) -> None:
        """
        Send one frame; returns when the transport has it and, without TLS, the kernel.

        Raises `BrokenConnection` with the number of bytes handed over, LocalProtocolError, and TimeoutError.
        """
        self.state.sending(kind, bool(flags & FLAG_MORE))
        deadline = None if timeout is None else self._loop.time() + timeout
        before = self._handed
        first = True
        for piece in _pieces(encode_frame(kind, flags, part, number, payload.pickle, payload.buffers, self._mac)):
            if not first:
                # No wait: a peer that reads as fast as we write must not keep the loop from its other work.
                await asyncio.sleep(0)  # noqa: TID251 - gives the loop one turn
            first = False
            if not self._takes_more(before):
                return
            self._write(piece)
            while self._crowded and self._takes_more(before):
                self._room = self._loop.create_future()
                await within(self._room, None if deadline is None else deadline - self._loop.time())

    async def receive(self, timeout: float | None) -> Frame:
        """
        Return the next frame.

        Raises
        ------
        TimeoutError
            None came within `timeout` seconds.
        BrokenConnection
            The end of the stream, an error, or no progress within a frame.
        RemoteProtocolError, MessageTooLargeError
            What `FrameReader.next_frame` and the table of states raise.
        """
        deadline = None if timeout is None else self._loop.time() + timeout
        while not self._frames:
            await within(self._coming_news(), None if deadline is None else deadline - self._loop.time())
        frame = self._frames.popleft()
        paused = self._paused
        self._unread -= _size(frame)
        if paused and not self._paused:
            self._transport.resume_reading()
            self._watch_reading()
        self.state.received(frame.kind, bool(frame.flags & FLAG_MORE))
        return frame

    def ready(self, payload: Payload) -> bool:
        """Return whether a request can surely go out now; where it cannot, `Exchange` looks closer."""
        size = frame_size(payload.pickle, payload.buffers)
        return not payload.by_value and size <= self.opening.peer_max_size and self.quiet()

    def quiet(self) -> bool:
        """Return whether there is nothing to read now: no byte, no end, no error. Does not block."""
        if (
            self._failure is not None
            or self._frames
            or self._reader is None
            or not self._reader.idle
            or self._transport.is_closing()
        ):
            return False
        # What has arrived since the loop last looked counts too.
        return not self._readable()

    async def wait_for_end(self, timeout: float | None) -> bool:
        """Wait for the other side to close. Returns whether it did in time."""
        await asyncio.wait([self.ended], timeout=timeout)
        return self.ended.done()

    def close(self) -> None:
        """Close the socket, in the loop's next turn; `ended` tells when. Again is fine."""
        self.state.closed()
        self._fail(BrokenConnection("this side closed the connection"))

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._plain = self._transport = cast(asyncio.Transport, transport)
        # Writing pauses as soon as the kernel takes no more: what lies in the transport has not been handed over.
        self._plain.set_write_buffer_limits(0)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the place for what comes next: a large buffer is read to where it stays."""
        return self._memory[self._filled :] if self._reader is None else self._reader.memory()

    def buffer_updated(self, nbytes: int) -> None:
        """Take note of what has come."""
        self._received += nbytes
        try:
            if self._reader is None:
                self._filled += nbytes
                self._advance_opening()
            else:
                self._advance(self._reader, nbytes)
        except BgpyError as failure:
            self._fail(failure)

    def eof_received(self) -> None:
        """Take note that no more will come; the transport closes itself."""
        if self._reader is None:
            self._note_failure(BrokenConnection(CLOSED_EARLY))
        elif self._reader.idle:
            self._note_failure(BrokenConnection("the other side closed the connection"))
        else:
            self._note_failure(BrokenConnection("the other side closed the connection within a frame"))

    def pause_writing(self) -> None:
        """Take note that the transport has enough."""
        self._crowded = True

    def resume_writing(self) -> None:
        """Let `transmit` go on."""
        self._crowded = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the socket is closed."""
        reason = "the other side closed the connection" if exc is None else (getattr(exc, "strerror", None) or str(exc))
        self._fail(BrokenConnection(reason))
        if not self.ended.done():
            self.ended.set_result(None)

    # How it works inside

    def _take_step(self, step: Step) -> None:
        if step.data:
            self._write(step.data)
        self._memory = memoryview(bytearray(step.need))
        self._filled = 0

    def _advance_opening(self) -> None:
        if self._filled < len(self._memory):
            return
        if self._opener is None:
            raise RemoteProtocolError("What listens there spoke first: it is not a bgpy server")
        try:
            self._take_step(self._opener.send(bytes(self._memory)))
        except StopIteration as done:
            opening: Opening = done.value
            self._reader = FrameReader(self._max_size, None if opening.receive_key is None else FrameMac(opening.receive_key))
            self._mac = None if opening.send_key is None else FrameMac(opening.send_key)
            self._opening = opening
            self._readable = make_probe(self._plain.get_extra_info("socket").fileno())
            self.state.opened()
            self._wake()

    def _advance(self, reader: FrameReader, count: int) -> None:
        paused = self._paused
        frame = None
        if reader.idle:
            frame = reader.advance_first(count)
        else:
            reader.advance(count)
        if frame is not None:
            self._keep(frame)  # the usual one: whole, and nothing behind it
        else:
            self._cut_frames(reader)
        if self._frames:
            self._wake()
        if self._paused and not paused:
            self._transport.pause_reading()

    def _cut_frames(self, reader: FrameReader) -> None:
        while (frame := reader.next_frame()) is not None or reader.announced is not None:
            if frame is None:
                reader.allocate()
            else:
                self._keep(frame)
        self._watch_reading()

    def _keep(self, frame: Frame) -> None:
        self._frames.append(frame)
        self._unread += _size(frame)

    def _watch_reading(self) -> None:
        if self._reading_progress() is None:
            self._reading_watch.disarm()
        else:
            self._reading_watch.arm()

    def _reading_progress(self) -> int | None:
        idle = self._reader is None or self._reader.idle or self._paused or self._failure is not None
        return None if idle else self._received

    def _write(self, piece: Buffer) -> None:
        self._handed += len(piece)
        self._transport.write(piece)
        if self._waiting_to_leave():
            self._writing_watch.arm()

    def _waiting_to_leave(self) -> int:
        """Count the bytes that the kernel has not taken, those that wait for TLS included."""
        size = self._plain.get_write_buffer_size()
        return size if self._transport is self._plain else size + self._transport.get_write_buffer_size()

    def _writing_progress(self) -> int | None:
        size = 0 if self._failure is not None else self._waiting_to_leave()
        return self._handed - size if size else None

    def _takes_more(self, before: int) -> bool:
        """Return whether to go on with a frame, False where its answer is there; raises `BrokenConnection`."""
        if self._failure is None and not self._transport.is_closing():
            return True
        if self._frames and self._handed > before:
            return False  # refused before it was read: the answer is worth more than the broken rest
        reason = self._failure.reason if isinstance(self._failure, BrokenConnection) else str(self._failure or "it is closing")
        raise BrokenConnection(reason, self._handed - before)

    def _coming_news(self) -> asyncio.Future[None]:
        """Return what is done as soon as anything has come, or broken; raises what has broken already."""
        if self._failure is not None:
            raise self._failure
        self._news = self._loop.create_future()
        return self._news

    def _wake(self) -> None:
        for future in (self._news, self._room):
            if future is not None and not future.done():
                future.set_result(None)

    def _note_failure(self, failure: BrokenConnection | BgpyError) -> None:
        if self._failure is None:
            self._failure = failure
        self._reading_watch.disarm()
        self._writing_watch.disarm()
        self._wake()

    def _fail(self, failure: BrokenConnection | BgpyError) -> None:
        self._note_failure(failure)
        self._transport.abort()

    def _stuck(self, what: str) -> None:
        self._fail(BrokenConnection(f"{what} for {PROGRESS_TIMEOUT:g} s"))


def _size(frame: Frame) -> int:
    # The smallest frame counts too: a stream of empty ones has no bytes but takes memory.
    return 100 + frame_size(frame.pickle, frame.buffers)


def _pieces(parts: list[Buffer]) -> Iterator[Buffer]:
    """Cut a frame into pieces for the transport: small parts joined, large ones in slices that are not copied."""
    small: list[Buffer] = []
    size = 0
    for part in parts:
        if size + len(part) > _PIECE and small:
            yield b"".join(small)
            small, size = [], 0
        if len(part) > _PIECE:
            view = memoryview(part)
            yield from (view[offset : offset + _PIECE] for offset in range(0, len(view), _PIECE))
        else:
            small.append(part)
            size += len(part)
    if small:
        yield b"".join(small)


async def dial(dialer: Dialer, hello: ClientHello, timeout: float) -> AsyncConnection:
    """
    Open a connection, within `timeout` seconds.

    Raises
    ------
    ConnectError
        Nobody listens, the name is unknown, or it took too long.
    BrokenConnection
        It was cut during the opening.
    AuthenticationError, VersionMismatchError, RemoteProtocolError
        See `client_opening`.
    """
    task = asyncio.get_running_loop().create_task(_dial(dialer, hello))
    try:
        await asyncio.wait([task], timeout=timeout)
    except asyncio.CancelledError:
        await _discard(task)
        raise
    if not task.done():
        await _discard(task)
        raise ConnectError(dialer.address, f"no answer within {timeout:.3g} s")
    return task.result()


async def _discard(task: asyncio.Task[AsyncConnection]) -> None:
    """Give up a connection that is being made, or has just been made; returns after some turns of the loop, when it is closed."""

    def close(task: asyncio.Task[AsyncConnection]) -> None:
        if not task.cancelled() and task.exception() is None:
            task.result().close()

    task.add_done_callback(close)
    task.cancel()
    await asyncio.wait([task])


async def _dial(dialer: Dialer, hello: ClientHello) -> AsyncConnection:
    connection = await _connect(dialer)
    try:
        if dialer.context is not None:
            await connection.start_tls(dialer)
        await connection.open(dialer, hello)
    except BaseException as error:
        connection.close()
        if isinstance(error, OSError) and not isinstance(error, BgpyError):
            raise BrokenConnection(error.strerror or str(error)) from error
        raise
    return connection


async def _connect(dialer: Dialer) -> AsyncConnection:
    loop = asyncio.get_running_loop()
    if address_bytes(dialer.host) is not None:
        addresses = resolve_addresses(dialer.host, dialer.port)
    else:
        addresses = await loop.run_in_executor(None, resolve_addresses, dialer.host, dialer.port)
    reasons: list[str] = []
    for family, address in addresses:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            prepare_socket(sock)
            _, connection = await loop.create_connection(lambda: AsyncConnection(loop, dialer.max_size), sock=sock)
        except OSError as error:
            sock.close()
            # The loop's own text names the address once more, and not the reason.
            reasons.append(os.strerror(error.errno) if error.errno else str(error))
        except BaseException:
            sock.close()
            raise
        else:
            return connection
    raise ConnectError(dialer.address, "; ".join(dict.fromkeys(reasons)))
