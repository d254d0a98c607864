"""
Let connections in: accept, give each its thread, and see both sides prove the token.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from bgpy.addresses import format_address
from bgpy.connection import Connection, drive_opening, end_politely
from bgpy.errors import BgpyError, RemoteProtocolError
from bgpy.held import held_instances
from bgpy.protocol.exchange import BrokenConnection
from bgpy.protocol.handshake import (
    Admission,
    ClientHello,
    Opening,
    OpeningRefused,
    Terms,
    make_view,
    server_opening,
)
from bgpy.protocol.lanes import Lane, LaneTable
from bgpy.protocol.states import Role
from bgpy.serving.conversation import Conversation, Seat
from bgpy.sockets import ServerSocket
from bgpy.system import machine_identity, wait_socket
from bgpy.tls import check_token_tls
from bgpy.wires import PlainWire, TlsWire, Wire, shut_down

if TYPE_CHECKING:
    import logging
    import ssl

#: Seconds from accept to proof, TLS included, however the bytes drip in.
OPENING_TIMEOUT = 10.0
#: Connections that have proved nothing yet; the oldest makes room for a new one.
MAX_UNPROVED = 64
#: Seconds between two tries when there is not even a file to turn a connection away with.
_STARVED_PAUSE = 0.1
#: Seconds that threads get to leave at the end.
_LEAVE_TIMEOUT = 2.0


class Door:
    """How a server is entered: its token, TLS, limits and id. Immutable."""

    def __init__(
        self, token: str, context: ssl.SSLContext | None, tls_by_token: bool, max_message_size: int, instance: bytes, address: str
    ) -> None:
        self.instance = instance
        self.max_message_size = max_message_size
        self.context = context
        self.tls_by_token = tls_by_token
        self._token = token
        self._address = address
        self._machine = machine_identity()

    def terms(self, sock: socket.socket) -> Terms:
        """Return what this server brings to an opening over `sock`."""
        view = make_view(sock.getsockname(), sock.getpeername(), self._machine)
        return Terms(self._token, self.max_message_size, view, self.context is not None, self._address)


class Reception:
    """
    Accept connections and run one thread for each.

    Parameters
    ----------
    listener
        Bound, not yet listening.
    door
        How the server is entered.
    converse
        Makes the conversation of a proved connection.
    """

    def __init__(
        self,
        listener: ServerSocket,
        door: Door,
        converse: Callable[[Connection, Seat, Lane, LaneTable], Conversation],
    ) -> None:
        self._listener = listener
        self._door = door
        self._converse = converse
        self._lanes = LaneTable()
        self._mutex = threading.Lock()
        self._unproved: OrderedDict[socket.socket, None] = OrderedDict()
        self._sockets: dict[socket.socket, threading.Thread] = {}
        self._ended = False
        self._refused = 0
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        # Given up for a moment when files run out, so that the connection that is too many can be taken and closed.
        self._spare_file = os.open(os.devnull, os.O_RDONLY)

    @property
    def wake_file(self) -> int:
        """The descriptor that a signal writes to, for `signal.set_wakeup_fd`."""
        return self._wake_writer.fileno()

    def counts(self) -> dict[str, int]:
        """Return how many connections there are, and how many strangers were refused."""
        with self._mutex:
            return {"connections": len(self._sockets) - len(self._unproved), "refused": self._refused}

    def accept_until_woken(self) -> None:
        """Accept connections until `wake` is called or a signal comes; blocks."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_reader, selectors.EVENT_READ)
            if self._listener.sock.fileno() >= 0:  # closed while the server ends: then there is only its end to wait for
                selector.register(self._listener.sock, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._wake_reader:
                        self._wake_reader.recv(64)
                        return
                    self._accept()

    def wake(self) -> None:
        """Let `accept_until_woken` return. Any thread."""
        try:
            self._wake_writer.send(b"\0")
        except (BlockingIOError, OSError):
            pass  # full: it is being woken anyway; closed: it has returned

    def exit_on_signal(self) -> None:
        """
        Have the process exit on the next SIGTERM or SIGINT, until `wake` is called.

        By a thread: from now on the main one may wait where no handler runs.
        """
        try:
            threading.Thread(target=self._exit_on_signal, name="bgpy-signals", daemon=True).start()
        except RuntimeError:
            pass  # no more threads: the handler still works where the main thread runs Python

    def _exit_on_signal(self) -> None:
        try:
            while wait_socket(self._wake_reader):
                for number in self._wake_reader.recv(64):
                    if number in (signal.SIGTERM, signal.SIGINT):
                        os._exit(128 + number)
                    if number == 0:
                        return
        except (OSError, ValueError):
            return  # closed: the server has ended

    def close_listener(self) -> None:
        """Take no new connections; the port is free for another server."""
        self._listener.close()

    def close(self) -> None:
        """End all connections and wait a moment for their threads. The listener is closed too."""
        with self._mutex:
            self._ended = True
            connections = dict(self._sockets)
        # At first only what comes in ends: whoever has just been refused is still told so.
        for how in (socket.SHUT_RD, socket.SHUT_RDWR):
            for sock in connections:
                shut_down(sock, how)
            deadline = time.monotonic() + _LEAVE_TIMEOUT / 2
            for thread in connections.values():
                if thread is not threading.current_thread():
                    thread.join(max(deadline - time.monotonic(), 0))
        self.close_files()

    def close_files(self) -> None:
        """Close what a forked child must not keep: no goodbye, nothing shut down, for the parent goes on using it."""
        self._listener.close()
        self._wake_reader.close()
        self._wake_writer.close()
        if self._spare_file >= 0:
            os.close(self._spare_file)
            self._spare_file = -1

    def close_after_fork(self) -> None:
        """Close every descriptor in a forked child."""
        self.close_files()
        for sock in self._sockets:
            sock.close()

    def _accept(self) -> None:
        try:
            sock = self._listener.accept()
        except OSError as error:
            self._turn_one_away(error)
            return
        if sock is None:
            return
        thread = threading.Thread(target=self._receive, args=(sock,), name="bgpy-connection", daemon=True)
        with self._mutex:
            self._unproved[sock] = None
            self._sockets[sock] = thread
            # Out of the count at once: its thread may take a while to leave, and a burst must drop one for each new one.
            oldest = self._unproved.popitem(last=False)[0] if len(self._unproved) > MAX_UNPROVED else None
        if oldest is not None:
            shut_down(oldest)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads: this connection pays, not the server
            _log().warning("No thread for a new connection: %s", error)
            self._forget(sock)

    def _turn_one_away(self, error: OSError) -> None:
        """Accept and close one connection with the spare file, else the listener would stay ready and the loop would spin."""
        _log().warning("Cannot take a connection: %s", error)
        if self._spare_file >= 0:
            os.close(self._spare_file)
            self._spare_file = -1
        try:
            sock = self._listener.accept()
            if sock is not None:
                sock.close()
        except OSError:
            # Another thread took the file that was given up. Nothing can be done until one comes free.
            wait_socket(self._wake_reader, timeout=_STARVED_PAUSE)
        try:
            self._spare_file = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            pass  # as above; the next turn of the loop tries again

    def _receive(self, sock: socket.socket) -> None:
        # Once for the thread: whatever it runs but concurrent tasks stands in the queue for the state, or holds it.
        held_instances.set((self._door.instance,))
        try:
            self._open_and_converse(sock)
        except (OSError, BrokenConnection, BgpyError) as error:
            _log().info("A connection from %s ended: %s", _peer(sock), error)
        finally:
            self._forget(sock)

    def _open_and_converse(self, sock: socket.socket) -> None:
        seat = Seat()
        admitted: list[tuple[ClientHello, Lane]] = []

        def admit(hello: ClientHello) -> Admission:
            admission, lane = self._lanes.attach(hello, seat, time.monotonic())
            if admission is Admission.OK:
                admitted.append((hello, lane))
            return admission

        try:
            wire, opening = self._open(sock, admit)
            if opening is None or opening.admission is not Admission.OK:
                return
            connection = Connection(wire, Role.SERVER, opening, self._door.max_message_size)
            seat.take(connection)
            with self._mutex:
                self._unproved.pop(sock, None)
            self._converse(connection, seat, admitted[0][1], self._lanes).run()
        except RemoteProtocolError as error:
            _log().warning("A client at %s broke the protocol: %s", _peer(sock), error)
        finally:
            for hello, lane in admitted:
                self._lanes.detach(hello.client_id, lane, seat, time.monotonic())

    def _open(self, sock: socket.socket, admit: Callable[[ClientHello], Admission]) -> tuple[Wire, Opening | None]:
        deadline = time.monotonic() + OPENING_TIMEOUT
        door = self._door
        wire: Wire = PlainWire(sock)
        try:
            if door.context is not None:
                tls_wire = wire = TlsWire(sock, door.context, server=True)
                self._shake_hands(tls_wire, deadline)
                if door.tls_by_token:
                    check_token_tls(tls_wire.tls, _peer(sock))
            return wire, drive_opening(server_opening(door.terms(sock), door.instance, admit), wire, deadline)
        except OpeningRefused as refused:
            with self._mutex:
                self._refused += 1
            _log().warning("Refused a connection from %s: %s", _peer(sock), refused)
            wire.send([refused.data])
            end_politely(sock)
            return wire, None

    def _shake_hands(self, wire: TlsWire, deadline: float) -> None:
        try:
            wire.handshake(deadline)
        except TimeoutError:
            raise
        except OSError:
            end_politely(wire.sock)  # so that the reason, which TLS has sent, arrives
            raise

    def _forget(self, sock: socket.socket) -> None:
        with self._mutex:
            self._unproved.pop(sock, None)
            self._sockets.pop(sock, None)
        sock.close()


def _log() -> logging.Logger:
    import logging  # late: a server that starts has nothing to say, and logging takes a fifth of its start

    return logging.getLogger("bgpy.server")


def _peer(sock: socket.socket) -> str:
    try:
        return format_address(*sock.getpeername()[:2])
    except (OSError, TypeError):
        return "an unknown address"
