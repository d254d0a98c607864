"""Sockets as this platform has them."""

from __future__ import annotations

import os
import select
import socket
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

WINDOWS = os.name == "nt"
#: Flag for a send or receive that does not wait; 0 where there is none, and then `prepare_socket` makes the socket non-blocking.
DONTWAIT: int = getattr(socket, "MSG_DONTWAIT", 0)
#: Most parts that one sendmsg takes: the kernel's IOV_MAX on Linux, macOS and the BSDs.
IOV_MAX = 1024
_HAS_POLL = hasattr(select, "poll")
#: The longest wait in seconds, eleven days: what the system takes in milliseconds ends at 24.
_MAX_WAIT = 1e6


def prepare_socket(sock: socket.socket) -> None:
    """Make a connection notice a dead peer and send small frames at once. Raises OSError for a socket that is closed already."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not DONTWAIT:
        sock.setblocking(False)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two sockets that are connected, and hold no small message back: on Windows they are TCP."""
    pair = socket.socketpair()
    if pair[0].family == socket.AF_INET:
        for sock in pair:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return pair


def prepare_listener(sock: socket.socket) -> None:
    """
    Let a listener bind a port that its predecessor has just left, and no port that somebody still listens on.

    On Windows SO_REUSEADDR would let a second server take the port of a running one: there SO_EXCLUSIVEADDRUSE is the safe one.
    """
    if WINDOWS:
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_EXCLUSIVEADDRUSE", -5), 1)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def make_probe(sock: socket.socket | int) -> Callable[[], object]:
    """Return a function that is true where there is something to read: bytes, an end, an error. For one thread at a time."""
    if not _HAS_POLL:
        return partial(wait_socket, sock, timeout=0)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return partial(poll.poll, 0)


def wait_socket(sock: socket.socket | int, *, write: bool = False, timeout: float | None = None) -> bool:
    """
    Wait until a socket, or a pipe on POSIX, can be read (or written). Blocks; safe from several threads.

    Returns False when `timeout` seconds pass first. True also for an error or a hang-up: the next call on the socket reports it.
    """
    timeout = None if timeout is None else min(max(timeout, 0), _MAX_WAIT)
    if _HAS_POLL:  # select() fails for descriptors above 1023
        poll = select.poll()
        poll.register(sock, select.POLLOUT if write else select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))
    wanted = [sock]
    readable, writable, failed = select.select([] if write else wanted, wanted if write else [], wanted, timeout)
    return bool(readable or writable or failed)


def send_parts(sock: socket.socket, parts: list[memoryview]) -> int:
    """
    Send as many of the parts' bytes as go without waiting; return their number, 0 when it would block.

    Raises OSError where the connection is broken. Not for TLS sockets, which have no sendmsg.
    """
    try:
        if hasattr(sock, "sendmsg"):
            return sock.sendmsg(parts[:IOV_MAX], (), DONTWAIT)
        return sock.send(parts[0], DONTWAIT)
    except BlockingIOError:
        return 0
