"""
A connection to the keeper of a workspace: both ends prove that they know the actor's secret before anything else is read.

The cluster's own network is trusted no more and no less than Ray trusts it: frames are neither signed nor encrypted.
"""

from __future__ import annotations

import hmac
import os
import socket
import time

from bgpy.errors import AuthenticationError, RemoteProtocolError
from bgpy.system import prepare_socket
from bgpy.tasks.workspace.channel import MAX_SIZE, Channel

#: Bytes of an actor's secret.
SECRET_SIZE = 32
_NONCE_SIZE = 32
_MAGIC = b"bgpy keeper 1\n"
#: Seconds of silence after which the other end is asked for a sign of life, between two such questions, and how many go without
#: an answer before it counts as dead.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
#: Milliseconds in which what was sent must have arrived.
_USER_TIMEOUT = 30_000


def connect_link(host: str, port: int, secret: bytes, timeout: float, max_size: int = MAX_SIZE) -> Channel:
    """Connect to a keeper. Raises as `prove`."""
    sock = socket.create_connection((host, port), timeout)
    try:
        prove(sock, secret, b"server", b"keeper", timeout)
    except BaseException:
        sock.close()
        raise
    return Channel(sock, max_size)


def prove(sock: socket.socket, secret: bytes, own: bytes, other: bytes, timeout: float) -> None:
    """
    Open a fresh connection as `own` with the `other`; afterwards its calls block.

    Raises OSError, TimeoutError, RemoteProtocolError, and AuthenticationError where the other end does not know the secret.
    """
    deadline = time.monotonic() + timeout
    nonce, address = os.urandom(_NONCE_SIZE), "{}:{}".format(*sock.getpeername()[:2])
    sock.settimeout(timeout)
    sock.sendall(_MAGIC + nonce)
    hello = _receive(sock, len(_MAGIC) + _NONCE_SIZE, deadline)
    theirs = hello[len(_MAGIC) :]
    if not hello.startswith(_MAGIC) or theirs == nonce:
        raise RemoteProtocolError("The other end of a workspace's connection does not speak as a keeper does")
    # Each side signs its own role and the other's nonce last, so that no proof can be sent back to whoever made it.
    sock.sendall(_sign(secret, own, nonce, theirs))
    proof = _receive(sock, hmac.new(secret, b"", "sha256").digest_size, deadline)
    if not hmac.compare_digest(proof, _sign(secret, other, theirs, nonce)):
        raise AuthenticationError(address, "it does not know the secret of this workspace")
    sock.settimeout(None)
    prepare_socket(sock)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT)


def _sign(secret: bytes, *parts: bytes) -> bytes:
    return hmac.new(secret, b"\0".join(parts), "sha256").digest()


def _receive(sock: socket.socket, size: int, deadline: float) -> bytes:
    data = b""
    while len(data) < size:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        more = sock.recv(size - len(data))
        if not more:
            raise ConnectionError("the connection ended within its opening")
        data += more
    return data
