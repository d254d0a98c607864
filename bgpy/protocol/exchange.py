"""
Exactly once, the client's side: one request from its first byte to its last answer, over as many connections as it takes.

Sans-I/O: `Exchange.steps` yields what to do next and is sent the outcome; blocking and asyncio clients drive the same steps.
Rules: docs/protocol.rst, "Requests".
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from bgpy.errors import (
    BgpyError,
    ConnectError,
    ConnectionLostError,
    MessageTooLargeError,
    ProtocolError,
    PythonVersionError,
    RemoteProtocolError,
)
from bgpy.protocol.frames import FLAG_BY_VALUE, FLAG_MORE, Frame, frame_size
from bgpy.protocol.handshake import ZERO_ID, Admission, Opening, own_python
from bgpy.protocol.messages import Payload

#: How often one request is taken up again without getting on before it is given up: a line may cut every connection.
MAX_RESUMES = 10
#: How often a connection that breaks before the request has begun is made anew.
MAX_OPENINGS = 3


class BrokenConnection(Exception):
    """Tell an exchange that its connection broke, and how many bytes of the frame had been handed over."""

    def __init__(self, reason: str, written: int = 0) -> None:
        super().__init__(reason, written)
        self.reason = reason
        self.written = written

    def __str__(self) -> str:
        return self.reason


class Open(NamedTuple):
    """
    Have an open connection for the lane; answer with its `Opening`.

    Without `resume` a connection that stands may be used. With it a new one is made, which names the server `instance`; whatever
    goes wrong then is thrown into the exchange as the BgpyError that it is.
    """

    resume: bool
    instance: bytes


class Transmit(NamedTuple):
    """Send the request's frame; answer with None, or throw `BrokenConnection`."""

    kind: int
    flags: int
    part: int
    number: int
    payload: Payload


class Receive(NamedTuple):
    """Read one frame; answer with it, or throw `BrokenConnection`."""


class Deliver(NamedTuple):
    """Hand one frame of the answer to the caller; answer with None."""

    frame: Frame


Instruction = Open | Transmit | Receive | Deliver
_RECEIVE = Receive()


class LaneNumbers:
    """The number of the last request that one lane of a client has used."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        """Return a number that this lane has never used."""
        self.last += 1
        return self.last


class Exchange:
    """
    One request and its answer.

    `steps` do all of it. A client whose lane has a living connection may do the usual thing by itself (take a number, send,
    receive) and have an exchange `take_over` where that breaks.

    Attributes
    ----------
    begun
        Whether a byte of the request may have left. Until then the request certainly did not run.
    whole
        Whether the last byte was handed to the kernel at least once.
    """

    number = 0
    begun = False
    whole = False
    _broken: BrokenConnection | None = None
    _instance = ZERO_ID
    _have = 0
    _openings = 0
    _resumes = 0

    def __init__(self, address: str, numbers: LaneNumbers, kind: int, flags: int, payload: Payload) -> None:
        self.kind = kind
        self.flags = flags | FLAG_BY_VALUE if payload.by_value else flags
        self.payload = payload
        self._address = address
        self._numbers = numbers

    def take_over(self, number: int, instance: bytes, whole: bool, broken: BrokenConnection) -> None:
        """Go on with a request that was begun under `number` on a connection to `instance`, and broke; before `steps`."""
        self.number = number
        self.begun = True
        self.whole = whole
        self._instance = instance
        self._broken = broken

    def steps(self) -> Generator[Instruction, Opening | Frame | None, None]:
        """
        Yield instructions until the last part of the answer is delivered.

        Raises
        ------
        ConnectError
            Every connection broke before a byte of the request had left.
        ConnectionLostError
            The request could not be taken up again; `executed` says what is known.
        MessageTooLargeError, PythonVersionError
            The server would not take the request; nothing was sent.
        RemoteProtocolError
            The server sent what no server sends.
        """
        while True:
            broken, self._broken = self._broken, None
            if broken is None:
                try:
                    yield from self._attempt()
                    return
                except BrokenConnection as again:
                    broken = again
                except ProtocolError as error:
                    raise self._blame(error) from None
            # Before the request has begun, what was written were bytes of an opening.
            if self.begun and (broken.written or self.whole or self._resumes):
                yield from self._resume(broken)
                continue
            # Not a byte has left: as if the connection had not been there. The number is not used again.
            self.number = 0
            self.begun = False
            self._openings += 1
            if self._openings > MAX_OPENINGS:
                raise ConnectError(self._address, broken.reason) from broken

    def _begin(self, opening: Opening) -> None:
        """Take a number, for the server of this opening and no other. Raises MessageTooLargeError and PythonVersionError."""
        size = frame_size(self.payload.pickle, self.payload.buffers)
        if size > opening.peer_max_size:
            raise MessageTooLargeError(size, opening.peer_max_size)
        if self.payload.by_value and opening.peer_python != own_python():
            raise PythonVersionError(own_python(), opening.peer_python)
        self._instance = opening.instance
        self.number = self._numbers.next()
        self.begun = True

    def _accept(self, frame: Frame) -> None:
        """Check that a frame is the next part of the answer. Raises RemoteProtocolError."""
        if frame.number != self.number or frame.part != self._have:
            expected = f"part {self._have} of answer {self.number}"
            raise RemoteProtocolError(f"Expected {expected}, got part {frame.part} of {frame.number}")
        self._have += 1

    def _blame(self, error: ProtocolError) -> ProtocolError:
        """Have an error say what is known of the request: what came in place of its answer tells nothing."""
        if self.whole:
            error.executed = None
        return error

    def _attempt(self) -> Generator[Instruction, Opening | Frame | None, None]:
        if not self.number:
            opening = yield Open(False, ZERO_ID)
            assert isinstance(opening, Opening)
            self._begin(opening)
        yield Transmit(self.kind, self.flags, self._have, self.number, self.payload)
        self.whole = True
        while True:
            frame = yield _RECEIVE
            assert isinstance(frame, Frame)
            self._accept(frame)
            self._resumes = 0  # it gets on
            yield Deliver(frame)
            if not frame.flags & FLAG_MORE:
                return

    def _resume(self, broken: BrokenConnection) -> Generator[Instruction, Opening | Frame | None, None]:
        while True:
            self._resumes += 1
            if self._resumes > MAX_RESUMES:
                raise self._lost(f"{broken.reason}; taken up again {MAX_RESUMES} times in vain")
            try:
                opening = yield Open(True, self._instance)
            except BrokenConnection as again:
                broken = again
                continue
            except BgpyError as failure:
                reason = str(failure).rstrip(".")
                raise self._lost(f"{broken.reason}; it could not be taken up again: {reason}") from failure
            assert isinstance(opening, Opening)
            if opening.admission is Admission.OK:
                return
            raise self._lost(
                "the server was started anew" if opening.admission is Admission.OTHER_INSTANCE else "the server has forgotten it"
            )

    def _lost(self, reason: str) -> ConnectionLostError:
        return ConnectionLostError(self._address, reason, None if self.whole else False)
