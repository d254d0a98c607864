"""
What backends have in common whose interpreter is in a process of its own, wherever that is.
"""

from __future__ import annotations

from typing import Any, Literal

from bgpy.tasks.workspace.backends import Order, Outcome
from bgpy.tasks.workspace.backends.questions import INTERRUPT_TIMEOUT, Beside
from bgpy.tasks.workspace.channel import CLEAR_FIRST, CLEAR_ONLY, FILE, SCRIPT, Channel, Kind, close_call

#: As plain numbers: members are slow to look up.
_RUN, _CALL = int(Kind.RUN), int(Kind.CALL)
_FLAGS = {"file": FILE, "script": SCRIPT, "clear": CLEAR_ONLY}


class DistantBackend:
    """The part of a `Backend` that sends jobs to the interpreter, and questions beside them."""

    def __init__(self) -> None:
        #: Where questions go; None before the interpreter is there, and when it is there no more.
        self._beside: Beside | None = None
        self._together: frozenset[int] = frozenset()

    @property
    def _running(self) -> int | None:
        """The job that runs, of calls that run as one the first."""
        raise NotImplementedError

    def _send(self, jobs: Channel, order: Order) -> Outcome | None:
        """
        Hand a job over; returns its end where it cannot be sent: then nothing of it was, and nobody else tells of it.

        Raises OSError where the interpreter has died.
        """
        try:
            self._pass_on(jobs, order)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - it is too deep, too large, or no plain data
            message = f"It cannot be sent to its worker: {error}"
            return Outcome("failed", None, {"type": type(error).__name__, "message": message, "traceback": ""})
        return None

    def _pass_on(self, jobs: Channel, order: Order) -> None:
        if order.calls:
            self._together = frozenset([number for number, _ in order.calls])
            calls = [close_call(number, argument) for number, argument in order.calls]
            jobs.send(_CALL, order.number, {"host": order.host, "method": order.kind, "calls": calls})
        else:
            self._together = frozenset()
            jobs.send(_RUN, order.number, {"text": order.text}, _FLAGS[order.kind] | (CLEAR_FIRST if order.clear else 0))

    def interrupt(self, number: int) -> bool:
        """See `Backend`."""
        beside = self._beside
        if beside is None or not self._runs(number):
            return False
        try:
            return beside.interrupt(number, INTERRUPT_TIMEOUT)
        except TimeoutError:
            return self._runs(number)  # the word is there, and names the job: it can hit no other
        except EOFError:
            return False

    def _runs(self, number: int) -> bool:
        running = self._running
        return running is not None and (running == number or number in self._together)

    def read(
        self, names: list[str] | None, encoding: Literal["json", "objects"], limit: int | None, timeout: float
    ) -> dict[str, Any]:
        """See `Backend`."""
        return self._living().read(names, encoding, limit, timeout)

    def write(self, name: str, value: Any, timeout: float) -> None:
        """See `Backend`."""
        self._living().write(name, value, timeout)

    def ask(self, host: str, method: str, argument: Any, timeout: float) -> Any:
        """See `Backend`."""
        return self._living().ask(host, method, argument, timeout)

    def _living(self) -> Beside:
        beside = self._beside
        if beside is None:
            raise EOFError("the interpreter has ended")
        return beside

    def _end_questions(self) -> None:
        """Wake whoever waits for an answer: the interpreter is there no more."""
        beside, self._beside = self._beside, None
        if beside is not None:
            beside.close()
