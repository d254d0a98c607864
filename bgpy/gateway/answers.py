"""
Answers in the one envelope: ``{"request_result": …, "result": …}``.

The status says what became of the request on its way: 200 wherever the server answered, whatever it said; 4xx where the request
never got there; 503 where there is no server. An error answer has ``"executed"`` beside the reason: false (it did not run and
will not), true (it ran), null (nobody can know).

Below ``/v1`` and ``/v2`` errors have the form that the clients of those protocols read: ``{"error": …}``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from bgpy.encoding import to_json
from bgpy.errors import (
    AuthenticationError,
    BgpyError,
    ClientClosedError,
    ConnectError,
    ConnectionLostError,
    MessageTooLargeError,
    OverloadedError,
    OwnServerError,
    RefusedError,
    RemoteError,
    RequestTimeoutError,
    ServerEndingError,
    ServerNotFoundError,
    TlsError,
    VersionMismatchError,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

#: Seconds after which a client may try again to reach a server that is not there.
RETRY_AFTER = 1
_JSON = [(b"content-type", b"application/json")]
_UNREACHABLE = (
    AuthenticationError,
    ClientClosedError,
    ConnectError,
    ConnectionLostError,
    OverloadedError,
    OwnServerError,
    ServerEndingError,
    ServerNotFoundError,
    TlsError,
    VersionMismatchError,
)

_log = logging.getLogger("bgpy.gateway")


class Fault(Exception):
    """
    Say what is wrong with a request, or has gone wrong with it, to a client of a model server's protocol.

    Parameters
    ----------
    headers
        Of the answer.
    """

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.headers = headers


class Answer:
    """A response that is there whole, of plain JSON data or of text."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.body = body
        self.headers = headers

    async def __call__(self, scope: Scope, receive: object, send: Send) -> None:
        """Send it; to a WebSocket that was not accepted as the answer to its upgrade, where the server can."""
        kind = "http.response"
        if scope["type"] == "websocket":
            if "websocket.http.response" not in scope.get("extensions", {}):
                await send({"type": "websocket.close", "code": 1008})
                return
            kind = "websocket.http.response"
        length = (b"content-length", str(len(self.body)).encode("ascii"))
        await send({"type": f"{kind}.start", "status": self.status, "headers": [*self.headers, length]})
        await send({"type": f"{kind}.body", "body": self.body})


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer that is a JSON value."""
    extra = [(name.encode("ascii"), text.encode("latin-1")) for name, text in (headers or {}).items()]
    return Answer(status, dump_json(value), [*_JSON, *extra])


def success(result: Any) -> Answer:
    """Return the envelope of a result."""
    return json_answer({"request_result": True, "result": result})


def refusal(status: int, reason: str, headers: Mapping[str, str] | None = None, **more: Any) -> Answer:
    """Return the envelope of a request that did not get through."""
    return json_answer({"request_result": False, "result": reason, **more}, status, _with_challenge(status, headers))


def error_answer(status: int, reason: str, headers: Mapping[str, str] | None = None, **more: Any) -> Answer:
    """Return what `refusal` says in the form of the model servers' protocols, which has room for the reason alone."""
    return json_answer({"error": reason}, status, _with_challenge(status, headers))


def failure_answer(failure: BaseException) -> Answer:
    """Return the envelope of an error: what the client raised, or what nobody thought of."""
    if not isinstance(failure, BgpyError):
        return refusal(500, _unforeseen(failure))
    status, envelope = read_failure(failure)
    return json_answer(envelope, status, _retry_headers(status, failure))


def failure_envelope(failure: BaseException) -> dict[str, Any]:
    """Return the envelope of an error alone, for where there is no status."""
    if isinstance(failure, BgpyError):
        return read_failure(failure)[1]
    return {"request_result": False, "result": _unforeseen(failure)}


def failure_error(failure: BaseException) -> Answer:
    """Return what `failure_answer` says in the form of the model servers' protocols."""
    if not isinstance(failure, BgpyError):
        return error_answer(500, _unforeseen(failure))
    status, envelope = read_failure(failure)
    return error_answer(500 if status == 200 else status, envelope["result"], _retry_headers(status, failure))


def _unforeseen(failure: BaseException) -> str:
    _log.error("A request failed", exc_info=failure)
    return "The gateway failed; its log says why"


def _retry_headers(status: int, failure: BgpyError) -> dict[str, str] | None:
    return {"retry-after": str(RETRY_AFTER)} if status == 503 and failure.executed is False else None


def _with_challenge(status: int, headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
    return {**(headers or {}), "www-authenticate": "Bearer"} if status == 401 else headers


def read_failure(failure: BgpyError) -> tuple[int, dict[str, Any]]:
    """Return the status and the envelope of an error of the package."""
    envelope: dict[str, Any] = {"request_result": False, "result": str(failure), "executed": failure.executed}
    if isinstance(failure, RefusedError):
        return 400, {"request_result": False, "result": str(failure), "field": failure.field}
    if isinstance(failure, _UNREACHABLE):
        return 503, envelope
    if isinstance(failure, RequestTimeoutError):
        return 504, envelope
    if isinstance(failure, MessageTooLargeError) and failure.executed is False:
        return 413, envelope
    if isinstance(failure, RemoteError):
        envelope["result"] = f"A task raised {failure.type_name}: {failure.message}"
        envelope["error"] = {"type": failure.type_name, "message": failure.message, "traceback": failure.traceback_text}
    return 200, envelope


def dump_json(value: Any) -> bytes:
    """Return strict JSON, whatever the value is: what is no plain data is converted, as a worker would have done."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        text = json.dumps(to_json(value), allow_nan=False, separators=(",", ":"))
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, which JSON has an escape for
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
