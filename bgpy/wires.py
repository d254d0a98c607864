"""
Bytes over a connected socket, plain or under TLS, with every wait bounded by the caller.

A wire knows nothing of frames. Reads and writes may come from two threads at once; two writers may not: an answer holds its own
lock while it sends.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Protocol

from bgpy.protocol.exchange import BrokenConnection
from bgpy.system import DONTWAIT, make_probe, send_parts, wait_socket

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from bgpy.protocol.frames import Buffer

#: Seconds without a single byte of progress within a frame, in either direction, that close a connection.
PROGRESS_TIMEOUT = 30.0
_TLS_CHUNK = 256 << 10


class Wire(Protocol):
    """What a connection needs of its socket."""

    sock: socket.socket
    #: `receive_into` without a timeout, where the socket itself can do that: saves a step for each frame.
    receive_now: Callable[[memoryview], int] | None
    #: Send what goes without waiting (data, flags), where the socket itself can do that; `send` sends the rest.
    send_now: Callable[[bytes, int], int] | None

    def receive_into(self, memory: memoryview, timeout: float | None) -> int:
        """Read some bytes, at least one; 0 at the end of the stream. Raises TimeoutError and OSError."""

    def send(self, parts: Sequence[Buffer], deadline: float | None = None, written: int = 0) -> None:
        """
        Send all parts, but for the first `written` bytes, until a monotonic instant.

        Raises `BrokenConnection` with the bytes handed over, also when none goes for `PROGRESS_TIMEOUT`, and TimeoutError.
        """

    @property
    def readable(self) -> Callable[[], object]:
        """A function that is true where there is something to read now: bytes, an end, an error. Does not block."""


class PlainWire:
    """Bytes over a bare socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.receive_now: Callable[[memoryview], int] | None = sock.recv_into if DONTWAIT else None
        self.send_now: Callable[[bytes, int], int] | None = sock.send if DONTWAIT else None
        self.readable = make_probe(sock)

    def receive_into(self, memory: memoryview, timeout: float | None) -> int:
        """Read some bytes; see `Wire`."""
        if timeout is None and self.receive_now is not None:
            return self.receive_now(memory)
        while True:
            try:
                return self.sock.recv_into(memory, 0, DONTWAIT)
            except BlockingIOError:
                if not wait_socket(self.sock, timeout=timeout):
                    raise TimeoutError from None

    def send(self, parts: Sequence[Buffer], deadline: float | None = None, written: int = 0) -> None:
        """Send all parts; see `Wire`."""
        rest = [memoryview(part).cast("B") for part in parts if len(part)]
        skip = written
        total = written
        while True:
            while rest and skip >= rest[0].nbytes:
                skip -= rest.pop(0).nbytes
            if not rest:
                return
            if skip:
                rest[0] = rest[0][skip:]
            try:
                skip = send_parts(self.sock, rest)
            except OSError as error:
                raise BrokenConnection(_reason(error), total) from error
            total += skip
            if not skip:
                self._wait_for_room(total, deadline)

    def _wait_for_room(self, written: int, deadline: float | None) -> None:
        if self.sock.fileno() < 0:
            raise BrokenConnection("the connection was closed", written)
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left < PROGRESS_TIMEOUT:
            if not wait_socket(self.sock, write=True, timeout=left):
                raise TimeoutError
        elif not wait_socket(self.sock, write=True, timeout=PROGRESS_TIMEOUT):
            raise BrokenConnection(f"the other side took no byte for {PROGRESS_TIMEOUT:g} s", written)


class TlsWire:
    """
    Bytes under TLS, through memory buffers.

    OpenSSL objects take one thread at a time, and a thread that waits for bytes inside one would shut out the writer; here the
    wait is on the bare socket and the lock is held only while bytes are turned over.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server: bool, host: str | None = None) -> None:
        import ssl

        self.sock = sock
        self.receive_now: Callable[[memoryview], int] | None = None
        self.send_now: Callable[[bytes, int], int] | None = None
        self._plain = PlainWire(sock)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._want_read = ssl.SSLWantReadError
        self._closed = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
        name = None if server else host
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server, server_hostname=name)
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._raw = memoryview(bytearray(16 << 10))

    def handshake(self, deadline: float) -> None:
        """Do the TLS handshake until a monotonic instant. Raises ssl.SSLError, `BrokenConnection`, TimeoutError, OSError."""
        while True:
            try:
                self.tls.do_handshake()
            except self._want_read:
                self._flush()
                self._feed(max(deadline - time.monotonic(), 0))
            except OSError:
                self._flush()  # the alert: it tells the other side why
                raise
            else:
                self._flush()
                return

    def receive_into(self, memory: memoryview, timeout: float | None) -> int:
        """Read some bytes; see `Wire`."""
        while True:
            with self._lock:
                try:
                    return int(self.tls.read(len(memory), memory))
                except self._want_read:
                    pass  # more bytes are needed: fetched below, without the lock
                except self._closed:
                    return 0
            self._feed(timeout)

    def send(self, parts: Sequence[Buffer], deadline: float | None = None, written: int = 0) -> None:
        """Send all parts; see `Wire`."""
        assert not written  # there is no `send_now` under TLS
        with self._send_lock:
            for part in parts:
                view = memoryview(part).cast("B")
                for offset in range(0, view.nbytes, _TLS_CHUNK):
                    try:
                        with self._lock:
                            self.tls.write(view[offset : offset + _TLS_CHUNK])
                            data = self._outgoing.read()
                    except OSError as error:
                        raise BrokenConnection(_reason(error), written) from error
                    # Counted first: a part of a record that left may carry bytes of the frame.
                    written += min(_TLS_CHUNK, view.nbytes - offset)
                    try:
                        self._plain.send([data], deadline)
                    except BrokenConnection as broken:
                        raise BrokenConnection(broken.reason, written) from broken

    def readable(self) -> object:
        """See `Wire`."""
        return self._incoming.pending or self.tls.pending() or self._plain.readable()

    def _feed(self, timeout: float | None) -> None:
        count = self._plain.receive_into(self._raw, timeout)
        with self._lock:
            if count:
                self._incoming.write(self._raw[:count])
            else:
                self._incoming.write_eof()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self._plain.send([data])


def is_deadline(error: OSError) -> bool:
    """Tell our own deadline from that of the kernel, which has a number: a peer that keepalive has found dead."""
    return isinstance(error, TimeoutError) and error.errno is None


def shut_down(sock: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    """End the stream, which wakes whoever reads or writes it. Any thread; again is fine."""
    try:
        sock.shutdown(how)
    except OSError:
        pass  # closed, or never connected: nobody is left to be woken


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
