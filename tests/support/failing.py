"""A task that fails as it is told, and what it fails with."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import Any

from bgpy.errors import SerializationError
from bgpy.sockets import ClientSocket
from support.servers import count

Args = dict[str, Any]
State = dict[str, Any]


class CarefulError(Exception):
    """An exception that both sides know."""


class Unreadable:
    """Pickles, and raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return int, ("not a number",)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("cannot be pickled")


class Stubborn(Exception):
    """An exception that cannot be unpickled: its constructor wants more than its args."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__(first)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raise_local() -> None:
    class Local(Exception):
        pass

    raise Local(threading.Lock())


def raise_careful() -> None:
    raise CarefulError("of no use", 42)


def raise_stubborn() -> None:
    raise Stubborn("a", "b")


def raise_mute() -> None:
    raise Mute


def interrupt() -> None:
    raise KeyboardInterrupt


RAISE = {
    "raise": raise_careful,
    "stubborn": raise_stubborn,
    "local": raise_local,
    "mute": raise_mute,
    "exit": lambda: sys.exit(3),
    "interrupt": interrupt,
}
RESPOND: dict[str, Any] = {
    "unpicklable": {"fine": 1, "lock": threading.Lock()},
    "no dict": [1, 2],
    "unreadable": {"value": Unreadable()},
}


def misbehave(client_socket: ClientSocket, state: State, args: Args) -> Any:
    """Do what `how` says; count where it says nothing."""
    how = args.get("how")
    if how in RAISE:
        RAISE[how]()
    elif how in RESPOND:
        client_socket.respond(RESPOND[how])
    elif how == "recurse":
        return misbehave(client_socket, state, args)
    elif how == "nothing":
        return None
    elif how in ("second", "after"):
        client_socket.respond({"number": 1})
        if how == "after":
            raise CarefulError("after the response")
        client_socket.respond({"number": 2})
    elif how == "large":
        client_socket.respond({"data": bytes(args["size"])})
    elif how == "recover":
        with contextlib.suppress(SerializationError):
            client_socket.respond({"lock": threading.Lock()})
        client_socket.respond({"recovered": True})
    return count(client_socket, state, args) if how is None else state
