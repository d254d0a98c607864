"""
Exactly once, the server's side: who may claim a request, and the answers that are kept for those who come back.

A request is known by (client id, lane, number). `LaneTable.claim` is the one atomic step that every request takes before it
is unpickled, however often and over whatever connection it arrives. Rules: docs/protocol.rst, "Requests". No sockets here: a
connection is whatever can `send_frame` and can be told to `fence` itself.
"""

from __future__ import annotations

import enum
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from bgpy.errors import AnswerLostError, LocalProtocolError
from bgpy.protocol.failures import dump_failure
from bgpy.protocol.frames import FLAG_MORE, frame_size
from bgpy.protocol.handshake import Admission, ClientHello
from bgpy.protocol.messages import MessageType, PayloadFields

#: Seconds that the record of a client is kept after its last connection has gone.
CLIENT_LIFETIME = 3600.0
#: Most clients that are remembered without a connection.
MAX_DEPARTED_CLIENTS = 10_000
#: Most bytes of buffers that one answer keeps, and most bytes of all parts of a stream but its last.
MAX_KEPT_BUFFERS = 1 << 20
#: Answers from this size on count for the pressure limit; smaller ones are bounded by the number of lanes.
_LARGE_ANSWER = 4 << 10
#: Most bytes of large answers that the table keeps; the oldest go first.
MAX_KEPT_TOTAL = 256 << 20


class Outlet(Protocol):
    """The connection that an answer goes out on."""

    @property
    def send_frame(self) -> Callable[[int, int, int, int, PayloadFields], bool]:
        """Sends one frame (kind, flags, part, number, payload); returns False where the connection is broken, never raises."""

    def fence(self) -> None:
        """Run nothing more that arrives on this connection, and wake whoever reads or writes it."""


class Verdict(enum.Enum):
    """What a claim says."""

    FRESH = "fresh"
    REPLAY = "replay"
    FENCED = "fenced"
    STALE = "stale"


# For every request's path: to look a member up in its class takes a tenth of a microsecond.
FRESH, REPLAY = Verdict.FRESH, Verdict.REPLAY


class Answer:
    """
    The numbered parts of the answer to one request, on their way and kept for a resume. Thread-safe.

    Sending holds this answer's lock, so that parts leave in their order and a replay cannot overtake them.

    Attributes
    ----------
    ended
        Whether the last part is out.
    """

    __slots__ = (
        "__weakref__",
        "_claimant",
        "_discarded",
        "_kept",
        "_kept_size",
        "_lock",
        "_next_part",
        "_outlet",
        "_table",
        "ended",
        "number",
    )

    def __init__(self, table: LaneTable, number: int, outlet: Outlet) -> None:
        self.ended = False
        self.number = number
        self._table = table
        self._lock = threading.Lock()
        self._outlet: Outlet | None = outlet
        self._claimant: Outlet | None = None
        self._next_part = 0
        self._kept: list[tuple[int, int, int, PayloadFields]] = []
        self._kept_size = 0
        self._discarded = False

    @property
    def connected(self) -> bool:
        """Whether a part sent now would go to a connection, as far as anybody knows."""
        return self._outlet is not None

    @property
    def sending(self) -> bool:
        """Whether a part is on its way out now."""
        return self._lock.locked()

    def send(self, kind: int, flags: int, payload: PayloadFields) -> None:
        """
        Send the next part, or keep it where the client is away; blocks while the connection takes it.

        Raises
        ------
        LocalProtocolError
            The last part is out already.
        """
        with self._lock:
            if self.ended:
                raise LocalProtocolError("The last part of this answer is out")
            part = self._next_part
            self._next_part = part + 1
            self.ended = not flags & FLAG_MORE
            # Kept before it is sent: a resume may come while the send still blocks on the old connection.
            if not self._discarded:
                pickle, buffers, _ = payload
                size = self._kept_size + len(pickle)
                if buffers or size > _LARGE_ANSWER:
                    self._keep_large(part, kind, flags, payload)
                else:
                    self._kept.append((part, kind, flags, payload))
                    self._kept_size = size
            outlet = self._outlet
            if outlet is not None:
                send_frame = outlet.send_frame
                if not send_frame(kind, flags, part, self.number, payload):
                    self._outlet = None

    def claimed(self, outlet: Outlet) -> None:
        """Take note which connection has claimed this request again: a replay to an earlier one comes too late."""
        self._claimant = outlet

    def replay(self, outlet: Outlet, have: int) -> None:
        """Send the kept parts from number `have` on, and what follows, to another connection."""
        with self._lock:
            if outlet is not self._claimant:
                return  # fenced since it claimed: its client is served over another connection
            kept = self._kept
            first = kept[0][0] if kept else self._next_part
            if have < first or have > self._next_part:
                self._outlet = None
                lost = AnswerLostError("it was too large to be kept, or had to make room")
                outlet.send_frame(MessageType.ERROR, 0, have, self.number, dump_failure(lost))
                return
            for part, kind, flags, payload in kept:
                if part >= have:
                    outlet.send_frame(kind, flags, part, self.number, payload)
            self._outlet = None if self.ended else outlet

    def detach(self, outlet: Outlet) -> None:
        """Send nothing more to `outlet`; parts are kept for whoever comes back."""
        # Without the lock: a send that is stuck on the old connection must not hold up the new one. The worst that a send
        # under way can do is to try that connection once more.
        if self._outlet is outlet:
            self._outlet = None

    def discard(self) -> None:
        """Forget the parts: the client has acknowledged them. What the task still sends goes nowhere."""
        self._discarded = True
        self._outlet = None
        self._kept = []
        self._kept_size = 0

    def drop(self) -> int:
        """Forget the kept parts and return their size; a resume will hear that they are lost."""
        size, self._kept, self._kept_size = self._kept_size, [], 0
        return size

    def _keep_large(self, part: int, kind: int, flags: int, payload: PayloadFields) -> None:
        pickle, buffers, by_value = payload
        buffers_size = frame_size(b"", buffers)
        if buffers_size > MAX_KEPT_BUFFERS:
            # Live memory of the task, and a third copy: whoever comes back hears that it is lost.
            self.drop()
            return
        if buffers:
            payload = pickle, [memoryview(bytes(buffer)) for buffer in buffers], by_value
        size = len(pickle) + buffers_size
        kept = self._kept  # this list: pressure may put an empty one in its place at any moment
        kept.append((part, kind, flags, payload))
        self._kept_size += size
        while self._kept_size > MAX_KEPT_BUFFERS and len(kept) > 1:
            _, _, _, (oldest, held, _) = kept.pop(0)
            self._kept_size -= frame_size(oldest, held)
        if self._kept_size > _LARGE_ANSWER:
            self._table.note_large(self, self._kept_size)


class Lane:
    """One lane of one client: the last number that was claimed, its answer, and the connection that may claim."""

    __slots__ = ("answer", "client_id", "index", "number", "owner")

    def __init__(self, client_id: bytes, index: int) -> None:
        self.client_id = client_id
        self.index = index
        self.number = 0
        self.answer: Answer | None = None
        self.owner: Outlet | None = None


class _ClientRecord:
    __slots__ = ("connections", "lanes")

    def __init__(self) -> None:
        self.lanes: dict[int, Lane] = {}
        self.connections = 0


