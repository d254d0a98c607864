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
    PythonVersionError,
    RemoteProtocolError,
)
from bgpy.protocol.frames import FLAG_BY_VALUE, FLAG_MORE, Frame, frame_size
from bgpy.protocol.handshake import ZERO_ID, Admission, Opening, own_python
from bgpy.protocol.messages import Payload

#: How often one request is taken up again before it is given up: a line that cuts every connection never lets it through.
MAX_RESUMES = 10
#: How often a connection that breaks before the request has begun is made anew.
MAX_OPENINGS = 3


class BrokenConnection(Exception):
    """Tell an exchange that its connection broke, and how many bytes of the frame had been handed over."""

    def __init__(self, reason: str, written: int = 0) -> None:
        super().__init__(reason, written)
        self.reason = reason
        self.written = written


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

    Attributes
    ----------
    begun
        Whether a byte of the request may have left. Until then the request certainly did not run.
    """

    def __init__(self, address: str, numbers: LaneNumbers, kind: int, flags: int, payload: Payload) -> None:
        self.begun = False
        self._address = address
        self._numbers = numbers
        self._kind = kind
        self._flags = flags | (FLAG_BY_VALUE if payload.by_value else 0)
        self._payload = payload
        self._whole = False  # the last byte was handed to the kernel at least once
        self._openings = 0
        self._resumes = 0

    def steps(self) -> Generator[Instruction, Opening | Frame | None, None]:
        """
        Yield instructions until the last part of the answer is delivered.

        Raises
        ------
        ConnectionLostError
            The request could not be taken up again; `executed` says what is known.
        MessageTooLargeError, PythonVersionError
            The server would not take the request; nothing was sent.
        RemoteProtocolError
            The server sent what no server sends.
        """
        number = 0
        have = 0
        instance = ZERO_ID
        while True:
            try:
                if not number:
                    opening = yield Open(False, ZERO_ID)
                    assert isinstance(opening, Opening)
                    self._check(opening)
                    instance = opening.instance
                    number = self._numbers.next()
                self.begun = True
                yield Transmit(self._kind, self._flags, have, number, self._payload)
                self._whole = True
                while True:
                    frame = yield _RECEIVE
                    assert isinstance(frame, Frame)
                    if frame.number != number or frame.part != have:
                        raise RemoteProtocolError(f"Expected part {have} of answer {number}, got {frame.part} of {frame.number}")
                    have += 1
                    yield Deliver(frame)
                    if not frame.flags & FLAG_MORE:
                        return
            except BrokenConnection as broken:
                if broken.written or self._whole or self._resumes:
                    yield from self._resume(instance, broken)
                else:
                    # Not a byte has left: as if the connection had not been there. The number is not used again.
                    number = 0
                    self.begun = False
                    self._openings += 1
                    if self._openings > MAX_OPENINGS:
                        raise ConnectError(self._address, broken.reason) from broken

    def _resume(self, instance: bytes, broken: BrokenConnection) -> Generator[Instruction, Opening | Frame | None, None]:
        while True:
            self._resumes += 1
            if self._resumes > MAX_RESUMES:
                raise self._lost(f"{broken.reason}; taken up again {MAX_RESUMES} times in vain")
            try:
                opening = yield Open(True, instance)
            except BrokenConnection as again:
                broken = again
                continue
            except BgpyError as failure:
                raise self._lost(f"{broken.reason}; it could not be taken up again: {failure}") from failure
            assert isinstance(opening, Opening)
            if opening.admission is Admission.OK:
                return
            raise self._lost(
                "the server was started anew" if opening.admission is Admission.OTHER_INSTANCE else "the server has forgotten it"
            )

    def _lost(self, reason: str) -> ConnectionLostError:
        return ConnectionLostError(self._address, reason, None if self._whole else False)

    def _check(self, opening: Opening) -> None:
        size = frame_size(self._payload.pickle, self._payload.buffers)
        if size > opening.peer_max_size:
            raise MessageTooLargeError(size, opening.peer_max_size)
        if self._payload.by_value and opening.peer_python != own_python():
            raise PythonVersionError(own_python(), opening.peer_python)
