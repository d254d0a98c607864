"""
What the model servers' protocols ask of the server, and what becomes of its answers: the bodies pass through unread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from bgpy.gateway.answers import Answer, Fault
from bgpy.gateway.doors import Call
from bgpy.gateway.endpoints import while_connected
from bgpy.gateway.gathering import Gathering
from bgpy.gateway.limits import Limits, decompress, read_body
from bgpy.gateway.upstream import Upstream
from bgpy.tasks.workspace.values import Packed

#: Bytes from which on the parts of a body are sent one by one; below it a copy costs less than a call of the system.
_JOINED = 64 << 10
_ENCODINGS = frozenset({"gzip", "x-gzip", "deflate"})

# What a job failed with, by the type's name: our own errors, and TensorFlow's as TensorFlow Serving maps their codes.
_OWN = {
    "bgpy.errors.ModelInputError": 400,
    "bgpy.errors.ModelLoadError": 400,
    "bgpy.errors.ModelError": 500,
    "bgpy.errors.MissingExtraError": 501,
}
_NOT_FOUND = "bgpy.errors.ModelNotFoundError"
_TENSORFLOW = {
    "InvalidArgumentError": 400,
    "FailedPreconditionError": 400,
    "OutOfRangeError": 400,
    "UnauthenticatedError": 401,
    "PermissionDeniedError": 403,
    "NotFoundError": 404,
    "AlreadyExistsError": 409,
    "AbortedError": 409,
    "ResourceExhaustedError": 429,
    "CancelledError": 499,
    "UnimplementedError": 501,
    "UnavailableError": 503,
    "DeadlineExceededError": 504,
}
# How a job has ended that has neither run through nor failed.
_ENDS = {"cancelled": 499, "interrupted": 499, "killed": 500, "timed_out": 504, "crashed": 503, "aborted": 503}
# What a request was refused with, by the name of the error; all others are the client's mistakes.
_REFUSED = {"OverloadedError": 503, "SerializationError": 500, "StoreError": 500}


class Unknown(Fault):
    """Say that there is no such model."""

    def __init__(self, reason: str) -> None:
        super().__init__(404, reason)


class Models:
    """
    The models behind one app; a model has the name of its workspace.

    Whatever keeps a method from its result is a Fault; what keeps a request from the server is raised as `Upstream.execute` does.
    """

    def __init__(self, upstream: Upstream, limits: Limits) -> None:
        self._upstream = upstream
        self._limits = limits
        self._gathering = Gathering(upstream.execute)

    async def ask(self, call: Call, message: dict[str, Any], timeout: float | None = None) -> Any:
        """
        Send one command and return its result; raises `Unknown` where there is no workspace of that name.

        Parameters
        ----------
        timeout
            Seconds for the answer, as for `Upstream.execute`.
        """
        return _result(await while_connected(call.receive, self._upstream.execute(message, timeout)))

    async def describe(self, call: Call, name: str, version: str | None = None) -> dict[str, Any]:
        """Return what is deployed; raises `Unknown` where nothing is, or not in that version."""
        described: dict[str, Any] | None = await self.ask(call, {"command": "describe", "name": name})
        if described is None:
            raise Unknown(f"Nothing is deployed in the workspace {name!r}")
        if version is not None and version.lstrip("0") != str(described["version"]):
            raise Unknown(f"The workspace {name!r} has version {described['version']} deployed, not {version:.50}")
        return described

    async def change(self, call: Call, message: dict[str, Any]) -> None:
        """Deploy, update or undeploy, and wait for the end of that as long as a request may take."""
        message["timeout"] = self._limits.request_timeout
        judge_job(await self.ask(call, message))

    async def infer(
        self, call: Call, name: str, protocol: str, verb: str, version: str | None, header_length: int | None = None
    ) -> Answer:
        """
        Pass the body of a request on as it is, and return the answer with the body that comes back.

        Parameters
        ----------
        protocol, verb, version, header_length
            As the command `infer` has them.
        """
        body = await self.read_body(call)
        message = {
            "command": "infer",
            "name": name,
            "protocol": protocol,
            "verb": verb,
            "body": Packed(b"", (body,)),
            "version": version,
            "header_length": header_length,
            "timeout": self._limits.request_timeout,
        }
        result = _result(await while_connected(call.receive, self._gathering.infer(message, len(body))))
        judge_job(result)
        return _packed_answer(result["result"], result["value"])

    async def read_body(self, call: Call) -> bytes:
        """Return a request's body, without its Content-Encoding."""
        body = await read_body(call.receive, call.announced, self._limits)
        encodings = call.facts.headers.get("content-encoding")
        if encodings is None:
            return body
        encoding = ", ".join(encodings).lower()
        if encoding in ("identity", ""):
            return body
        if encoding not in _ENCODINGS:
            reason = f"A body may be encoded as gzip or deflate, not as {encoding:.50}"
            raise Fault(415, reason, {"accept-encoding": "gzip, deflate"})
        # In a thread: a megabyte of it may be a thousand.
        return await asyncio.to_thread(decompress, body, encoding, self._limits.max_body_size)


