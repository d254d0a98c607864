"""The main loop of a server: what wakes it, and what it does without a listener."""

from __future__ import annotations

from typing import Any

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