class LaneTable:
    """All lanes of all clients of one server. Thread-safe; no method blocks but for the table's own short lock."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._clients: dict[bytes, _ClientRecord] = {}
        self._departed: OrderedDict[bytes, float] = OrderedDict()
        self._large: OrderedDict[Answer, int] = OrderedDict()
        self._large_size = 0

    def attach(self, hello: ClientHello, owner: Outlet, now: float) -> tuple[Admission, Lane]:
        """
        Give a lane to a connection whose client has proved the token, and fence the connection that had it.

        Parameters
        ----------
        now
            Monotonic seconds; clients that left too long ago are forgotten.

        Returns
        -------
        admission
            LANE_UNKNOWN where a lane is to be resumed that nobody knows: the client must not send its request again.
        lane
            The lane; a new one where it was unknown.
        """
        with self._mutex:
            self._forget(now)
            record = self._clients.get(hello.client_id)
            lane = record.lanes.get(hello.lane) if record is not None else None
            admission = Admission.OK
            if lane is None and hello.resume:
                return Admission.LANE_UNKNOWN, Lane(hello.client_id, hello.lane)
            if record is None:
                record = self._clients[hello.client_id] = _ClientRecord()
            if lane is None:
                lane = record.lanes[hello.lane] = Lane(hello.client_id, hello.lane)
            record.connections += 1
            self._departed.pop(hello.client_id, None)
            previous, lane.owner = lane.owner, owner
            answer = lane.answer
        if previous is not None:
            if answer is not None:
                answer.detach(previous)
            previous.fence()
        return admission, lane

    def detach(self, client_id: bytes, lane: Lane, owner: Outlet, now: float) -> None:
        """Take note that a connection that `attach` had let in has ended."""
        with self._mutex:
            if lane.owner is owner:
                lane.owner = None
            record = self._clients.get(client_id)
            if record is None:
                return
            record.connections -= 1
            if not record.connections:
                self._departed[client_id] = now

    def claim(self, lane: Lane, owner: Outlet, number: int) -> tuple[Verdict, Answer | None]:
        """
        Claim a request, in one atomic step, before anything of it is looked at.

        Returns
        -------
        verdict
            FRESH: run it, answer through the answer. REPLAY: it is running or done; call `Answer.replay`. FENCED: another
            connection has the lane; run nothing. STALE: the client has acknowledged it long ago, which breaks the protocol.
        """
        # Not `with`, which costs every request a fiftieth of its time: only threads of connections come here, which no signal and
        # no interrupt can hit between the two lines.
        self._mutex.acquire()
        try:
            if lane.owner is not owner:
                return Verdict.FENCED, None
            if number > lane.number:
                previous = lane.answer
                # One that is out and small goes with whoever still holds its request.
                if previous is not None and (self._large or not previous.ended):
                    self._settle(lane)
                lane.number = number
                answer = lane.answer = Answer(self, number, owner)
                return FRESH, answer
            if number == lane.number and lane.answer is not None:
                lane.answer.claimed(owner)
                return Verdict.REPLAY, lane.answer
            return Verdict.STALE, None
        finally:
            self._mutex.release()

    def acknowledge(self, lane: Lane, owner: Outlet, number: int) -> None:
        """Forget the kept answer when the header of a later request has arrived, before its body is read."""
        with self._mutex:
            if lane.owner is owner and number > lane.number:
                self._settle(lane)

    def note_large(self, answer: Answer, size: int) -> None:
        """Count a large kept answer; above the limit of the table the oldest ones are dropped, never their numbers."""
        dropped = []
        with self._mutex:
            self._large_size += size - self._large.pop(answer, 0)
            self._large[answer] = size
            while self._large_size > MAX_KEPT_TOTAL and len(self._large) > 1:
                oldest, oldest_size = self._large.popitem(last=False)
                self._large_size -= oldest_size
                dropped.append(oldest)
        for oldest in dropped:
            oldest.drop()

    def _settle(self, lane: Lane) -> None:
        answer, lane.answer = lane.answer, None
        if answer is not None:
            if self._large:
                self._large_size -= self._large.pop(answer, 0)
            answer.discard()

    def _forget(self, now: float) -> None:
        while self._departed:
            client_id, left = next(iter(self._departed.items()))
            if now - left < CLIENT_LIFETIME and len(self._departed) <= MAX_DEPARTED_CLIENTS:
                return
            del self._departed[client_id]
            for lane in self._clients.pop(client_id).lanes.values():
                self._settle(lane)
