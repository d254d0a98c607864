"""
The sockets of a server: the one that listens, and what a task gets of its client.
"""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import Callable
from typing import Protocol

from bgpy.addresses import resolve_addresses
from bgpy.errors import BgpyError, LocalProtocolError, MessageTooLargeError, PythonVersionError, ResponseError
from bgpy.protocol.frames import FLAG_AWAIT, FLAG_BY_VALUE, FLAG_MORE, FLAG_STREAM, frame_size
from bgpy.protocol.handshake import Opening, own_python
from bgpy.protocol.messages import OK, PayloadFields, dump, dump_plain
from bgpy.system import prepare_listener, prepare_socket

#: Connections that may wait to be accepted.
_BACKLOG = 512


class ServerSocket:
    """A socket for listening, bound to the first address of its host that this machine has."""

    def __init__(self, host: str, port: int) -> None:
        """
        Bind; port 0 picks a free one.

        Raises
        ------
        ConnectError
            The host is unknown.
        OSError
            No address of the host can be bound: in use, or not this machine's.
        """
        failure: OSError | None = None
        for family, address in resolve_addresses(host, port):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                prepare_listener(sock)
                sock.bind(address)
                # A peer that is gone between poll and accept must not hold up the loop.
                sock.setblocking(False)
            except OSError as error:
                sock.close()
                failure = failure or error
                if error.errno == errno.EADDRINUSE:
                    break  # somebody listens there: another address of that name would not be the same server
            else:
                self.sock = sock
                self.address: tuple[str, int] = sock.getsockname()[:2]
                return
        assert failure is not None
        raise failure

    def listen(self) -> None:
        """Let clients connect; raises OSError where another server was faster."""
        self.sock.listen(_BACKLOG)

    def accept(self) -> socket.socket | None:
        """Return a new connection's blocking socket, None where the peer has gone again; raises OSError where files run out."""
        try:
            sock, _ = self.sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        try:
            sock.setblocking(True)
            prepare_socket(sock)
        except OSError:
            sock.close()
            return None
        return sock

    def close(self) -> None:
        """Stop listening. Again is fine."""
        self.sock.close()


class Outgoing(Protocol):
    """Where a task's responses go: an `Answer`, or something that holds them back."""

    @property
    def connected(self) -> bool:
        """Whether the client is there, as far as anybody knows."""

    def send(self, kind: int, flags: int, payload: PayloadFields) -> None:
        """Take one part; raises LocalProtocolError after the last one."""


class ClientSocket:
    """
    What a task gets of its client: a handle of one request, not of a connection. Any thread.

    Not made by users. `respond` answers, `defer` lets the task return before somebody else answers.
    """

    #: Seconds after which a deferred request expires; None while it is not deferred.
    deferred: float | None = None
    #: Whether the task was marked with `bgpy.concurrent`.
    deferrable = False
    #: Whether the last response is out.
    responded = False
    #: How many responses went out with more=True.
    parts = 0
    #: The error that `respond` raised last, so that the server can tell it to the client as it is.
    failure: BgpyError | None = None
    #: Takes the function of `when_ending`; None in all but an init task.
    note_ending: Callable[[Callable[[], object]], object] | None = None

    def __init__(self, outgoing: Outgoing | None, opening: Opening | None, flags: int) -> None:
        self.flags = flags
        self._outgoing = outgoing
        self._opening = opening

    @property
    def identity(self) -> tuple[bytes, int, int] | None:
        """
        What names this request among all that servers ever get: client id, lane and number.

        None for a task that no request runs. A request that its client takes up again keeps its identity.
        """
        return None

    @property
    def awaited(self) -> bool:
        """Whether the client waits for a response."""
        return bool(self.flags & FLAG_AWAIT)

    @property
    def streamed(self) -> bool:
        """Whether the client takes several responses, as `Client.stream` does; without it those with more=True go nowhere."""
        return bool(self.flags & FLAG_STREAM)

    @property
    def connected(self) -> bool:
        """Whether a response sent now would find the client, as far as the server knows."""
        return self._outgoing is not None and self._outgoing.connected

    def respond(self, response: dict[str, object], *, more: bool = False) -> None:
        """
        Send a response to the client that waits for it; blocks while the client takes it. Who does not wait gets nothing.

        Parameters
        ----------
        response
            Any dict that can be pickled.
        more
            Whether further responses follow; those are seen by `Client.stream` only.

        Raises
        ------
        ResponseError
            `response` is no dict, or the last response is out.
        SerializationError, PythonVersionError
            It cannot be pickled, or not for the client's Python; nothing was sent.
        MessageTooLargeError
            It is above the client's limit; nothing was sent.
        """
        outgoing, opening = self._outgoing, self._opening
        try:
            if not isinstance(response, dict):
                raise ResponseError(f"A response is a dict, not {type(response).__name__}")
            if self.responded:
                raise ResponseError("The last response to this request is out; pass more=True to all but the last")
            if outgoing is None or opening is None or not self.flags & (FLAG_STREAM if more else FLAG_AWAIT):
                self.responded = not more
                return
            flags = FLAG_MORE if more else 0
            pickle = dump_plain(response)
            payload: PayloadFields = dump(response) if pickle is None else (pickle, [], False)
            if pickle is None or len(pickle) > opening.peer_max_size:
                flags |= self._check(payload, opening)
            outgoing.send(OK, flags, payload)
        except LocalProtocolError:
            self.failure = ResponseError("The last response to this request is out, sent by another thread or its deadline")
            raise self.failure from None
        except BgpyError as failure:
            self.failure = failure
            raise
        self.responded = not more
        if more:
            self.parts += 1

    def defer(self, timeout: float | None = 3600.0) -> None:
        """
        Let the task return without a response: whoever finishes the work responds, from any thread.

        Only in a task marked with `bgpy.concurrent`. After `timeout` seconds the client gets NoResponseError; None where the task
        has seen to it that somebody responds in any case, also when the server ends.

        Raises ResponseError in any other task: its state could not go on.
        """
        if not self.deferrable:
            self.failure = ResponseError("Only a task that is marked with @bgpy.concurrent may defer its response")
            raise self.failure
        self.deferred = math.inf if timeout is None else timeout

    def when_ending(self, wake: Callable[[], object]) -> None:
        """
        Have a function called when the server begins to end: before it waits for concurrent tasks, which may so be woken.

        Only in an init task; elsewhere, and where a task runs by itself, it does nothing. `wake` must not block.
        """
        if self.note_ending is not None:
            self.note_ending(wake)

    def _check(self, payload: PayloadFields, opening: Opening) -> int:
        """Refuse what the client could not take; return the flag that the payload needs."""
        pickle, buffers, by_value = payload
        size = frame_size(pickle, buffers)
        if size > opening.peer_max_size:
            raise MessageTooLargeError(size, opening.peer_max_size, True)
        if by_value and opening.peer_python != own_python():
            raise PythonVersionError(own_python(), opening.peer_python)
        return FLAG_BY_VALUE if by_value else 0


def respond(client_socket: ClientSocket, response: dict[str, object], more: bool = False) -> None:
    """Send a response from within a task; see `ClientSocket.respond`."""
    client_socket.respond(response, more=more)
