"""A listener that keeps what a backend tells, and waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from bgpy.tasks.workspace.backends import Backend, Order, Outcome

#: Seconds for anything that is waited for.
PATIENCE = 20.0


class Recorder:
    """Keep all that a backend tells, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self._changed = threading.Condition()

    def output(self, number: int | None, stream: str, data: bytes) -> None:
        self._tell("output", number, stream, data)

    def news(self, number: int, event: str, details: dict[str, Any]) -> None:
        self._tell(event, number, *details.values())

    def ended(self, number: int, outcome: Outcome) -> None:
        self._tell("ended", number, outcome)

    def died(self, reason: str, memory: bool) -> None:
        self._tell("died", reason, memory)

    def _tell(self, *what: Any) -> None:
        with self._changed:
            self.told.append(what)
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """Return what `condition` returns as soon as that is something."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), f"it did not come; told so far: {self.told[-5:]}"
            return condition()

    def outcome(self, number: int) -> Outcome:
        """Wait for the end of a job."""
        return self.wait_for(lambda: next((told[2] for told in self.told if told[:2] == ("ended", number)), None))  # type: ignore[no-any-return]

    def death(self) -> tuple[str, bool]:
        """Wait for the death of the interpreter."""
        return self.wait_for(lambda: next((told[1:] for told in self.told if told[0] == "died"), None))  # type: ignore[no-any-return]

    def text(self, number: int | None, stream: str = "stdout") -> str:
        """Return what has been told of a job's output."""
        with self._changed:
            return b"".join(told[3] for told in self.told if told[:3] == ("output", number, stream)).decode()

    def wait_for_text(self, number: int | None, text: str) -> None:
        """Wait until a job has written something to stdout."""
        self.wait_for(lambda: text in self.text(number))


class Session:
    """A backend that has been started, with the numbers of its jobs."""

    def __init__(self, backend: Backend, recorder: Recorder) -> None:
        self.backend = backend
        self.recorder = recorder
        self._number = -1

    def begin(self, text: str, kind: str = "script", clear: bool = False) -> int:
        """Start a job and return its number."""
        self._number += 1
        self.backend.run(Order(self._number, kind, text, clear))  # type: ignore[arg-type]
        return self._number

    def run(self, text: str, kind: str = "script", clear: bool = False) -> Outcome:
        """Run a job to its end."""
        return self.recorder.outcome(self.begin(text, kind, clear))

    def value(self, text: str) -> Any:
        """Return the value of a script's last expression as JSON."""
        outcome = self.run(text)
        assert outcome.error is None, outcome.error["traceback"]
        return None if outcome.value is None else outcome.value.json

    def text(self, stream: str = "stdout") -> str:
        """Return the output of the last job."""
        return self.recorder.text(self._number, stream)
