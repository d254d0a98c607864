"""
Requests that came in one message, answered in one: the way of a message costs more than the prediction that it brings.
"""

from __future__ import annotations

import threading
from typing import Any

from bgpy.protocol.messages import Data
from bgpy.sockets import ClientSocket
from bgpy.tasks.workspace.answering import SMALL_ANSWER, respond_or_refuse
from bgpy.tasks.workspace.values import Packed


class Together:
    """
    The answers to the requests of one message, sent when the last of them is there. Any thread.

    Parameters
    ----------
    client_socket
        Of the message. Where its task may defer, it has deferred: each request sees to it that it is answered.
    count
        How many requests there are, at least one.
    """

    def __init__(self, client_socket: ClientSocket, count: int) -> None:
        #: One for each request, for `dispatch`.
        self.parts = tuple(_Part(self, client_socket, place) for place in range(count))
        self._client_socket = client_socket
        self._lock = threading.Lock()
        self._answers: list[dict[str, Any]] = [{}] * count
        self._left = count
        if client_socket.awaited and client_socket.deferrable:
            client_socket.defer(None)

    def take(self, place: int, answer: dict[str, Any]) -> None:
        """Take one answer. Does not block: what is large goes out by a thread of its own."""
        with self._lock:
            self._answers[place] = answer
            self._left -= 1
            if self._left:
                return
        if sum(map(_size, self._answers)) > SMALL_ANSWER:
            threading.Thread(target=self._respond, name="bgpy-large-answer", daemon=True).start()
        else:
            self._respond()

    def _respond(self) -> None:
        # Each was made of data by who answered it.
        respond_or_refuse(self._client_socket, Data(request_result=True, result=self._answers))


class _Part(ClientSocket):
    """What one of the requests has for its client."""

    def __init__(self, together: Together, client_socket: ClientSocket, place: int) -> None:
        super().__init__(None, None, client_socket.flags)
        self.deferrable = client_socket.deferrable
        self._together = together
        self._whole = client_socket
        self._place = place

    @property
    def awaited(self) -> bool:
        """See `ClientSocket`."""
        return self._whole.awaited

    @property
    def connected(self) -> bool:
        """See `ClientSocket`."""
        return self._whole.connected

    def defer(self, timeout: float | None = 3600.0) -> None:
        """See `ClientSocket`: the message has been deferred, for all of them."""

    def respond(self, response: dict[str, Any], *, more: bool = False) -> None:
        """See `ClientSocket`; there is one response."""
        self.responded = True
        self._together.take(self._place, response)


def _size(answer: dict[str, Any]) -> int:
    """Return about how many bytes of the user's an answer has."""
    result = answer["result"]
    if not isinstance(result, dict):
        return len(str(result))
    packed, error = result.get("result"), result.get("error")
    size = packed.size if isinstance(packed, Packed) else 0
    return size if error is None else size + len(str(error))
