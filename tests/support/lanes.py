"""A server's side of lanes, and links that a test holds."""

from __future__ import annotations

from collections.abc import Callable

from bgpy.errors import AnswerLostError
from bgpy.protocol.failures import load_failure
from bgpy.protocol.handshake import ZERO_ID, Admission, ClientHello
from bgpy.protocol.lanes import Answer, Lane, LaneTable, Verdict
from bgpy.protocol.messages import MessageType, Payload, PayloadFields

ME = b"me" * 8


OK, ERROR, END = MessageType.OK, MessageType.ERROR, MessageType.END


class Link:
    """A connection: takes frames while it is alive."""

    def __init__(self, during: Callable[[], None] = lambda: None) -> None:
        self.alive = True
        self.fenced = 0
        self.frames: list[tuple[int, int, int, int, bytes, list[bytes]]] = []
        self._during = during

    def send_frame(self, kind: int, flags: int, part: int, number: int, payload: PayloadFields) -> bool:
        self._during()
        if self.alive:
            pickle, buffers, _ = payload
            self.frames.append((kind, flags, part, number, bytes(pickle), [bytes(buffer) for buffer in buffers]))
        return self.alive

    def fence(self) -> None:
        self.fenced += 1
        self.alive = False

    @property
    def parts(self) -> list[tuple[int, bytes]]:
        return [(part, pickle) for _, _, part, _, pickle, _ in self.frames]

    def lost(self) -> AnswerLostError:
        """Return the error that is the only and last frame here."""
        ((kind, flags, _, _, pickle, _),) = self.frames
        assert (kind, flags) == (ERROR, 0)
        error = load_failure(pickle)
        assert isinstance(error, AnswerLostError)
        assert error.executed is True
        return error


def payload(pickle: bytes = b"answer", *buffers: bytes | bytearray) -> Payload:
    return Payload(pickle, [memoryview(buffer) for buffer in buffers], False)


def hello(client: bytes = ME, lane: int = 0, *, resume: bool = False) -> ClientHello:
    return ClientHello(client, lane, resume, ZERO_ID)


class Server:
    """A table with one lane of one client, and the connection that has it."""

    def __init__(self) -> None:
        self.table = LaneTable()
        self.link = Link()
        self.lane = self.attach(self.link)

    def attach(self, link: Link, *, resume: bool = False) -> Lane:
        admission, lane = self.table.attach(hello(resume=resume), link, 0.0)
        assert admission is Admission.OK
        return lane

    def claim(self, number: int = 1, link: Link | None = None) -> Answer:
        """Claim a fresh request."""
        verdict, answer = self.table.claim(self.lane, link or self.link, number)
        assert verdict is Verdict.FRESH
        assert answer is not None
        return answer

    def come_back(self, number: int = 1, have: int = 0) -> Link:
        """Take up a request again over another connection."""
        self.link.alive = False
        self.link = Link()
        assert self.attach(self.link, resume=True) is self.lane
        verdict, answer = self.table.claim(self.lane, self.link, number)
        assert verdict is Verdict.REPLAY
        assert answer is not None
        answer.replay(self.link, have)
        return self.link
