"""The main loop of a server: what wakes it, and what it does without a listener; and the threads of its connections."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from support.servers import running_server

from bgpy.client import Client
from bgpy.errors import SerializationError
from bgpy.serving.reception import Door, Reception
from bgpy.sockets import ServerSocket


def test_a_signal_while_the_server_ends_wakes_a_loop_that_has_no_listener_any_more() -> None:
    """It went back to a listener that was closed, and the process died of it, its exit task still running."""
    listener = ServerSocket("127.0.0.1", 0)
    listener.listen()
    converse: Any = None
    reception = Reception(listener, Door("t" * 32, None, False, 1 << 20, bytes(16), "here"), converse)
    try:
        for _ in range(2):
            reception.wake()
            reception.accept_until_woken()
            reception.close_listener()
    finally:
        reception.close()


class Inward:
    """Calls its own server when it is unpickled."""

    client: ClassVar[Client]

    def __reduce__(self) -> Any:
        return call_inward, ()


def call_inward() -> object:
    return Inward.client.execute({}, await_response=True, timeout=5)


def test_what_calls_its_own_server_when_it_is_unpickled_is_told_at_once() -> None:
    """Its request has its place in the queue by then: the call waited for itself."""
    with running_server() as server:
        Inward.client = server.client()
        with pytest.raises(SerializationError, match="OwnServerError"):
            server.client().execute({"inward": Inward()}, await_response=True)
        assert server.client().execute({"add": 1}, await_response=True) == {"count": 1}