class PartsAnswer(Answer):
    """A response whose body is sent part by part, so that large ones are not copied into one."""

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[Any, ...], headers: list[tuple[bytes, bytes]]) -> None:
        super().__init__(200, b"", headers)
        self.parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        """Send it."""
        parts = [memoryview(part).cast("B") for part in self.parts]
        length = (b"content-length", str(sum(map(len, parts))).encode("ascii"))
        await send({"type": "http.response.start", "status": self.status, "headers": [*self.headers, length]})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def judge_job(result: Mapping[str, Any]) -> None:
    """Raise the Fault of a job that has not run through, or not yet; `Unknown` where it found no such model."""
    state = result["state"]
    if state == "done":
        return
    job = f"job {result['job']}"
    if not result["finish"]:
        raise Fault(504, f"After {result['time']:.3g} s the request has not ended; it goes on as {job}")
    error = result.get("error") or {}
    kind, message = str(error.get("type", "")), str(error.get("message", ""))
    if state != "failed":
        reason = f"The request was not carried out: {job} is {state.replace('_', ' ')}. {message}"
        raise Fault(_ENDS.get(state, 500), reason.rstrip())
    if kind == _NOT_FOUND:
        raise Unknown(message)
    status = _OWN.get(kind)
    if status is None and kind.startswith("tensorflow."):
        status = _TENSORFLOW.get(kind.rpartition(".")[2], 500)
    raise Fault(500, f"{kind}: {message}") if status is None else Fault(status, message)


def _packed_answer(packed: Any, value: Mapping[str, Any]) -> Answer:
    headers = [(b"content-type", value["content_type"].encode("ascii"))]
    if value.get("header_length") is not None:
        headers.append((b"inference-header-content-length", str(value["header_length"]).encode("ascii")))
    if not isinstance(packed, Packed):
        raise Fault(500, "The server has answered without a body")
    parts = packed.buffers
    if sum(memoryview(part).nbytes for part in parts) < _JOINED:
        return Answer(200, b"".join(parts), headers)
    return PartsAnswer(parts, headers)


def _result(response: Mapping[str, Any]) -> Any:
    """Return what a request has given; raises the Fault of one that was refused."""
    if response.get("request_result") is True:
        return response["result"]
    raise _refused(response)


def _refused(response: Mapping[str, Any]) -> Fault:
    reason, kind = response.get("result"), response.get("error")
    if "request_result" not in response or response.get("field") == "command":
        return Fault(501, "The server has no models: it was started with other tasks than bgpy.tasks.tensorflow")
    if not isinstance(reason, str):
        return Fault(503, "The service is switched off; /create switches it on")
    if kind == "WorkspaceNotFoundError":
        return Unknown(reason)
    return Fault(_REFUSED.get(str(kind), 400), reason)
