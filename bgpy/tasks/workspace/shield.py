"""
Interrupt a thread, as far as Python can, while it runs code of the user, and never in code of ours.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from bgpy.system import workers

T = TypeVar("T")


class Shield:
    """
    Let KeyboardInterrupt be raised in a thread while it runs code of one job, and in no code of ours.

    ``with shield:`` surrounds our code within a job. An interrupt that comes meanwhile is raised at its end.
    """

    def __init__(self) -> None:
        self.thread = 0
        self.current: int | None = None
        #: Whether our code runs within a job.
        self.entered = False
        self._guard = threading.Lock()
        self._wanted = False

    def interrupt(self, number: int) -> bool:
        """Interrupt job `number`, if it runs. Any thread."""
        with self._guard:
            if self.current != number:
                return False
            if self.entered:
                self._wanted = True
            else:
                workers.raise_in_thread(self.thread, KeyboardInterrupt)
            return True

    def run(self, number: int, job: Callable[[], T], interrupted: T) -> T:
        """
        Run a job in the thread, open to interrupts; nothing of them is left when it returns.

        Returns `interrupted` where one ended it. A job raises nothing else.
        """
        outcome = interrupted
        try:
            self.current = number
            outcome = job()
            self._end()
        except KeyboardInterrupt:
            outcome = interrupted
        while self.current is not None:
            try:
                self._end()
            except KeyboardInterrupt:
                outcome = interrupted
        return outcome

    def _end(self) -> None:
        with self._guard:
            self.current = None
        self._take_late()
        self._wanted = self.entered = False

    def _take_late(self) -> None:
        """Run long enough for an interrupt that is under way to be raised here."""
        for _ in range(2):
            pass

    def __enter__(self) -> None:
        try:
            with self._guard:
                self.entered = True
            self._take_late()
        except KeyboardInterrupt:
            self.entered = False
            raise

    def __exit__(self, *exc_info: object) -> None:
        with self._guard:
            self.entered = False
            wanted, self._wanted = self._wanted, False
        if wanted:
            raise KeyboardInterrupt
