"""
One request on the server: its answer, and what becomes of it.
"""

from __future__ import annotations

from typing import Any

from bgpy.errors import BgpyError, LocalProtocolError, NoResponseError, SerializationError
from bgpy.protocol.failures import dump_failure
from bgpy.protocol.frames import FLAG_AWAIT, FLAG_CONFIRM, FLAG_MORE, FLAG_STREAM, Frame
from bgpy.protocol.handshake import Opening
from bgpy.protocol.lanes import Answer
from bgpy.protocol.messages import MessageType, Payload, dump, load
from bgpy.sockets import ClientSocket

_NOTHING = Payload(b"", [], False)


class HeldAnswer:
    """Keep the last response of a task until its server says when it may go out: for the init and the exit task."""

    connected = True

    def __init__(self) -> None:
        self.payload: Payload | None = None

    def send(self, kind: int, flags: int, payload: Payload) -> None:
        """Keep a response; one that is not the last is of no use here."""
        if not flags & FLAG_MORE:
            self.payload = payload


class Request:
    """
    One claimed request. Exactly one of `fail`, `end` and `finish` settles it.

    Parameters
    ----------
    hold
        Whether the task's response waits for `finish`.
    """

    def __init__(self, frame: Frame, answer: Answer, opening: Opening, *, hold: bool = False) -> None:
        self.kind = MessageType(frame.kind)
        self.awaited = bool(frame.flags & FLAG_AWAIT)
        self._confirm = bool(frame.flags & FLAG_CONFIRM)
        self._frame: Frame | None = frame
        self._answer = answer
        self.held = HeldAnswer() if hold else None
        self.client_socket = ClientSocket(
            self.held or answer,
            opening,
            awaited=self.awaited,
            streamed=bool(frame.flags & FLAG_STREAM),  # type: ignore[arg-type]
        )

    @property
    def settled(self) -> bool:
        """Whether the last part of the answer is out."""
        return self._answer.ended

    def message(self) -> dict[str, Any]:
        """Unpickle what the client sent; once. Raises SerializationError."""
        assert self._frame is not None
        frame, self._frame = self._frame, None
        message = load(frame.pickle, frame.buffers)
        if not isinstance(message, dict):
            raise SerializationError(f"The message is {type(message).__name__}, not a dict")
        return message

    def confirm(self) -> None:
        """Tell the client that its request is claimed, if it asked for that."""
        if self._confirm:
            self._send(MessageType.OK, FLAG_MORE, confirmation(self.kind))

    def finish(self, response: Payload) -> None:
        """Send the last answer of a request whose response was held, or made by the server itself."""
        self._send(MessageType.OK, 0, response)

    def fail(self, failure: BgpyError, exception: BaseException | None = None) -> None:
        """Send an error as the last answer, unless the last one is out."""
        self._send(MessageType.ERROR, 0, dump_failure(failure, exception))

    def end(self) -> None:
        """Settle a request whose task has ended: nothing to do after a response, an end, or the error that none came."""
        socket = self.client_socket
        if self._answer.ended:
            return
        if socket.awaited and not socket.parts:
            self.fail(NoResponseError())
        else:
            self._send(MessageType.END, 0, _NOTHING)

    def expire(self) -> None:
        """Settle a deferred request whose deadline has passed."""
        self.fail(NoResponseError())

    def _send(self, kind: int, flags: int, payload: Payload) -> None:
        try:
            self._answer.send(kind, flags, payload)
        except LocalProtocolError:
            return  # settled by another thread: the client keeps that answer


def confirmation(kind: MessageType) -> Payload:
    """Return what confirms a request of this kind, in the words of bgpy 0.3."""
    return dump({"message": "Initialization successful." if kind is MessageType.INIT else f"Received '{kind.name}'"})
