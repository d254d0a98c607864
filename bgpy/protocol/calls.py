"""
What clients ask for and how they read the answers: the same for blocking and asyncio clients.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bgpy.errors import AlreadyInitializedError, BgpyError, RemoteProtocolError, SerializationError
from bgpy.protocol.failures import load_failure
from bgpy.protocol.frames import FLAG_AWAIT, FLAG_CONFIRM, FLAG_STREAM, Buffer, FrameFields
from bgpy.protocol.messages import END, EXEC, OK, MessageType, Payload, dump, key_of_module, load
from bgpy.taskset import TaskSet

#: Seconds that running tasks get to end, and then the exit task, unless `terminate` says otherwise; and the most it may say.
GRACE = 10.0
MAX_GRACE = 86_400.0
#: The lane of a client's status requests: they must get through when all other lanes are busy.
STATUS_LANE = 0xFFFF
ALREADY_INITIALIZED = {"message": "Already initialized."}
#: Makes a named tuple without the detour over its own constructor in Python, once for every request.
_new_tuple = tuple.__new__
_NO_PAYLOAD = Payload(b"", [], False)


class Call(NamedTuple):
    """One request before it has a lane: what it is, how it wants to be answered, and its message."""

    kind: int
    flags: int
    payload: Payload
    message: dict[str, Any]


def initialize_call(tasks: tuple[Any, ...], named: dict[str, Any]) -> Call:
    """Return the call that sends a task set; raises TypeError, AttributeError and SerializationError."""
    message = TaskSet.of(*tasks, **named).message()
    return Call(MessageType.INIT, FLAG_AWAIT, dump(message), message)


def execute_call(args: dict[str, Any], flags: int) -> Call:
    """Return the call of the exec task; raises TypeError and SerializationError."""
    if not isinstance(args, dict):
        raise _no_dict("args", args)
    return _new_tuple(Call, (EXEC, flags, dump(args), args))


def pickled_call(args: dict[str, Any], pickle: bytes) -> Call:
    """Return the call of the exec task that awaits its answer, for arguments that `dump_plain` has pickled."""
    return Call(EXEC, FLAG_AWAIT, Payload(pickle, [], False), args)


def execute_flags(await_response: bool) -> int:
    """Return the flags of `execute`: one that awaits no response is confirmed."""
    return FLAG_AWAIT if await_response else FLAG_CONFIRM


SUBMIT_FLAGS = FLAG_AWAIT | FLAG_CONFIRM
STREAM_FLAGS = FLAG_AWAIT | FLAG_STREAM


def exit_call(args: dict[str, Any] | None, await_response: bool, grace: float | None) -> Call:
    """Return the call that ends the server; raises TypeError, ValueError and SerializationError."""
    if grace is not None and not 0 <= grace <= MAX_GRACE:
        raise ValueError(f"A server ends within 0 to {MAX_GRACE:g} s, not {grace:g}.")
    if args is not None:
        if not isinstance(args, dict):
            raise _no_dict("exit_args", args)
    message = {"args": args or {}, "grace": grace}
    return Call(MessageType.EXIT, FLAG_AWAIT if await_response else 0, dump(message), message)


def status_call() -> Call:
    """Return the call for the server's status."""
    return Call(MessageType.STATUS, FLAG_AWAIT, _NO_PAYLOAD, {})


def read_answer(sent: dict[str, Any], frame: FrameFields) -> dict[str, Any] | None:
    """
    Return the message of one part of an answer, None where a stream has ended.

    Raises
    ------
    BgpyError
        What the server answered; or SerializationError or RemoteProtocolError where that cannot be read here: `executed` is True,
        and None where what cannot be read is an error.
    """
    kind, _, _, _, pickle, buffers = frame
    if kind != OK:
        if kind == END:
            return None
        raise _failure(sent, pickle)
    try:
        message = load(pickle, buffers)
    except SerializationError as error:
        error.executed = True
        raise
    if not isinstance(message, dict):
        wrong = RemoteProtocolError("The server sent a message that is no dict")
        wrong.executed = True
        raise wrong
    return message


def _failure(sent: dict[str, Any], pickle: Buffer) -> BgpyError:
    try:
        failure = load_failure(pickle)
    except BgpyError as unreadable:
        unreadable.executed = None
        raise
    if isinstance(failure, SerializationError) and failure.module is not None and failure.key is None:
        failure.key = key_of_module(sent, failure.module)
    return failure


def read_initialized(sent: dict[str, Any], frame: FrameFields, exist_ok: bool) -> dict[str, Any]:
    """Return what `initialize` returns; raises as `read_answer` does."""
    try:
        return read_answer(sent, frame) or {}
    except AlreadyInitializedError:
        if not exist_ok:
            raise
        return dict(ALREADY_INITIALIZED)


def _no_dict(name: str, value: object) -> TypeError:
    return TypeError(f"{name} must be a dict, not {type(value).__name__}")
