"""
Questions to an interpreter beside its jobs, and their answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from bgpy.errors import BgpyError, RefusedError, SerializationError
from bgpy.tasks.workspace.channel import Channel, Kind, close_value, take_value
from bgpy.tasks.workspace.values import Packed

#: Seconds after which an interrupt is believed to be under way: the interpreter is in C code that lets nobody else run.
INTERRUPT_TIMEOUT = 1.0


class Questions:
    """
    One of the two channels on which the server asks and the worker answers, one question at a time.

    `give_up` is told the number of a question that was not answered in time.
    """

    def __init__(self, channel: Channel, give_up: Callable[[int], object] = lambda number: None) -> None:
        self._channel = channel
        self._give_up = give_up
        self._turn = threading.Lock()
        self._number = 0
        self._closed = False

    def ask(self, kind: Kind, fields: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Return the answer; raises TimeoutError, EOFError where the worker has died, BgpyError for what cannot be sent."""
        deadline = time.monotonic() + timeout
        if not self._turn.acquire(timeout=max(timeout, 0)):
            raise TimeoutError
        try:
            if self._closed:
                raise EOFError("the interpreter has ended")
            self._number += 1
            try:
                self._channel.send(kind, self._number, fields)
            except OSError:
                raise EOFError("the interpreter has ended") from None
            try:
                return self._receive(deadline)
            except TimeoutError:
                self._give_up(self._number)
                raise
        finally:
            self._turn.release()

    def _receive(self, deadline: float) -> dict[str, Any]:
        while True:
            message = self._channel.receive(max(deadline - time.monotonic(), 0))
            if message is None:
                raise EOFError("the interpreter has ended")
            if message.number == self._number:  # else the answer to a question that was given up
                return message.fields

    def close(self) -> None:
        """Wake who waits for an answer, and close the channel."""
        self._channel.shutdown()
        with self._turn:
            self._closed = True
            self._channel.close()


class Beside:
    """
    All that is asked of an interpreter in a process of its own beside its jobs; see `Backend` for what the methods do.

    Parameters
    ----------
    control, variables
        The channels for it; `close` closes them.
    """

    def __init__(self, control: Channel, variables: Channel) -> None:
        self.control = Questions(control)
        self._variables = Questions(variables, self._give_up)

    def interrupt(self, number: int, timeout: float) -> bool:
        """
        Interrupt a job; returns whether it ran. Raises EOFError where the interpreter has died.

        Raises TimeoutError where it does not answer: the word is there, and names the job, so that it can hit no other.
        """
        return bool(self.control.ask(Kind.INTERRUPT, {"job": number}, timeout)["hit"])

    def read(
        self, names: list[str] | None, encoding: Literal["json", "objects"], limit: int | None, timeout: float
    ) -> dict[str, Any]:
        """Return variables."""
        values = self._ask(Kind.READ, {"names": names, "encoding": encoding, "limit": limit}, timeout)["values"]
        return values if encoding == "json" else {name: take_value(closed) for name, closed in values.items()}

    def write(self, name: str, value: Any, timeout: float) -> None:
        """Set a variable."""
        packed = isinstance(value, Packed)
        self._ask(Kind.WRITE, {"name": name, "packed": packed, "value": close_value(value) if packed else value}, timeout)

    def ask(self, host: str, method: str, argument: Any, timeout: float) -> Any:
        """Ask a host of calls."""
        return self._ask(Kind.ASK, {"host": host, "method": method, "argument": argument}, timeout, RefusedError)["value"]

    def close(self) -> None:
        """Wake who waits for an answer, and close the channels."""
        self.control.close()
        self._variables.close()

    def _ask(
        self, kind: Kind, fields: dict[str, Any], timeout: float, error: type[BgpyError] = SerializationError
    ) -> dict[str, Any]:
        answer = self._variables.ask(kind, fields, timeout)
        if "error" in answer:
            raise error(answer["error"].rstrip("."))
        return answer

    def _give_up(self, question: int) -> None:
        """Have the interpreter give up a question, lest a value whose own methods never end keeps it from all others."""
        try:
            self.control.ask(Kind.INTERRUPT, {"question": question}, INTERRUPT_TIMEOUT)
        except (TimeoutError, EOFError):
            pass  # it hears of it later, or has died
