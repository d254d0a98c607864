"""
One request on the server: its answer, and what becomes of it.
"""

from __future__ import annotations

import threading
from typing import Any

from bgpy.errors import BgpyError, LocalProtocolError, NoResponseError, RemoteError, SerializationError
from bgpy.protocol.failures import dump_failure
from bgpy.protocol.frames import FLAG_AWAIT, FLAG_BY_VALUE, FLAG_CONFIRM, FLAG_MORE, FLAG_STREAM, FrameFields, frame_size
from bgpy.protocol.handshake import Opening, own_python
from bgpy.protocol.lanes import Answer, Lane
from bgpy.protocol.messages import MessageType, Payload, PayloadFields, dump, load
from bgpy.sockets import ClientSocket

_NO_BUFFERS: list[memoryview] = []
_NOTHING = Payload(b"", [], False)


class HeldAnswer:
    """Keep the last response of a task until its server says when it may go out: for the init and the exit task."""

    connected = True

    def __init__(self) -> None:
        #: What the task responded last, None where it did not.
        self.payload: PayloadFields | None = None

    def send(self, kind: int, flags: int, payload: PayloadFields) -> None:
        """Keep a response; one that is not the last is of no use here."""
        if not flags & FLAG_MORE:
            self.payload = payload


class Request(ClientSocket):
    """
    One claimed request: what its task gets as its client socket, and what the server settles it with.

    Exactly one of `fail`, `end` and `finish` settles it, unless the task's last response has.
    """

    def __init__(self, frame: FrameFields, answer: Answer, opening: Opening, lane: Lane | None = None) -> None:
        self.kind, self.flags, _, _, self._pickle, self._buffers = frame
        self._outgoing = self.answer = answer
        self.responded = False
        self._opening = opening
        self._lane = lane

    @property
    def identity(self) -> tuple[bytes, int, int] | None:
        """See `ClientSocket`."""
        return None if self._lane is None else (self._lane.client_id, self._lane.index, self.answer.number)

    def hold(self) -> HeldAnswer:
        """Keep the task's response back until `finish`: for a task whose end decides what the client is told."""
        held = HeldAnswer()
        self._outgoing = held
        return held

    @property
    def settled(self) -> bool:
        """Whether the last part of the answer is out."""
        return self.answer.ended

    def message(self) -> dict[str, Any]:
        """Unpickle what the client sent; once. Raises SerializationError."""
        pickle, buffers = self._pickle, self._buffers
        self._pickle, self._buffers = b"", _NO_BUFFERS  # their memory goes with the message, not with this request
        try:
            message = load(pickle, buffers)
        except SerializationError:
            raise
        except BaseException as error:
            # Whatever it is: nothing may keep a ticket that is drawn from being used.
            raise SerializationError(f"Cannot unpickle the message: {type(error).__name__}") from error
        if not isinstance(message, dict):
            raise SerializationError(f"The message is {type(message).__name__}, not a dict")
        return message

    def confirm(self) -> None:
        """Tell the client that its request is claimed, if it asked for that."""
        if self.flags & FLAG_CONFIRM:
            self._send(MessageType.OK, FLAG_MORE, confirmation(self.kind))

    def finish(self, response: PayloadFields) -> None:
        """Send the last answer of a request whose response was held, or made by the server itself."""
        self._send(MessageType.OK, 0, response)

    def fail(self, failure: BgpyError, exception: BaseException | None = None) -> None:
        """
        Send an error as the last answer, unless the last one is out.

        The exception travels along only where the client's Python can load it, and as much of the texts as the client takes.
        """
        payload = dump_failure(failure, exception)
        opening = self._opening
        if opening is not None and ((payload.by_value and opening.peer_python != own_python()) or self._too_large(payload)):
            payload = dump_failure(failure)
            if isinstance(failure, RemoteError) and self._too_large(payload):
                payload = dump_failure(RemoteError(failure.type_name[:200], failure.message[:200], ""))
        self._send(MessageType.ERROR, FLAG_BY_VALUE if payload.by_value else 0, payload)

    def end(self) -> None:
        """Settle a request whose task has ended: nothing to do after a response, an end, or the error that none came."""
        if self.answer.ended:
            return
        if self.flags & FLAG_AWAIT and not self.parts:
            self.fail(NoResponseError())
        else:
            self._send(MessageType.END, 0, _NOTHING)

    def expire(self) -> None:
        """Settle a deferred request whose deadline has passed; does not wait for its client."""
        self.fail_aside(NoResponseError())

    def fail_aside(self, failure: BgpyError) -> threading.Thread | None:
        """
        Fail a deferred request without waiting for its client, which may have stopped reading what came before.

        Returns the thread that does it, where something is on its way out or may be: one for each such request, and it ends with
        the progress of its connection. None where it is done.
        """
        if not (self.flags & FLAG_STREAM or self.answer.sending):
            self.fail(failure)
            return None
        thread = threading.Thread(target=self.fail, args=(failure,), name="bgpy-late-failure", daemon=True)
        thread.start()
        return thread

    def _too_large(self, payload: Payload) -> bool:
        return self._opening is not None and frame_size(payload.pickle, payload.buffers) > self._opening.peer_max_size

    def _send(self, kind: int, flags: int, payload: PayloadFields) -> None:
        try:
            self.answer.send(kind, flags, payload)
        except LocalProtocolError:
            return  # settled by another thread: the client keeps that answer


def confirmation(kind: int) -> Payload:
    """Return what confirms a request of this kind, in the words of bgpy 0.3."""
    return dump({"message": "Initialization successful." if kind == MessageType.INIT else f"Received '{MessageType(kind).name}'"})
