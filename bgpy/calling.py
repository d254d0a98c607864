"""
What the blocking and the asyncio client share: their settings, how long a call may take, and what they make of an opening.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from bgpy.addresses import check_host, check_port
from bgpy.connection import DEFAULT_MAX_MESSAGE_SIZE, Dialer, check_message_size
from bgpy.errors import OwnServerError, RequestTimeoutError, ServerNotFoundError
from bgpy.held import get_held_instances
from bgpy.logs import LOG_FORMAT, check_level
from bgpy.protocol.calls import GRACE, STATUS_LANE
from bgpy.protocol.exchange import Open
from bgpy.protocol.handshake import ZERO_ID, Admission, ClientHello, Opening
from bgpy.protocol.messages import MessageType
from bgpy.seconds import MAX_WAIT, check_timeout, time_limit
from bgpy.system import call_after_fork, machine_identity
from bgpy.tls import Tls, choose_context
from bgpy.token import find_token

if TYPE_CHECKING:
    import ssl

_log = logging.getLogger("bgpy.client")

#: Seconds on top of the grace for tasks and that for the exit task, for the way and for the server's own watchdog.
_GRACE_MARGIN = 5.0


class Wait:
    """How long a call may take: an instant that can be moved on."""

    __slots__ = ("deadline", "timeout")

    def __init__(self, timeout: float | None) -> None:
        self.timeout = check_timeout(timeout)
        self.deadline: float | None = None
        self.renew()

    def renew(self) -> None:
        """Start counting anew."""
        if self.timeout is not None:
            self.deadline = time.monotonic() + min(self.timeout, MAX_WAIT)

    @property
    def left(self) -> float | None:
        """Seconds left, None for no limit."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    @property
    def over(self) -> bool:
        """Whether no time is left."""
        return self.deadline is not None and self.deadline <= time.monotonic()


#: For all calls that may take as long as they need: with no limit there is nothing to count, and so nothing that they share.
NO_LIMIT = Wait(None)


class Caller:
    """The ground of a client: all but its connections and its lanes."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        log_level: str | int | None = None,
        log_file: str | None = None,
        timeout: float | None = None,
        connect_timeout: float = 10,
        ssl_context: ssl.SSLContext | None = None,
        tls: Tls = None,
        max_connections: int = 64,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        _instance: bytes = ZERO_ID,
    ) -> None:
        check_timeout(timeout)  # a wrong one is known here, not at the first request
        self._connect_timeout = time_limit(connect_timeout)
        host, port = check_host(host), check_port(port)
        check_message_size(max_message_size)
        if not hasattr(max_connections, "__index__"):
            raise TypeError(f"max_connections is a whole number, not {max_connections!r:.100}.")
        if not 0 < max_connections < STATUS_LANE:
            raise ValueError(f"A client has 1 to {STATUS_LANE - 1:,} connections, not {max_connections:,}.")
        self.host = host
        self.port = port
        self.timeout = timeout
        token = find_token(token)
        context = choose_context(tls, ssl_context, token, server=False)
        self._dialer = Dialer(host, port, token, context, tls == "token", max_message_size, machine_identity())
        self._max_connections = max_connections
        self._log_handler = _open_log(log_level, log_file)
        #: The server that this client belongs to, where it was found by name: any other is refused.
        self._instance = _instance
        self._begin()
        call_after_fork(self, Caller._begin_anew)

    def _begin(self) -> None:
        """Become a client that the server has never seen."""
        #: Names this client, in one process, to the server: its lanes' numbers are counted under it.
        self._id = os.urandom(16)

    def _begin_anew(self) -> None:
        # In a forked child: two processes that share lanes would claim each other's numbers, and get each other's answers.
        self._abandon()
        self._begin()

    def _abandon(self) -> None:
        """Let go of the connections, which are the parent's; in a forked child."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.host!r}, {self.port})"

    def _wait(self, timeout: float | None) -> Wait:
        return Wait(self.timeout if timeout is None else timeout)

    def _wait_for_exit(self, timeout: float | None) -> Wait:
        """Return the time that `terminate` takes at most: the running tasks, then the exit task, then the way back."""
        return Wait(2 * (GRACE if timeout is None else timeout) + _GRACE_MARGIN)

    def _hello(self, lane: int, instruction: Open) -> ClientHello:
        wanted = instruction.instance if instruction.resume else self._instance
        return ClientHello(self._id, lane, instruction.resume, wanted)

    def _time_to_open(self, wait: Wait) -> float:
        return self._connect_timeout if wait.left is None else min(self._connect_timeout, max(wait.left, 0))

    def _check_opening(self, opening: Opening, instruction: Open, kind: int) -> Opening:
        """Refuse a server that would wait for this very call (OwnServerError), and one that is not ours (ServerNotFoundError)."""
        if kind != MessageType.STATUS and opening.instance in get_held_instances():
            raise OwnServerError(self._dialer.address)
        if not instruction.resume and opening.admission is not Admission.OK:
            raise ServerNotFoundError(self._dialer.address)
        return opening

    def _too_late(self, wait: Wait, executed: bool | None) -> RequestTimeoutError:
        assert wait.timeout is not None
        return RequestTimeoutError(wait.timeout, f"the answer of {self._dialer.address}", executed)

    def _note_opened(self, lane: int, resume: bool) -> None:
        """Log a new connection: one that takes a request up again is news."""
        if resume:
            _log.info("Lane %d took its request up again at %s", lane, self._dialer.address)
        else:
            _log.debug("Lane %d connected to %s", lane, self._dialer.address)

    def _close_log(self) -> None:
        if self._log_handler is not None:
            _log.removeHandler(self._log_handler)
            self._log_handler.close()


def _open_log(level: str | int | None, path: str | None) -> logging.Handler | None:
    if level is None and path is None:
        return None
    if level is not None:
        _log.setLevel(check_level(level))
    if path is None:
        return None
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    _log.addHandler(handler)
    return handler
