"""
Errors on the wire: a class of `bgpy.errors` by name with its fields, and the task's own exception as an opaque pickle.

docs/protocol.rst, "ERROR". Nothing but classes of our tree is ever built from the name.
"""

from __future__ import annotations

from bgpy import errors
from bgpy.errors import BgpyError, RemoteError, RemoteProtocolError, SerializationError
from bgpy.protocol.messages import Payload, dump, load

#: Most characters of each of the strings of a RemoteError, and most bytes of the pickled exception.
MAX_TEXT = 64 << 10
MAX_EXCEPTION = 1 << 20


def dump_failure(failure: BgpyError, exception: BaseException | None = None) -> Payload:
    """
    Return the payload of an ERROR frame.

    Parameters
    ----------
    failure
        What the client is to raise.
    exception
        What the task raised; travels along where it can be pickled, in band and at most `MAX_EXCEPTION` bytes.
    """
    message: dict[str, object] = {"error": type(failure).__name__, "fields": failure.args, "executed": failure.executed}
    by_value = False
    if exception is not None:
        try:
            payload = dump({"exception": exception}, max_buffers=0)
        except SerializationError:
            payload = None  # an exception that cannot travel is told by its three strings alone
        if payload is not None and len(payload.pickle) <= MAX_EXCEPTION:
            message["exception"] = bytes(payload.pickle)
            by_value = payload.by_value
    return dump(message)._replace(by_value=by_value)


def load_failure(pickle: bytes | bytearray | memoryview) -> BgpyError:
    """
    Return the error of an ERROR frame, with `__cause__` where the exception can be unpickled here.

    Raises
    ------
    RemoteProtocolError, SerializationError
        It is no error that this version knows.
    """
    message = load(pickle, [])
    if not isinstance(message, dict):
        raise RemoteProtocolError("The server sent an error that is no dict")
    error = getattr(errors, str(message.get("error")), None)
    if not (isinstance(error, type) and issubclass(error, BgpyError)):
        raise RemoteProtocolError("The server sent an error that this version does not know")
    try:
        failure = error(*message["fields"])
        failure.executed = message["executed"]
    except (KeyError, TypeError) as unknown:
        raise RemoteProtocolError(f"The server sent a {error.__name__} with other fields than this version knows") from unknown
    if "exception" in message:
        try:
            original = load(message["exception"], [])
        except SerializationError:
            return failure  # its class is not here; type, message and traceback are in `failure`
        if isinstance(original, dict) and isinstance(original.get("exception"), BaseException):
            failure.__cause__ = original["exception"]
    return failure


def remote_error(exception: BaseException) -> RemoteError:
    """Return the error that tells a client of an exception that a task raised, with the traceback from the task on."""
    import traceback

    try:
        message = str(exception)
    except BaseException as broken:  # noqa: BLE001 - an exception of the user whose own __str__ raises, SystemExit perhaps
        message = f"<no message: its __str__ raised {type(broken).__name__}>"
    try:
        text = "".join(traceback.format_exception(type(exception), exception, exception.__traceback__))
    except BaseException as broken:  # noqa: BLE001 - as above
        text = f"<no traceback: {type(broken).__name__} while it was formatted>"
    kind = type(exception)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return RemoteError(name, message[:MAX_TEXT], text[-MAX_TEXT:])
