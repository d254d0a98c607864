"""
One proved connection: read requests, claim them, and have them run, one after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from bgpy.connection import Connection, end_politely
from bgpy.errors import AnswerLostError, BgpyError, MessageTooLargeError, OverloadedError, RemoteProtocolError
from bgpy.protocol.exchange import BrokenConnection
from bgpy.protocol.failures import dump_failure
from bgpy.protocol.frames import Header
from bgpy.protocol.lanes import REPLAY, Lane, LaneTable, Verdict
from bgpy.protocol.messages import MessageType, PayloadFields
from bgpy.serving.budget import MemoryBudget
from bgpy.serving.requests import Request
from bgpy.serving.service import Service

Handler = Callable[[Request], None]


class Seat:
    """
    The place of a connection in the lane table: it exists before the connection's opening is done.

    The table lets a lane in during the opening, before our proof goes out, and from then on may fence its connection.
    """

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.send_frame: Callable[[int, int, int, int, PayloadFields], bool] = _nobody
        self._fenced = False
        self._lock = threading.Lock()

    def take(self, connection: Connection) -> None:
        """Put the open connection in its place."""
        with self._lock:
            self.connection = connection
            self.send_frame = connection.send_frame
            fenced = self._fenced
        if fenced:
            connection.shut_down()

    def fence(self) -> None:
        """Wake whoever reads or writes this connection: another one has its lane."""
        with self._lock:
            self._fenced = True
            connection = self.connection
        if connection is not None:
            connection.shut_down()


def _nobody(kind: int, flags: int, part: int, number: int, payload: PayloadFields) -> bool:
    """Send a frame before there is a connection."""
    return False


class Conversation:
    """
    Carry the requests of one connection. For the connection's own thread.

    Parameters
    ----------
    handlers
        What runs each type of message.
    """

    def __init__(
        self,
        connection: Connection,
        seat: Seat,
        lane: Lane,
        lanes: LaneTable,
        service: Service,
        budget: MemoryBudget,
        handlers: Mapping[int, Handler],
    ) -> None:
        self._connection = connection
        self._seat = seat
        self._lane = lane
        self._lanes = lanes
        self._service = service
        self._budget = budget
        self._handlers = handlers
        self._taken = 0

    def run(self) -> None:
        """
        Serve until the connection ends or is fenced.

        Raises
        ------
        RemoteProtocolError
            The client broke the protocol; the connection is to be closed without a word.
        """
        announced = self._announced
        try:
            while self._serve_one(announced):
                pass
        except BrokenConnection:
            return  # its requests are claimed or not: the lane table knows
        except (MessageTooLargeError, OverloadedError) as refusal:
            self._refuse(refusal)
        finally:
            self._give_back()

    def _serve_one(self, announced: Callable[[Header], None]) -> bool:
        # One call for one request: a local that outlived it would keep its buffers until the next one comes.
        connection, lane = self._connection, self._lane
        frame = connection.receive_fields(None, announced)
        kind, _, part, number, _, _ = frame
        verdict, answer = self._lanes.claim(lane, self._seat, number)
        if answer is None:
            if verdict is Verdict.STALE:
                raise RemoteProtocolError(f"Request {number} was acknowledged long ago")
            return False
        if verdict is REPLAY:
            answer.replay(self._seat, part)
        else:
            request, handle = Request(frame, answer, connection.opening, lane), self._handlers[kind]
            try:
                handle(request)
            except Exception as error:  # noqa: BLE001 - an error of ours must reach the client too, or it waits for ever
                self._service.settle_failed(request, error)
        if self._taken:
            self._give_back()
        return True

    def _announced(self, header: Header) -> None:
        """Make room for a large frame, before any memory is taken: the kept answer goes first."""
        self._lanes.acknowledge(self._lane, self._seat, header.number)
        self._budget.take(header.size)
        self._taken = header.size

    def _give_back(self) -> None:
        if self._taken:
            self._budget.give_back(self._taken)
            self._taken = 0

    def _refuse(self, refusal: BgpyError) -> None:
        header = self._connection.refused
        assert header is not None
        if header.number <= self._lane.number:
            # Taken up again: it has been claimed, so it ran or runs, and must not be sent anew for want of room.
            refusal = AnswerLostError("the server had no room to take the request up again")
        self._connection.state.received(header.kind)
        if self._connection.send_frame(MessageType.ERROR, 0, header.part, header.number, dump_failure(refusal)):
            end_politely(self._connection.wire.sock)
