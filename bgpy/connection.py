"""
One open connection, driven over a blocking socket, and how a client gets one.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from bgpy.addresses import format_address, is_loopback, resolve_addresses
from bgpy.errors import AuthenticationError, BgpyError, ConnectError, LocalProtocolError, RemoteProtocolError
from bgpy.protocol.exchange import BrokenConnection, LaneNumbers
from bgpy.protocol.frames import (
    FLAG_AWAIT,
    FLAG_MORE,
    HEADER_SIZE,
    SMALL_SIZE,
    Buffer,
    Frame,
    FrameFields,
    FrameMac,
    FrameReader,
    Header,
    encode_frame,
    pack_brief,
    unpack_brief,
)
from bgpy.protocol.handshake import ClientHello, Opener, Opening, Terms, client_opening, make_view
from bgpy.protocol.messages import EXEC, OK, REQUEST, RESPONSE, PayloadFields
from bgpy.protocol.states import CLIENT_IDLE, CLIENT_WAITING, SERVER_IDLE, SERVER_WAITING, ConnectionState, Role
from bgpy.system import DONTWAIT, prepare_socket
from bgpy.tls import check_token_tls
from bgpy.token import check_token_strength
from bgpy.wires import PROGRESS_TIMEOUT, PlainWire, TlsWire, Wire, is_deadline, shut_down

if TYPE_CHECKING:
    import ssl

#: Most bytes of one message, pickle and buffers, unless the caller says otherwise.
DEFAULT_MAX_MESSAGE_SIZE = 1 << 30
#: Why an opening broke off. A server with TLS says no more to a client without, nor does what is no server of bgpy.
CLOSED_EARLY = "the other side closed the connection during the opening (does it have TLS, and this one not?)"
#: Seconds that a refused peer gets to read why, and bytes of it that are thrown away meanwhile.
_LINGER_TIMEOUT = 2.0
_LINGER_SIZE = 16 << 20


def _broken(error: OSError) -> BrokenConnection:
    """Return what an error of a read stands for; raises it again where it is our own deadline."""
    if is_deadline(error):
        raise error
    return BrokenConnection(error.strerror or str(error))


def _nothing_now(data: bytes, flags: int) -> int:
    """Send no byte: where a wire cannot tell what would go without waiting."""
    return 0


class Connection:
    """
    One open connection. One thread reads; one at a time writes.

    Attributes
    ----------
    opening
        What both ends agreed on.
    state
        Where the connection stands in the table of `bgpy.protocol.states`.
    """

    def __init__(self, wire: Wire, role: Role, opening: Opening, max_size: int) -> None:
        self.wire = wire
        self.opening = opening
        self.state = ConnectionState(role)
        self.state.opened()
        self._reader = FrameReader(max_size, None if opening.receive_key is None else FrameMac(opening.receive_key))
        self._mac = None if opening.send_key is None else FrameMac(opening.send_key)
        self._receive_into = wire.receive_into
        self._receive_now = wire.receive_now or partial(wire.receive_into, timeout=None)
        self._readable = wire.readable
        self._send = wire.send
        self._send_now = wire.send_now or _nothing_now
        # The largest pickles that are sent, and taken, in one step: none, where there is a MAC to be made or looked at.
        self._most_sent = min(SMALL_SIZE, opening.peer_max_size) if self._mac is None else -1
        self._most_taken = max_size if opening.receive_key is None else -1
        #: An answer that came before its request had left.
        self._early: Frame | None = None
        #: The number of the last request that `ask` has handed over as a whole.
        self.asked = 0

    @property
    def refused(self) -> Header | None:
        """The header of the frame that was refused for its size."""
        return self._reader.announced

    def transmit(
        self, kind: int, flags: int, part: int, number: int, payload: PayloadFields, deadline: float | None = None
    ) -> None:
        """
        Send one frame; blocks while the other side takes no bytes, up to `PROGRESS_TIMEOUT` for each.

        Raises `BrokenConnection` with the number of bytes handed over, LocalProtocolError, and TimeoutError at the monotonic
        instant `deadline`: then the last byte has not been handed over, and the connection is of no more use. A server that
        refuses a request for its size answers before it has come, and closes: then there is something to `receive`.
        """
        self.state.sending(kind, flags & FLAG_MORE)
        pickle, buffers, _ = payload
        self._send_rest(encode_frame(kind, flags, part, number, pickle, buffers, self._mac), deadline, 0)

    def ask(self, head: int, numbers: LaneNumbers, pickle: bytes | memoryview, deadline: float | None) -> FrameFields | None:
        """
        Send a small request under the next number and return the first frame of its answer: `transmit` and `receive` in one.

        Every request passes here and through `receive_fields` and `send_frame` over there, so they do the usual thing in a row:
        a call more for each of them costs a request a hundredth of its time.

        Parameters
        ----------
        head
            How the header begins, see `bgpy.protocol.frames.brief`.
        numbers
            Those of the lane; one is taken.
        pickle
            The message; no buffers, nothing by value.
        deadline
            As for `transmit` and `receive`.

        Returns
        -------
        frame
            None, with nothing done, where that cannot be relied on: the pickle is large, frames have MACs, or the connection is
            not `quiet`.

        Raises
        ------
        BrokenConnection, TimeoutError, RemoteProtocolError, MessageTooLargeError
            As `transmit` does, or, where `asked` is the number that was taken, `receive`.
        """
        size = len(pickle)
        state, reader = self.state, self._reader
        readable, send_now, receive_now = self._readable, self._send_now, self._receive_now
        if state.place is not CLIENT_IDLE or size > self._most_sent or not reader.idle or readable():
            return None
        state.place = CLIENT_WAITING
        number = numbers.last = numbers.last + 1
        data = pack_brief(head, number, size) + pickle
        try:
            written = send_now(data, DONTWAIT)
        except OSError:
            written = 0  # no room, or broken: `send` says which
        if written != len(data):
            self._send_rest([data], deadline, written)
        self.asked = number
        if self._early is None:
            try:
                if deadline is None:
                    count = receive_now(reader.first_memory)
                else:
                    count = self._receive_into(reader.first_memory, max(deadline - time.monotonic(), 0))
            except OSError as error:
                raise _broken(error) from error
            head, answered, length = unpack_brief(reader.small)
            if head == RESPONSE and answered == number and length + HEADER_SIZE == count and length <= self._most_taken:
                state.place = CLIENT_IDLE
                return OK, 0, 0, number, reader.small[HEADER_SIZE:count], []
            self._arrived(count)
        frame = self.receive_fields(deadline)
        _, _, part, answered, _, _ = frame
        if answered != number or part:
            raise RemoteProtocolError(f"Expected part 0 of answer {number}, got part {part} of {answered}")
        return frame

    def _send_rest(self, parts: list[Buffer], deadline: float | None, written: int) -> None:
        """Send what did not go at once; where that breaks, look whether the server has refused the request meanwhile."""
        try:
            self._send(parts, deadline, written)
        except BrokenConnection as broken:
            if not broken.written or self.state.role is Role.SERVER or not self._answered_early():
                raise

    def _answered_early(self) -> bool:
        try:
            self._early = self.receive(time.monotonic())
        except (TimeoutError, BrokenConnection, BgpyError):
            return False  # no answer: how the request broke off is all that is known
        return True

    def send_frame(self, kind: int, flags: int, part: int, number: int, payload: PayloadFields) -> bool:
        """Send one frame of an answer; False where the connection is broken, and then it is ended for good."""
        state = self.state
        pickle, buffers, _ = payload
        size = len(pickle)
        try:
            if kind != OK or flags or part or buffers or size > self._most_sent or state.place is not SERVER_WAITING:
                self.transmit(kind, flags, part, number, payload)
                return True
            # The usual answer, as `transmit` would send it.
            state.place = SERVER_IDLE
            data = pack_brief(RESPONSE, number, size) + pickle
            send_now = self._send_now
            try:
                written = send_now(data, DONTWAIT)
            except OSError:
                written = 0  # no room, or broken: `send` says which
            if written != len(data):
                self._send_rest([data], None, written)
        except (BrokenConnection, LocalProtocolError):
            self.shut_down()
            return False
        return True

    def receive(self, deadline: float | None = None, announced: Callable[[Header], None] | None = None) -> Frame:
        """
        Return the next frame; blocks.

        Parameters
        ----------
        deadline
            Monotonic instant at which the wait ends with TimeoutError.
        announced
            Called with the header of a large frame before memory is taken for it; may raise to refuse it.

        Raises
        ------
        BrokenConnection
            The end of the stream, an error, or no byte for `PROGRESS_TIMEOUT` within a frame.
        RemoteProtocolError, MessageTooLargeError
            What `FrameReader.next_frame` and the table of states raise.
        """
        return Frame(*self.receive_fields(deadline, announced))

    def receive_fields(self, deadline: float | None = None, announced: Callable[[Header], None] | None = None) -> FrameFields:
        """Do as `receive`, for where every request passes: the fields of the frame, bare."""
        if self._early is not None:
            early, self._early = self._early, None
            return early
        state, reader = self.state, self._reader
        if reader.idle:
            receive_now = self._receive_now
            try:
                if deadline is None:
                    count = receive_now(reader.first_memory)
                else:
                    count = self._receive_into(reader.first_memory, max(deadline - time.monotonic(), 0))
            except OSError as error:
                raise _broken(error) from error
            head, number, length = unpack_brief(reader.small)
            if head == REQUEST and length + HEADER_SIZE == count and state.place is SERVER_IDLE and length <= self._most_taken:
                state.place = SERVER_WAITING
                return EXEC, FLAG_AWAIT, 0, number, reader.small[HEADER_SIZE:count], []
            self._arrived(count)
        while (frame := reader.next_frame()) is None:
            if reader.announced is None:
                self._read(deadline)
                continue
            if announced is not None:
                announced(reader.announced)
            reader.allocate()
        state.received(frame.kind, frame.flags & FLAG_MORE)
        return frame

    def _arrived(self, count: int) -> None:
        """Hand what has arrived at a reader that was idle to that reader."""
        if not count:
            raise BrokenConnection("the other side closed the connection")
        self._reader.advance(count)

    def _read(self, deadline: float | None) -> None:
        """Read more of a frame that has begun."""
        reader = self._reader
        timeout = None if deadline is None else max(deadline - time.monotonic(), 0)
        if timeout is None or timeout > PROGRESS_TIMEOUT:
            timeout, deadline = PROGRESS_TIMEOUT, None
        try:
            count = self._receive_into(reader.memory(), timeout)
        except OSError as error:
            if not is_deadline(error):
                raise BrokenConnection(error.strerror or str(error)) from error
            if deadline is not None:
                raise
            raise BrokenConnection(f"no byte of a frame under way came for {PROGRESS_TIMEOUT:g} s") from None
        if not count:
            raise BrokenConnection("the other side closed the connection within a frame")
        reader.advance(count)

    def quiet(self) -> bool:
        """Return whether there is nothing to read now: no byte, no end, no error. Does not block."""
        # Not the wire alone: the end of a request may have come in one piece with its confirmation.
        return self._reader.idle and not self._readable()

    def wait_for_end(self, deadline: float) -> bool:
        """Wait for the other side to close; blocks. Returns whether it did in time."""
        scratch = memoryview(bytearray(1024))
        try:
            while self.wire.receive_into(scratch, max(deadline - time.monotonic(), 0)):
                pass  # nothing is expected; whatever it is, the end comes after it
        except TimeoutError:
            return False
        except OSError:
            pass  # a reset is an end as well
        return True

    def shut_down(self) -> None:
        """End the stream in both directions, which wakes whoever reads or writes. Any thread; again is fine."""
        shut_down(self.wire.sock)

    def close(self) -> None:
        """Close the socket; nothing may be reading it. Again is fine."""
        self.state.closed()
        self.wire.sock.close()


def end_politely(sock: socket.socket) -> None:
    """
    End our direction and read the rest, within narrow limits: a reset would take the reason of a refusal away from the peer.
    """
    deadline = time.monotonic() + _LINGER_TIMEOUT
    wire = PlainWire(sock)
    scratch = memoryview(bytearray(16 << 10))
    left = _LINGER_SIZE
    try:
        sock.shutdown(socket.SHUT_WR)
        while left > 0 and (count := wire.receive_into(scratch, max(deadline - time.monotonic(), 0))):
            left -= count
    except OSError:
        pass  # gone already, or too slow: it had its chance (TimeoutError is an OSError)


def check_message_size(size: int) -> None:
    """Refuse a limit for messages that lets none through, or that an opening cannot tell. Raises ValueError, TypeError."""
    if not hasattr(size, "__index__"):  # 1e9 for one
        raise TypeError(f"max_message_size is a whole number of bytes, not {size!r:.100}.")
    if not 0 < size < 1 << 64:
        raise ValueError(f"max_message_size is a number of bytes from 1 on, not {size}.")


def drive_opening(opener: Opener, wire: Wire, deadline: float) -> Opening:
    """
    Drive one side of an opening to its end; blocks until `deadline` at most.

    Raises TimeoutError, `BrokenConnection`, and what the opener raises.
    """
    step = next(opener)
    while True:
        if step.data:
            wire.send([step.data])
        memory = memoryview(bytearray(step.need))
        filled = 0
        while filled < step.need:
            count = wire.receive_into(memory[filled:], max(deadline - time.monotonic(), 0))
            if not count:
                raise BrokenConnection(CLOSED_EARLY)
            filled += count
        try:
            step = opener.send(bytes(memory))
        except StopIteration as done:
            opening: Opening = done.value
            return opening


class Dialer:
    """
    Make connections to one server. Holds no socket; any thread.

    Parameters
    ----------
    host, port
        Where the server listens; every address that a name has is tried in turn.
    token
        The token itself, "" for none.
    context
        TLS, or None.
    """

    def __init__(
        self,
        host: str,
        port: int,
        token: str,
        context: ssl.SSLContext | None,
        tls_by_token: bool,
        max_size: int,
        machine: bytes | None,
    ) -> None:
        self.host = host
        self.port = port
        self.address = format_address(host, port)
        self.max_size = max_size
        self.machine = machine
        self._token = token
        self.context = context
        self.tls_by_token = tls_by_token

    def terms(self, local: tuple[object, ...], remote: tuple[object, ...], secure: bool) -> Terms:
        """
        Return what this client brings to an opening over a socket with these addresses.

        Raises TokenError for a token that can be guessed, off loopback: a false server would get a proof to guess it from.
        """
        if self._token:
            check_token_strength(self._token, loopback=is_loopback(str(remote[0])))
        return Terms(self._token, self.max_size, make_view(local, remote, self.machine), secure, self.address)

    @property
    def secure(self) -> bool:
        """Whether there is TLS that verifies the server's certificate or key."""
        return self.context is not None and self.context.verify_mode.name == "CERT_REQUIRED"

    def dial(self, hello: ClientHello, timeout: float) -> Connection:
        """
        Open a connection; blocks for `timeout` seconds at most.

        Raises
        ------
        ConnectError
            Nobody listens, the name is unknown, or it took too long.
        BrokenConnection
            It was cut during the opening.
        AuthenticationError, VersionMismatchError, RemoteProtocolError
            See `client_opening`.
        """
        deadline = time.monotonic() + timeout
        sock = self._connect(deadline, timeout)
        try:
            wire: Wire = PlainWire(sock) if self.context is None else self._wrap(sock, deadline)
            terms = self.terms(sock.getsockname(), sock.getpeername(), self.secure)
            opening = drive_opening(client_opening(terms, hello), wire, deadline)
            return Connection(wire, Role.CLIENT, opening, self.max_size)
        except TimeoutError:
            sock.close()
            raise ConnectError(self.address, f"no answer to the opening within {timeout:.3g} s") from None
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError) and not isinstance(error, BgpyError):
                raise self._broken(error) from error
            raise

    def _broken(self, error: OSError) -> AuthenticationError | BrokenConnection:
        """Tell what TLS refuses, here or over there (then the first read tells), from a connection that is cut."""
        if self.context is not None:
            import ssl

            if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
                return self.tls_refused(error)
        return BrokenConnection(error.strerror or str(error))

    def tls_refused(self, error: ssl.SSLError) -> AuthenticationError:
        """Return the error that says why TLS was refused, and what to look at."""
        reason = f"TLS failed: {error.reason or error}"
        if self.tls_by_token:
            return AuthenticationError(self.address, reason)
        return AuthenticationError(self.address, reason, "Check the certificates, and the host that the server's one is for")

    def _connect(self, deadline: float, timeout: float) -> socket.socket:
        reasons: list[str] = []
        for family, address in resolve_addresses(self.host, self.port):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(max(deadline - time.monotonic(), 0.001))
                sock.connect(address)
                sock.settimeout(None)
                prepare_socket(sock)
            except TimeoutError:
                sock.close()
                reasons.append(f"no answer within {timeout:.3g} s")
            except OSError as error:
                sock.close()
                reasons.append(error.strerror or str(error))
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise ConnectError(self.address, "; ".join(dict.fromkeys(reasons)))

    def _wrap(self, sock: socket.socket, deadline: float) -> TlsWire:
        assert self.context is not None
        wire = TlsWire(sock, self.context, server=False, host=self.host)
        wire.handshake(deadline)
        if self.tls_by_token:
            check_token_tls(wire.tls, self.address)
        return wire
