"""
The end of a server: who comes last, how long it may take, and what is said to whom.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from bgpy.errors import AnswerLostError, BgpyError, ExitSkippedError, NoResponseError, SerializationError, ServerEndingError
from bgpy.protocol.calls import GRACE, MAX_GRACE
from bgpy.protocol.failures import remote_error
from bgpy.serving.requests import HeldAnswer, Request, confirmation
from bgpy.serving.service import Service
from bgpy.sockets import ClientSocket

#: Seconds on top of both after which the watchdog ends a process that does not end by itself.
_WATCHDOG_MARGIN = 2.0
#: Seconds for the clients of deferred streams to read what they are still sent.
_LAST_WORDS = 1.0


class Outcome(NamedTuple):
    """How the end went: whether the exit task was skipped, and what it raised."""

    skipped: bool
    exception: BaseException | None

    @property
    def exit_code(self) -> int:
        """The exit code of the process."""
        return 1 if self.skipped or self.exception is not None else 0


class Ending:
    """
    End one server, once. Any thread.

    Parameters
    ----------
    close_listener
        Frees the port.
    stopped
        Called when all is done but the last answer: takes the record away. Then `stop` lets the main loop return.
    watchdog
        Whether the process is the server's own, to be ended by force when it does not end in time.
    """

    def __init__(
        self,
        service: Service,
        close_listener: Callable[[], None],
        stopped: Callable[[], None],
        stop: Callable[[int], None],
        watchdog: bool,
    ) -> None:
        self._service = service
        self._close_listener = close_listener
        self._stopped = stopped
        self._stop = stop
        self._watchdog = watchdog
        self._begun = threading.Lock()

    def by_signal(self, exit_on_signal: Callable[[], None]) -> None:
        """End because of SIGTERM or SIGINT; blocks until the exit task is done. A second end does nothing."""
        if not self._begun.acquire(blocking=False):
            return
        exit_on_signal()
        outcome = self._end(ClientSocket(None, None, 0), {}, GRACE)
        self._stop(outcome.exit_code)

    def by_request(self, request: Request) -> None:
        """End because of an EXIT message, in the thread of its connection; its answer is the last thing that is sent."""
        held = request.hold()
        message = request.message()
        grace = message.get("grace")
        grace = GRACE if grace is None else float(grace)
        if not 0 <= grace <= MAX_GRACE:
            raise SerializationError(f"A server ends within 0 to {MAX_GRACE:g} s, not {grace:g}")
        if not self._begun.acquire(blocking=False):
            raise ServerEndingError
        outcome = self._end(request, message.get("args") or {}, grace)
        try:
            self._answer(request, held, outcome, grace)
        finally:
            self._stop(outcome.exit_code)

    def _end(self, client_socket: ClientSocket, args: dict[str, Any], grace: float) -> Outcome:
        import logging

        log = logging.getLogger("bgpy.server")
        if self._watchdog:
            import faulthandler

            # A thread of C code: it fires even when a task holds the interpreter's lock for good.
            faulthandler.dump_traceback_later(2 * grace + _WATCHDOG_MARGIN, exit=True)
        log.info("Ending")
        self._close_listener()
        deadline = time.monotonic() + grace
        ticket = self._service.close()
        in_time = ticket.wait(grace) and self._service.wait_for_concurrent(deadline - time.monotonic())
        self._service.turns.abandon()
        if in_time:
            exception = self._service.exit(client_socket, args)
            if exception is not None:
                log.error("The exit task failed", exc_info=(type(exception), exception, exception.__traceback__))
            outcome = Outcome(False, exception)
        else:
            log.error("The exit task is skipped: the state was still in use after %g s", grace)
            outcome = Outcome(True, None)
        self._fail_deferred()
        self._stopped()
        return outcome

    def _fail_deferred(self) -> None:
        """Tell all that nobody will answer any more; who does not read in time hears it from the end of the connection."""
        late = []
        for pending in self._service.deadlines.close():
            if isinstance(pending, Request):
                late.append(pending.fail_aside(AnswerLostError("the server ended before the work was finished")))
        until = time.monotonic() + _LAST_WORDS
        for thread in late:
            if thread is not None:
                thread.join(max(until - time.monotonic(), 0.0))

    def _answer(self, request: Request, held: HeldAnswer, outcome: Outcome, grace: float) -> None:
        failure: BgpyError | None = None
        if outcome.skipped:
            failure = ExitSkippedError(grace)
        elif outcome.exception is not None:
            failure = remote_error(outcome.exception)
        if failure is None and request.awaited and held.payload is None:
            failure = NoResponseError()
        if failure is not None:
            request.fail(failure, outcome.exception)
        else:
            request.finish(held.payload or confirmation(request.kind))
