"""Every (role, state, message): the state that follows, or the named error, and nothing changed."""

from __future__ import annotations

import itertools

import pytest

from bgpy.errors import LocalProtocolError, RemoteProtocolError
from bgpy.protocol.messages import MessageType
from bgpy.protocol.states import ConnectionState, Role, State

KINDS = [*MessageType, 0, 5, 15, 19, 255]
#: Who may send what in which state, and the state that follows: written down once more, so that the table cannot drift.
LEGAL = {
    (Role.CLIENT, State.IDLE, MessageType.INIT): State.WAITING,
    (Role.CLIENT, State.IDLE, MessageType.EXEC): State.WAITING,
    (Role.CLIENT, State.IDLE, MessageType.EXIT): State.WAITING,
    (Role.CLIENT, State.IDLE, MessageType.STATUS): State.WAITING,
    (Role.SERVER, State.WAITING, MessageType.OK): State.IDLE,
    (Role.SERVER, State.WAITING, MessageType.ERROR): State.IDLE,
    (Role.SERVER, State.WAITING, MessageType.END): State.IDLE,
}


def connection(role: Role, state: State) -> ConnectionState:
    """Bring a connection to a state by the way that leads there."""
    made = ConnectionState(role)
    if state is State.CLOSED:
        made.closed()
    elif state is not State.OPENING:
        made.opened()
    if state is State.WAITING:
        (made.sending if role is Role.CLIENT else made.received)(MessageType.EXEC)
    assert made.state is state
    return made


@pytest.mark.parametrize(("sender", "state"), list(itertools.product(Role, State)))
@pytest.mark.parametrize("more", [False, True])
def test_a_message_leads_to_its_state_at_both_ends_or_to_the_error_of_the_end_that_sees_it(
    sender: Role, state: State, more: bool
) -> None:
    receiver = Role.SERVER if sender is Role.CLIENT else Role.CLIENT
    for kind in KINDS:
        here, there = connection(sender, state), connection(receiver, state)
        following = LEGAL.get((sender, state, kind))  # type: ignore[arg-type]
        if following is not None:
            here.sending(kind, more)
            there.received(kind, more)
            assert here.state is there.state is (state if more else following)
            continue
        with pytest.raises(
            LocalProtocolError, match=f"A {sender.value} cannot send a frame of kind {kind:d} while {state.value}"
        ):
            here.sending(kind, more)
        with pytest.raises(
            RemoteProtocolError, match=f"sent a frame of kind {kind:d} to a {receiver.value} that is {state.value}"
        ):
            there.received(kind, more)
        assert here.state is there.state is state


def test_a_pair_in_memory_takes_turns() -> None:
    client, server = ConnectionState(Role.CLIENT), ConnectionState(Role.SERVER)
    client.opened()
    server.opened()
    for _ in range(2):
        client.sending(MessageType.EXEC)
        server.received(MessageType.EXEC)
        for more in (True, True, False):
            server.sending(MessageType.OK, more)
            client.received(MessageType.OK, more)
    with pytest.raises(RemoteProtocolError):
        client.received(MessageType.OK)
    client.closed()
    with pytest.raises(LocalProtocolError):
        client.sending(MessageType.EXEC)
