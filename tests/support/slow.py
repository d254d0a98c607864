"""A task that waits until the test lets it go on."""

from __future__ import annotations

import threading
from typing import Any

from bgpy.sockets import ClientSocket
from support.servers import count

Args = dict[str, Any]
State = dict[str, Any]


class Slow:
    """A counter whose requests wait at a gate where `slow` is said; it remembers the order of its requests."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()
        self.order: list[Any] = []

    def run(self, client_socket: ClientSocket, state: State, args: Args) -> State:
        self.order.append(args.get("name"))
        if args.get("slow"):
            self.begun.release()
            assert self.open.wait(20)
        return count(client_socket, state, args)
