"""
From a message to a command, and from the end of a request to the answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from bgpy.errors import BgpyError, OverloadedError, RefusedError, StoreError
from bgpy.sockets import ClientSocket
from bgpy.tasks.requests import commands
from bgpy.tasks.requests.modules import Search
from bgpy.tasks.requests.requests import Requests
from bgpy.tasks.requests.table import Answer, check_connid
from bgpy.tasks.schema import checker, unknown_command
from bgpy.tasks.workspace.answering import refused

#: Seconds of silence after which a watcher gets a sign of life: without sending, nobody learns that a client has gone.
ALIVE_INTERVAL = 20.0
#: Seconds that the core waits longer than the deadline here, which always answers.
_MARGIN = 60.0

_CHECKS = {command.name: checker(command) for command in commands.COMMANDS}

Fields = dict[str, Any]
#: Makes the result of an answer from that of a request, None while it runs.
Make = Callable[[Answer | None], Fields]
#: What a handler returns that has seen to the answer itself.
ANSWERED: Final = object()


def dispatch(requests: Requests, search: Search, client_socket: ClientSocket, message: Mapping[str, Any]) -> None:
    """
    Answer one message. Does not wait for the end of a request: whoever wants to is answered then, from another thread.

    What is refused is answered, not raised: ``{"request_result": False, "result": REASON, "field": NAME_OR_NONE}``.
    """
    name = message.get("command")
    try:
        if not isinstance(name, str) or name not in _CHECKS:
            raise unknown_command(message, _CHECKS)
        fields = _CHECKS[name](message)
        if name == commands.QUERY_MODULE.name:
            result: Any = search.search(fields["lib"], fields["text"])
        else:
            result = _HANDLERS[name](requests, client_socket, fields)
    except (OverloadedError, RefusedError, StoreError) as failure:
        client_socket.respond(refused(failure))
    else:
        if result is not ANSWERED:
            client_socket.respond({"request_result": True, "result": result})


def _start(requests: Requests, client_socket: ClientSocket, fields: Fields) -> object:
    connid = check_connid(fields["connid"])
    number = requests.start(connid, fields["time"], fields["job"])

    def make(answer: Answer | None) -> Fields:
        return {**({"status": "Started", "connid": connid} if answer is None else answer), "request": number}

    return _answer_at_end(requests, client_socket, number, fields["timeout"], make)


def _kill(requests: Requests, client_socket: ClientSocket, fields: Fields) -> Answer:
    killed = requests.kill(fields["connid"])
    return {"status": "Ok" if killed else "Invalid connection Id", "connid": check_connid(fields["connid"])}


def _get(requests: Requests, client_socket: ClientSocket, fields: Fields) -> dict[str, float]:
    return requests.left()


def _recall(requests: Requests, client_socket: ClientSocket, fields: Fields) -> Any:
    numbers = [int(number) for number in fields["requests"]]
    if len(numbers) > commands.MAX_RECALLED:
        raise RefusedError(f"At most {commands.MAX_RECALLED:,} requests are recalled at once", "requests")
    if fields["timeout"] and len(numbers) != 1:
        raise RefusedError("The end of one request can be waited for, not of several", "timeout")
    answers = {str(number): _recalled(requests, number) for number in numbers}
    if fields["timeout"] and None in answers.values():
        return _answer_at_end(requests, client_socket, numbers[0], fields["timeout"], lambda answer: {str(numbers[0]): answer})
    return answers


def _recalled(requests: Requests, number: int) -> Answer | None:
    try:
        return requests.recall(number)
    except RefusedError as unknown:
        return {"status": "Error", "message": unknown.reason}


def _watch(requests: Requests, client_socket: ClientSocket, fields: Fields) -> object:
    """Stream events until the server ends, or the client is gone. The first says at once where the stream begins."""
    watcher = requests.log.watch(None if fields["since"] is None else int(fields["since"]))
    if not client_socket.awaited:
        return ANSWERED
    _send(client_socket, {"event": "alive", "number": watcher.position, "time": time.time()})
    while not watcher.ended:
        events = watcher.next(ALIVE_INTERVAL, time.time())
        for event in events:
            _send(client_socket, _event(event))
        if not events:
            _send(client_socket, {"event": "alive", "number": watcher.position, "time": time.time()})
        if not client_socket.connected:
            return ANSWERED
    _send(client_socket, {"event": "gone", "number": watcher.position, "time": time.time()}, more=False)
    return ANSWERED


def _send(client_socket: ClientSocket, event: dict[str, Any], more: bool = True) -> None:
    client_socket.respond({"request_result": True, "result": event}, more=more)


def _event(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event of the log in the words of this task set."""
    plain = {name: value for name, value in event.items() if name != "job"}
    return plain if event["job"] is None else {**plain, "request": event["job"]}


def _answer_at_end(requests: Requests, client_socket: ClientSocket, number: int, timeout: float, make: Make) -> object:
    """Answer with what `make` returns, at the end of a request or after so many seconds; does not block where it may defer."""
    reply = _Reply(requests, client_socket, number, make)
    if timeout > 0 and client_socket.awaited and requests.when_ended(number, reply.tell):
        if client_socket.deferrable:
            timeout = min(timeout, threading.TIMEOUT_MAX / 4)
            client_socket.defer(timeout + _MARGIN)
            requests.deadlines.add(reply, timeout)
            return ANSWERED
        reply.wait(min(timeout, threading.TIMEOUT_MAX))
    reply.expire()
    return ANSWERED


class _Reply:
    """One answer, given once, by whoever comes first: the end of the request or the end of the wait for it."""

    __slots__ = ("_client_socket", "_given", "_make", "_number", "_over", "_requests")

    def __init__(self, requests: Requests, client_socket: ClientSocket, number: int, make: Make) -> None:
        self._requests = requests
        self._client_socket = client_socket
        self._number = number
        self._make = make
        self._given = threading.Lock()
        self._over = threading.Event()

    @property
    def settled(self) -> bool:
        """See `Expiring`."""
        return self._given.locked()

    def wait(self, timeout: float) -> None:
        """Block until it is given, or so long."""
        self._over.wait(timeout)

    def expire(self) -> None:
        """See `Expiring`: answer with how the request is."""
        self._requests.take_back(self._number, self.tell)
        self.tell(_recalled(self._requests, self._number))

    def tell(self, answer: Answer | None) -> None:
        """Answer, unless that has been done; None where the request runs on."""
        if not self._given.acquire(blocking=False):
            return
        try:
            self._client_socket.respond({"request_result": True, "result": self._make(answer)})
        except BgpyError as error:
            if not self._client_socket.responded and self._client_socket.connected:
                self._client_socket.respond(refused(error))  # too large for this client, for instance
        self._over.set()


_HANDLERS: Mapping[str, Callable[[Requests, ClientSocket, Fields], Any]] = {
    "start_request": _start,
    "kill_request": _kill,
    "get_requests": _get,
    "recall_requests": _recall,
    "watch_requests": _watch,
}
