"""
Who answers the questions of one channel: one thread at a time, and another where that one hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from bgpy.tasks.workspace.shield import Shield

#: Threads that may be left behind, in methods of the user's values that wait outside of Python. Then the last one is waited for.
MAX_LEFT = 4


class Readers:
    """
    Keep a value whose methods never end from being the last one that is read.

    An interrupt does not reach a thread that waits in C code, a sleep for instance. So where a question is given up, another
    thread takes the next one, and the old thread ends when it comes back, if it does.

    Parameters
    ----------
    serve
        Answers questions in the calling thread, each under the shield that it is given, until `serves` says no or none come.
    """

    def __init__(self, serve: Callable[[Readers, Shield], None]) -> None:
        self._serve = serve
        self._guard = threading.Lock()
        self._left: list[threading.Thread] = []
        self._start()

    def serves(self, shield: Shield) -> bool:
        """Tell whether the thread under a shield is still the one that answers. Between its questions."""
        with self._guard:
            return shield is self._shield

    def give_up(self, question: int) -> bool:
        """Interrupt the thread in a question, and put another one in its place; returns whether it was in that question."""
        with self._guard:
            if not self._shield.interrupt(question):
                return False
            self._left = [thread for thread in self._left if thread.is_alive()]
            if len(self._left) < MAX_LEFT:
                self._left.append(self._thread)
                self._start()
            return True

    def _start(self) -> None:
        self._shield = shield = Shield()
        self._thread = threading.Thread(target=lambda: self._serve(self, shield), name="bgpy-workspace", daemon=True)
        self._thread.start()
