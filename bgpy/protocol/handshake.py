"""
The opening: both sides prove that they know the token before either unpickles a byte.

Sans-I/O: each side is a generator that yields what to send and how many bytes it needs next, and returns an `Opening`. The
messages have fixed sizes of at most 256 bytes. Every byte: docs/protocol.rst, "Opening"; the reasons: docs/security.rst.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import os
import socket
import struct
import sys
from collections.abc import Callable, Generator
from typing import NamedTuple

from bgpy.addresses import address_bytes, is_loopback
from bgpy.errors import AuthenticationError, BgpyError, ConnectError, RemoteProtocolError, VersionMismatchError
from bgpy.token import derive_key

MAGIC = b"BGPY"
VERSION = 1
#: magic, kind, and three bytes whose meaning depends on the kind.
_PREAMBLE = struct.Struct("!4sBBBB")
#: both addresses and ports as this end sees them (IPv4 as ::ffff:a.b.c.d), then boot id and network namespace.
_VIEW = struct.Struct("!16sH16sH32s")
#: python, lane, nonce, client id, wanted instance id, most bytes of a message, view.
_HELLO_CLIENT = struct.Struct("!2sH32s16s16sQ68s")
#: python, padding, nonce, instance id, most bytes of a message, view.
_HELLO_SERVER = struct.Struct("!2s2x32s16sQ68s")
_PROOF_SIZE = 32

_KIND_HELLO_CLIENT, _KIND_HELLO_SERVER, _KIND_PROOF_CLIENT, _KIND_PROOF_SERVER, _KIND_REFUSAL = 1, 2, 3, 4, 127
_SIZES = {
    _KIND_HELLO_CLIENT: _HELLO_CLIENT.size,
    _KIND_HELLO_SERVER: _HELLO_SERVER.size,
    _KIND_PROOF_CLIENT: _PROOF_SIZE,
    _KIND_PROOF_SERVER: _PROOF_SIZE,
    _KIND_REFUSAL: 0,
}

#: This end has a token (that is not empty).
_FLAG_TOKEN = 0x01
#: This end wants a MAC on every frame.
_FLAG_MAC = 0x02
#: This end speaks TLS; a client says so only where it has verified the server.
_FLAG_SECURE = 0x04
#: The client takes up a lane again.
_FLAG_RESUME = 0x08

ZERO_ID = bytes(16)


class Refusal(enum.IntEnum):
    """Why an opening was refused; each has a fixed text, nothing else is told to a stranger."""

    NOT_BGPY = 1
    VERSION = 2
    TOKEN_NEEDED = 3
    WRONG_TOKEN = 4
    OVERLOADED = 5
    ENDING = 6


_REFUSAL_TEXTS = {
    Refusal.NOT_BGPY: "it did not understand the opening",
    Refusal.VERSION: "it speaks another version of the protocol",
    Refusal.TOKEN_NEEDED: "it asks for a token",
    Refusal.WRONG_TOKEN: "the token differs",
    Refusal.OVERLOADED: "it has no room for another connection",
    Refusal.ENDING: "it is ending",
}


class Admission(enum.IntEnum):
    """What the server says, inside its proof, to the lane that the client named."""

    OK = 0
    LANE_UNKNOWN = 1
    OTHER_INSTANCE = 2


_ADMISSIONS = frozenset(Admission)


class View(NamedTuple):
    """What one end sees of a connection: packed 16-byte addresses, ports, and the machine (32 bytes, zero where unknown)."""

    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    machine: bytes

    def mirrors(self, other: View) -> bool:
        """Return whether both ends see the same loopback connection of one machine and network namespace."""
        return (
            self.machine == other.machine != bytes(32)
            and (self.local, self.local_port) == (other.remote, other.remote_port)
            and (self.remote, self.remote_port) == (other.local, other.local_port)
            and is_loopback(socket.inet_ntop(socket.AF_INET6, self.local))
            and is_loopback(socket.inet_ntop(socket.AF_INET6, self.remote))
        )


def make_view(local: tuple[object, ...] | str, remote: tuple[object, ...] | str, machine: bytes | None) -> View:
    """Return the view of one end from its two socket addresses; other families than IP give a view that mirrors nothing."""
    return View(*_pack_address(local), *_pack_address(remote), machine or bytes(32))


def _pack_address(address: tuple[object, ...] | str) -> tuple[bytes, int]:
    packed = address_bytes(str(address[0])) if isinstance(address, tuple) else None
    if packed is None:
        return bytes(16), 0
    port = address[1]
    assert isinstance(port, int)
    return (bytes(10) + b"\xff\xff" + packed if len(packed) == 4 else packed), port


class ClientHello(NamedTuple):
    """Who opens a connection, and for which lane."""

    client_id: bytes
    lane: int
    resume: bool
    wanted_instance: bytes


class Terms(NamedTuple):
    """What one end brings to an opening; `secure` is TLS (on the client's side with a verified peer)."""

    token: str
    max_message_size: int
    view: View
    secure: bool
    address: str

    def __repr__(self) -> str:
        return f"Terms({self.address})"  # never the token


class Opening:
    """What both ends have agreed on. The keys are None where frames go bare."""

    # No named tuple: these are looked at for every request, and a slot is found in a tenth of the time.
    __slots__ = ("admission", "client", "instance", "peer_max_size", "peer_python", "receive_key", "send_key")

    def __init__(
        self,
        client: ClientHello,
        instance: bytes,
        admission: Admission,
        peer_python: str,
        peer_max_size: int,
        send_key: bytes | None,
        receive_key: bytes | None,
    ) -> None:
        self.client = client
        self.instance = instance
        self.admission = admission
        self.peer_python = peer_python
        self.peer_max_size = peer_max_size
        self.send_key = send_key
        self.receive_key = receive_key

    def __repr__(self) -> str:
        return f"Opening({self.instance.hex()}, {'MAC' if self.send_key else 'bare'})"  # never the keys


class Step(NamedTuple):
    """Send `data`, then read exactly `need` bytes (none where it is 0) and send them into the generator."""

    data: bytes
    need: int


Opener = Generator[Step, bytes, Opening]


def client_opening(terms: Terms, hello: ClientHello) -> Opener:
    """
    Open a connection as the client.

    Raises
    ------
    AuthenticationError
        The server refused the token, needs one, needs none although we have one, or could not prove it.
    VersionMismatchError
        No common version.
    ConnectError
        The server has no room, or is ending.
    RemoteProtocolError
        The other side is not bgpy.
    """
    own_nonce = os.urandom(32)
    flags = _flags(terms) | (_FLAG_RESUME if hello.resume else 0)
    body = _HELLO_CLIENT.pack(
        _python_version(),
        hello.lane,
        own_nonce,
        hello.client_id,
        hello.wanted_instance,
        terms.max_message_size,
        _VIEW.pack(*terms.view),
    )
    hello_c = _PREAMBLE.pack(MAGIC, _KIND_HELLO_CLIENT, VERSION, VERSION, flags) + body
    hello_s = yield from _receive(hello_c, _KIND_HELLO_SERVER, terms)
    _, _, version, _, server_flags = _PREAMBLE.unpack_from(hello_s)
    if version != VERSION:
        raise VersionMismatchError(str(VERSION), str(version))
    if terms.token and not server_flags & _FLAG_TOKEN:
        raise AuthenticationError(terms.address, "the server says that it needs no token, and this client has one")
    python, _, instance, peer_max, view = _HELLO_SERVER.unpack_from(hello_s, _PREAMBLE.size)
    keys = _Keys(terms)
    proof_c = _PREAMBLE.pack(MAGIC, _KIND_PROOF_CLIENT, 0, 0, 0) + keys.prove(b"client", hello_c, hello_s)
    proof_s = yield from _receive(proof_c, _KIND_PROOF_SERVER, terms)
    status = proof_s[5:6]
    # Whole, as the server compares ours: no byte of an opening is open to whoever sits in between.
    expected = _PREAMBLE.pack(MAGIC, _KIND_PROOF_SERVER, status[0], 0, 0) + keys.prove(
        b"server", hello_c, hello_s, proof_c, status
    )
    if not hmac.compare_digest(expected, proof_s):
        raise AuthenticationError(terms.address, "the server could not prove that it knows the token")
    if status[0] not in _ADMISSIONS:
        raise RemoteProtocolError(f"The server at {terms.address} sent the unknown admission {status[0]}")
    bare = _frames_go_bare(flags, server_flags, terms.view, View(*_VIEW.unpack(view)))
    to_server, to_client = (None, None) if bare else keys.directions(hello_c, hello_s, proof_c, proof_s)
    return Opening(hello, instance, Admission(status[0]), _python_text(python), peer_max, to_server, to_client)


def server_opening(terms: Terms, instance: bytes, admit: Callable[[ClientHello], Admission]) -> Opener:
    """
    Open a connection as the server; reads at most 256 bytes from a stranger at a time.

    Parameters
    ----------
    admit
        Called once the client has proved the token, before our own proof goes out: registers the lane.

    Raises
    ------
    OpeningRefused
        With the bytes of the refusal, which the caller sends before it closes.
    """
    preamble = yield Step(b"", _PREAMBLE.size)
    magic, kind, oldest, newest, flags = _PREAMBLE.unpack(preamble)
    if magic != MAGIC or kind != _KIND_HELLO_CLIENT:
        raise OpeningRefused(Refusal.NOT_BGPY)
    if not oldest <= VERSION <= newest:
        raise OpeningRefused(Refusal.VERSION)
    body = yield Step(b"", _SIZES[kind])
    if terms.token and not flags & _FLAG_TOKEN:
        raise OpeningRefused(Refusal.TOKEN_NEEDED)
    python, lane, _, client_id, wanted, peer_max, view = _HELLO_CLIENT.unpack(body)
    hello_c = preamble + body
    own_flags = _flags(terms)
    own_body = _HELLO_SERVER.pack(_python_version(), os.urandom(32), instance, terms.max_message_size, _VIEW.pack(*terms.view))
    hello_s = _PREAMBLE.pack(MAGIC, _KIND_HELLO_SERVER, VERSION, 0, own_flags) + own_body
    keys = _Keys(terms)
    proof_c = yield Step(hello_s, _PREAMBLE.size + _PROOF_SIZE)
    expected = _PREAMBLE.pack(MAGIC, _KIND_PROOF_CLIENT, 0, 0, 0) + keys.prove(b"client", hello_c, hello_s)
    if not hmac.compare_digest(expected, proof_c):
        raise OpeningRefused(Refusal.WRONG_TOKEN)
    hello = ClientHello(client_id, lane, bool(flags & _FLAG_RESUME), wanted)
    admission = Admission.OTHER_INSTANCE if wanted not in (ZERO_ID, instance) else admit(hello)
    status = bytes([admission])
    proof = keys.prove(b"server", hello_c, hello_s, proof_c, status)
    proof_s = _PREAMBLE.pack(MAGIC, _KIND_PROOF_SERVER, admission, 0, 0) + proof
    bare = _frames_go_bare(flags, own_flags, terms.view, View(*_VIEW.unpack(view)))
    to_server, to_client = (None, None) if bare else keys.directions(hello_c, hello_s, proof_c, proof_s)
    yield Step(proof_s, 0)
    return Opening(hello, instance, admission, _python_text(python), peer_max, to_client, to_server)


class OpeningRefused(Exception):
    """Carry a refusal out of `server_opening`: `data` goes to the stranger."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal

    @property
    def data(self) -> bytes:
        """The refusal as it goes over the wire."""
        return refusal_message(self.refusal)

    def __str__(self) -> str:
        return f"Refused an opening: {_REFUSAL_TEXTS[self.refusal].replace('it ', 'this server ', 1)}."


def refusal_message(refusal: Refusal) -> bytes:
    """Return the fixed message of a refusal, with the versions that we speak."""
    return _PREAMBLE.pack(MAGIC, _KIND_REFUSAL, refusal, VERSION, VERSION)


class _Keys:
    """The proofs and keys of one opening; docs/protocol.rst, "Proof"."""

    def __init__(self, terms: Terms) -> None:
        self._token = terms.token
        self._proof_key = derive_key(terms.token, "proof")

    def prove(self, *parts: bytes) -> bytes:
        return hmac.digest(self._proof_key, _join(parts), "sha256")

    def directions(self, *messages: bytes) -> tuple[bytes, bytes]:
        transcript = hashlib.sha256(_join(messages)).digest()
        to_server = hmac.digest(derive_key(self._token, "client-to-server"), transcript, "sha256")
        to_client = hmac.digest(derive_key(self._token, "server-to-client"), transcript, "sha256")
        return to_server, to_client


def _join(parts: tuple[bytes, ...]) -> bytes:
    # Length-prefixed, so that no two different lists of parts give the same bytes.
    return b"".join([struct.pack("!I", len(part)) + part for part in parts])


def _receive(data: bytes, kind: int, terms: Terms) -> Generator[Step, bytes, bytes]:
    """Send `data` and return the server's next message of `kind`, whole; a refusal becomes its error."""
    preamble = yield Step(data, _PREAMBLE.size)
    magic, received, code, oldest, newest = _PREAMBLE.unpack(preamble)
    if magic != MAGIC:
        raise RemoteProtocolError(f"What listens at {terms.address} is not a bgpy server (or it speaks TLS, or this client does)")
    if received == _KIND_REFUSAL:
        raise _refused(code, oldest, newest, terms)
    if received != kind:
        raise RemoteProtocolError(f"The server at {terms.address} sent opening message {received} in place of {kind}")
    body = yield Step(b"", _SIZES[kind])
    return preamble + body


def _refused(code: int, oldest: int, newest: int, terms: Terms) -> BgpyError:
    if code == Refusal.VERSION:
        return VersionMismatchError(str(VERSION), str(oldest) if oldest == newest else f"{oldest} to {newest}")
    if code not in _REFUSAL_TEXTS:
        return RemoteProtocolError(f"The server at {terms.address} refused with the unknown code {code}")
    text = f"the server refused: {_REFUSAL_TEXTS[Refusal(code)]}"
    if code in (Refusal.TOKEN_NEEDED, Refusal.WRONG_TOKEN):
        return AuthenticationError(terms.address, text)
    if code == Refusal.NOT_BGPY:
        return RemoteProtocolError(f"{terms.address}: {text}")
    return ConnectError(terms.address, text)


def _flags(terms: Terms) -> int:
    return (_FLAG_TOKEN if terms.token else 0) | (
        _FLAG_SECURE if terms.secure else _FLAG_MAC if not terms.view.machine.strip(b"\0") else 0
    )


def _frames_go_bare(client_flags: int, server_flags: int, ours: View, theirs: View) -> bool:
    """Decide whether frames carry no MAC: protocol rule, docs/security.rst, "Frames"."""
    if client_flags & server_flags & _FLAG_SECURE:
        return True
    return not (client_flags | server_flags) & _FLAG_MAC and ours.mirrors(theirs)


def own_python() -> str:
    """Return the minor version of this Python, as ``3.11``: bytecode does not travel between two of them."""
    return _python_text(_python_version())


def _python_version() -> bytes:
    return bytes(sys.version_info[:2])


def _python_text(packed: bytes) -> str:
    return f"{packed[0]}.{packed[1]}"
