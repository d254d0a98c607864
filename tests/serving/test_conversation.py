"""What a connection says to a request that it does not take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bgpy.errors import AnswerLostError, BgpyError, MessageTooLargeError, OverloadedError
from bgpy.protocol.exchange import BrokenConnection
from bgpy.protocol.failures import load_failure
from bgpy.protocol.frames import Frame, Header
from bgpy.protocol.handshake import ZERO_ID, ClientHello
from bgpy.protocol.lanes import LaneTable, Verdict
from bgpy.protocol.messages import MessageType, PayloadFields
from bgpy.protocol.states import ConnectionState, Role
from bgpy.serving.budget import MemoryBudget
from bgpy.serving.conversation import Conversation, Seat
from bgpy.sockets import ClientSocket


class FakeConnection:
    """Announces one large request, and keeps what is sent for it."""

    wire = None

    def __init__(self, header: Header, failure: BgpyError | None) -> None:
        self.refused = header
        self.state = ConnectionState(Role.SERVER)
        self.state.opened()
        self.sent: list[tuple[int, int, int]] = []
        self.errors: list[BgpyError] = []
        self._failure = failure

    def receive_fields(self, deadline: None, announced: Callable[[Header], None]) -> Frame:
        if self._failure is not None:
            raise self._failure
        announced(self.refused)
        raise AssertionError("there was room")

    def send_frame(self, kind: int, flags: int, part: int, number: int, payload: PayloadFields) -> bool:
        self.sent.append((kind, part, number))
        self.errors.append(load_failure(payload[0]))
        return False  # gone: nobody lingers


@pytest.mark.parametrize(("number", "executed"), [(1, True), (2, False)])
@pytest.mark.parametrize("failure", [None, MessageTooLargeError(100, 10)])
def test_a_request_without_room_is_refused_and_told_whether_it_ran_before(
    number: int, executed: bool, failure: BgpyError | None
) -> None:
    """Taken up again while memory was short, a request that had run was said not to have run: its client would send it again."""
    table, seat = LaneTable(), Seat()
    _, lane = table.attach(ClientHello(bytes(16), 0, False, ZERO_ID), seat, 0.0)
    assert table.claim(lane, seat, 1)[0] is Verdict.FRESH
    budget = MemoryBudget(100, 0)
    budget.take(100)
    connection: Any = FakeConnection(Header(MessageType.EXEC, 0, 3, number, 100), failure)
    service: Any = None
    Conversation(connection, seat, lane, table, service, budget, {}).run()
    assert connection.sent == [(MessageType.ERROR, 3, number)]
    (error,) = connection.errors
    assert type(error) is (AnswerLostError if executed else type(failure or OverloadedError("")))
    assert error.executed is executed


def test_the_header_of_a_large_request_acknowledges_the_answer_before() -> None:
    """Its memory goes before more is taken for the body."""
    table, seat = LaneTable(), Seat()
    _, lane = table.attach(ClientHello(bytes(16), 0, False, ZERO_ID), seat, 0.0)
    table.claim(lane, seat, 1)
    connection: Any = FakeConnection(Header(MessageType.EXEC, 0, 0, 2, 100), None)
    service: Any = None
    with pytest.raises(AssertionError, match="there was room"):
        Conversation(connection, seat, lane, table, service, MemoryBudget(1000, 0), {}).run()
    assert lane.answer is None
    assert lane.number == 1


def test_a_task_can_tell_which_request_it_runs_for() -> None:
    """Client, lane and number together: a store of jobs knows a request by them that it has seen before."""
    seen: list[object] = []
    table, seat = LaneTable(), Seat()
    _, lane = table.attach(ClientHello(b"c" * 16, 3, False, ZERO_ID), seat, 0.0)

    class Connection(FakeConnection):
        opening = None
        frames = iter([Frame(MessageType.EXEC, 0, 0, 5, b"", [])])

        def receive_fields(self, deadline: None, announced: Callable[[Header], None]) -> Frame:
            for frame in self.frames:
                return frame
            raise BrokenConnection("gone")

    connection: Any = Connection(Header(MessageType.EXEC, 0, 0, 5, 0), None)
    service: Any = None
    handlers = {MessageType.EXEC: lambda request: seen.append(request.identity)}
    Conversation(connection, seat, lane, table, service, MemoryBudget(1000, 0), handlers).run()
    assert seen == [(b"c" * 16, 3, 5)]
    assert ClientSocket(None, None, 0).identity is None
