"""
The tasks of a server and their state: what runs a request, in which order, and what is known of it afterwards.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from bgpy.errors import (
    AlreadyInitializedError,
    BgpyError,
    InvalidResultError,
    NotInitializedError,
    RemoteError,
    SerializationError,
    ServerEndingError,
)
from bgpy.held import get_held_instances, held_instances
from bgpy.protocol.failures import remote_error
from bgpy.protocol.frames import FLAG_CONFIRM
from bgpy.protocol.messages import MessageType, dump
from bgpy.serving.deadlines import Deadlines
from bgpy.serving.requests import Request, confirmation
from bgpy.sockets import ClientSocket
from bgpy.system import resident_memory
from bgpy.taskset import TaskSet
from bgpy.turns import Ticket, TurnLock

#: Failures of requests that `status` tells of.
_REMEMBERED_FAILURES = 20


class Service:
    """
    Run the requests of one server. Thread-safe: each connection's thread calls `execute` and its like, which may raise.

    Parameters
    ----------
    instance
        The id of this server start.
    """

    def __init__(self, instance: bytes) -> None:
        self.instance = instance
        self.turns = TurnLock()
        self.deadlines = Deadlines()
        self.started = time.time()
        self._tasks: TaskSet | None = None
        self._state: Any = None
        self._counts = threading.Lock()
        self._idle = threading.Condition(self._counts)  # no concurrent task runs any more
        self._failed = 0
        self._failures: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED_FAILURES)
        self._concurrent = 0
        self._concurrent_requests = 0
        self._closing = False
        self._end_awaited = False
        #: What the init task wants called when the end begins.
        self._wake: list[Callable[[], object]] = []

    def settle_failed(self, request: Request, error: Exception) -> None:
        """Settle a request with what `initialize`, `execute` or `report_status` raised."""
        if not isinstance(error, BgpyError):
            self._fail(request, error)
            return
        # What was confirmed, and then did not run, is told to nobody but the log.
        if isinstance(error, SerializationError) or (not request.awaited and isinstance(error, ServerEndingError)):
            self._note(request, error)
        request.fail(error)

    def initialize(self, request: Request) -> None:
        """Take the task set of an INIT message and run its init task."""
        held = request.hold()
        ticket = self.turns.draw()
        message, wrong = self._understand(request)
        with ticket:
            if wrong is not None:
                raise wrong
            if self._tasks is not None:
                raise AlreadyInitializedError
            try:
                tasks = TaskSet.from_message(message)
            except (KeyError, TypeError) as error:
                raise SerializationError(f"An INIT message needs three callable tasks: {error}") from error
            failure = self._initialize(tasks, request)
            if failure is not None:
                self._fail(request, failure)
                return
        request.finish(held.payload or confirmation(request.kind))

    def start(self, tasks: TaskSet) -> None:
        """Run the init task of a server that is started with its tasks; raises what the task raises."""
        with self.turns.draw():
            failure = self._initialize(tasks, ClientSocket(None, None, 0))
        if failure is not None:
            raise failure

    def execute(self, request: Request) -> None:
        """Run the exec task, in its turn or, where it is marked so, at once."""
        tasks = self._tasks
        if tasks is None:
            self._execute_behind_init(request)
            return
        if tasks.concurrent:
            self._execute_concurrently(request, tasks)
            return
        ticket = self.turns.draw()
        # Confirmed before the turn comes: that means claimed, understood and in the queue, not finished.
        wrong = None
        try:
            message = request.message()
            if request.flags & FLAG_CONFIRM:
                request.confirm()
        except SerializationError as error:
            wrong = error  # it takes its turn like everything else
        if ticket.gate is not None:
            ticket.wait()
        try:
            if wrong is not None:
                raise wrong
            run = tasks.exec
            try:
                outcome = run(request, self._state, message)
            except BaseException as exception:  # noqa: BLE001 - as in `_attempt`
                outcome = _Raised(exception)
            fine = isinstance(outcome, dict)
            if fine:
                self._state = outcome
        finally:
            self.turns.release()
        if not fine or not request.answer.ended:
            self._settle(request, outcome)

    def close(self) -> Ticket:
        """Refuse new requests, and draw the last ticket: it is for the exit task."""
        with self._counts:
            self._closing = True
        for wake in self._wake:
            try:
                wake()
            except Exception:  # the end must come all the same
                import logging

                logging.getLogger("bgpy.server").exception("What the init task wants called at the end failed")
        return self.turns.close()

    def exit(self, client_socket: ClientSocket, message: dict[str, Any]) -> BaseException | None:
        """Run the exit task with the last state; the caller holds the turn. Returns what it raised."""
        if self._tasks is None:
            return None
        outcome = self._call(self._tasks.exit, client_socket, self._state, message)
        return outcome.exception if isinstance(outcome, _Raised) else None

    def wait_for_concurrent(self, timeout: float) -> bool:
        """Wait until no concurrent task runs; blocks. Returns whether that came in time."""
        with self._counts:
            self._end_awaited = True
            return self._idle.wait_for(lambda: not self._concurrent, max(timeout, 0))

    def status(self) -> dict[str, Any]:
        """Return what `Client.status` shows of this service."""
        with self._counts:
            return {
                "pid": os.getpid(),
                "id": self.instance.hex(),
                "python": ".".join(map(str, sys.version_info[:3])),
                "uptime": time.time() - self.started,
                "initialized": self._tasks is not None,
                "requests": self.turns.drawn + self._concurrent_requests,
                "failed": self._failed,
                "failures": list(self._failures),
                "memory": resident_memory(),
            }

    def report_status(self, request: Request, more: dict[str, Any]) -> None:
        """Answer a STATUS message."""
        request.finish(dump({**self.status(), **more}))

    def _initialize(self, tasks: TaskSet, client_socket: ClientSocket) -> BaseException | None:
        self._wake = []
        client_socket.note_ending = self._wake.append
        outcome = self._call(tasks.make_state, client_socket)
        if isinstance(outcome, _Raised):
            return outcome.exception
        if not isinstance(outcome, dict):
            return InvalidResultError("init_task", type(outcome).__name__)
        self._state = outcome
        self._tasks = tasks
        return None

    def _execute_behind_init(self, request: Request) -> None:
        """Run a request that came before there were tasks: an INIT may be ahead of it in the queue, and then it is confirmed."""
        ticket = self.turns.draw()
        message, wrong = self._understand(request)
        with ticket:
            if wrong is not None:
                raise wrong
            if self._tasks is None:
                raise NotInitializedError
            request.confirm()
            outcome = self._attempt(self._tasks, request, message)
            if isinstance(outcome, dict):
                self._state = outcome
        self._settle(request, outcome)

    def _execute_concurrently(self, request: Request, tasks: TaskSet) -> None:
        with self._counts:
            if self._closing:
                raise ServerEndingError
            self._concurrent += 1
            self._concurrent_requests += 1
        # It holds no state: it may call this very server, and so may what is unpickled for it.
        token = held_instances.set(())
        try:
            request.deferrable = True
            message = request.message()
            if request.flags & FLAG_CONFIRM:
                request.confirm()
            outcome = self._attempt(tasks, request, message)
        finally:
            held_instances.reset(token)
            with self._counts:
                self._concurrent -= 1
                if self._end_awaited:
                    self._idle.notify_all()
        if request.deferred is not None and not isinstance(outcome, _Raised):
            if not request.awaited:
                request.end()
            elif request.deferred < math.inf and not request.settled:
                self.deadlines.add(request, request.deferred)
            return
        self._settle(request, outcome if isinstance(outcome, _Raised) else {})

    def _attempt(self, tasks: TaskSet, request: Request, message: dict[str, Any]) -> Any:
        """Call the exec task; what it raises, `SystemExit` included, comes back as `_Raised`."""
        try:
            return tasks.exec(request, self._state, message)
        except BaseException as exception:  # noqa: BLE001 - a task may raise anything, and the server lives on
            return _Raised(exception)

    def _call(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """Call the init or the exit task, which may have any thread; what it raises comes back as `_Raised`."""
        token = held_instances.set((*get_held_instances(), self.instance))
        try:
            return task(*arguments)
        except BaseException as exception:  # noqa: BLE001 - as above
            return _Raised(exception)
        finally:
            held_instances.reset(token)

    def _settle(self, request: Request, outcome: Any) -> None:
        if isinstance(outcome, dict):
            request.end()
        elif isinstance(outcome, _Raised):
            self._fail(request, outcome.exception)
        else:
            self._fail(request, InvalidResultError("exec_task", type(outcome).__name__))

    def _fail(self, request: Request, exception: BaseException) -> None:
        """Note the failure of a task that ran, and tell the client unless it has its answer."""
        self._note(request, exception)
        if isinstance(exception, InvalidResultError):
            request.fail(exception)
        elif isinstance(exception, BgpyError) and exception is request.failure:
            exception.executed = True
            request.fail(exception)
        else:
            request.fail(remote_error(exception), exception)

    def _note(self, request: Request, exception: BaseException) -> None:
        import logging

        where = "after its response" if request.settled else "with a client waiting" if request.awaited else "with nobody waiting"
        # Through `remote_error`: the text of an exception of the user may raise.
        text = remote_error(exception).message if not isinstance(exception, RemoteError) else exception.type_name
        name = f"{type(exception).__name__}: {text}"
        kind = MessageType(request.kind).name
        with self._counts:
            self._failed += 1
            self._failures.append({"time": time.time(), "request": kind, "where": where, "error": name[:1000]})
        trace = (type(exception), exception, exception.__traceback__)
        logging.getLogger("bgpy.server").error("%s failed, %s", kind, where, exc_info=trace)

    def _understand(self, request: Request) -> tuple[dict[str, Any], BgpyError | None]:
        """Unpickle a request's message; what is wrong is returned, for it takes its turn like everything else."""
        try:
            return request.message(), None
        except SerializationError as error:
            return {}, error


class _Raised:
    """What a task raised, in place of what it would have returned."""

    __slots__ = ("exception",)

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception
