"""
The states of one connection, as a table.

Theory of operation: a connection opens with the messages of `bgpy.protocol.handshake`; no frame is legal before that. Then
client and server take turns. The client sends one request; the server answers it with any number of frames that say MORE and one
that does not; then it is the client's turn again. Whoever sends out of turn, or what is not in the table, has broken the
protocol: a local error where it was about to be sent, a remote one where it was received.

docs/protocol.rst shows this table, and a test walks all of it.
"""

from __future__ import annotations

import enum

from bgpy.errors import LocalProtocolError, RemoteProtocolError
from bgpy.protocol.messages import MessageType


class Role(enum.Enum):
    """Which end of a connection this is."""

    CLIENT = "client"
    SERVER = "server"


class State(enum.Enum):
    """What a connection waits for."""

    OPENING = "opening"
    IDLE = "idle"
    WAITING = "waiting"
    CLOSED = "closed"


#: What may come from the client in a state, and the state that follows.
REQUESTS: dict[State, dict[int, State]] = {
    State.OPENING: {},
    State.IDLE: {
        MessageType.INIT: State.WAITING,
        MessageType.EXEC: State.WAITING,
        MessageType.EXIT: State.WAITING,
        MessageType.STATUS: State.WAITING,
    },
    State.WAITING: {},
    State.CLOSED: {},
}
#: What may come from the server in a state, and the state that follows; an answer that says MORE leaves it as it is.
ANSWERS: dict[State, dict[int, State]] = {
    State.OPENING: {},
    State.IDLE: {},
    State.WAITING: {
        MessageType.OK: State.IDLE,
        MessageType.ERROR: State.IDLE,
        MessageType.END: State.IDLE,
    },
    State.CLOSED: {},
}


class Place:
    """One state as one role sees it, with the places that follow: a step through the table is one look into a dict."""

    __slots__ = ("receives", "sends", "state")

    def __init__(self, state: State) -> None:
        self.state = state
        self.sends: dict[int, Place] = {}
        self.receives: dict[int, Place] = {}


def _places(role: Role) -> dict[State, Place]:
    places = {state: Place(state) for state in State}
    sent, received = (REQUESTS, ANSWERS) if role is Role.CLIENT else (ANSWERS, REQUESTS)
    for state, place in places.items():
        place.sends = {int(kind): places[following] for kind, following in sent[state].items()}
        place.receives = {int(kind): places[following] for kind, following in received[state].items()}
    return places


_PLACES = {role: _places(role) for role in Role}
CLIENT_IDLE, CLIENT_WAITING = _PLACES[Role.CLIENT][State.IDLE], _PLACES[Role.CLIENT][State.WAITING]
SERVER_IDLE, SERVER_WAITING = _PLACES[Role.SERVER][State.IDLE], _PLACES[Role.SERVER][State.WAITING]


class ConnectionState:
    """Follow one connection through the table. Not thread-safe; client and server take turns anyway."""

    __slots__ = ("place", "role")

    def __init__(self, role: Role) -> None:
        self.role = role
        self.place = _PLACES[role][State.OPENING]

    @property
    def state(self) -> State:
        """What the connection waits for."""
        return self.place.state

    def opened(self) -> None:
        """Take note that both sides have proved the token."""
        self.place = _PLACES[self.role][State.IDLE]

    def closed(self) -> None:
        """Take note that the connection has ended."""
        self.place = _PLACES[self.role][State.CLOSED]

    def sending(self, kind: int, more: int = 0) -> None:
        """Check a frame that is about to go out; raises LocalProtocolError."""
        following = self.place.sends.get(kind)
        if following is None:
            raise LocalProtocolError(f"A {self.role.value} cannot send a frame of kind {kind} while {self.state.value}")
        if not more:
            self.place = following

    def received(self, kind: int, more: int = 0) -> None:
        """Check a frame that came in; raises RemoteProtocolError."""
        following = self.place.receives.get(kind)
        if following is None:
            raise RemoteProtocolError(
                f"The other side sent a frame of kind {kind} to a {self.role.value} that is {self.state.value}"
            )
        if not more:
            self.place = following
