"""
The workers of one workspace, one after another: made, started, and closed when they have died.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from bgpy.tasks.workspace.backends import Backend, Listener
from bgpy.tasks.workspace.hearing import Ear, Hearer


class Supply:
    """
    Make and close backends. Thread-safe.

    Parameters
    ----------
    make
        Makes a backend for whoever hears it, without starting it.
    workspace
        Hears them all.
    keeps
        Whether a backend that can outlive the server is left to the next one.
    """

    def __init__(self, make: Callable[[Listener], Backend], workspace: Hearer, keeps: bool) -> None:
        self.keeps = keeps
        self._make_backend = make
        self._workspace = workspace
        self._lock = threading.Lock()
        self._prepared: tuple[Backend, Ear] | None = None
        self._dead: list[Backend] = []

    def prepare(self) -> Backend:
        """Make the next one now; raises RefusedError where there is none of that type."""
        self._prepared = self._make()
        return self._prepared[0]

    def start(self) -> tuple[Backend, Ear]:
        """Start the next one; blocks until it is ready. Raises what stands in its way."""
        self.bury()
        with self._lock:
            prepared, self._prepared = self._prepared, None
        backend, ear = prepared or self._make()
        try:
            backend.start()
        except BaseException:
            backend.close()
            raise
        return backend, ear

    def retire(self, backend: Backend) -> None:
        """Take one that has died, or shall; `bury` closes it, for whoever retires it may hold a lock."""
        with self._lock:
            self._dead.append(backend)

    def leaves(self, backend: Backend) -> bool:
        """Tell whether a backend is left to the next server."""
        return self.keeps and backend.abilities.survive

    def part_with(self, backend: Backend) -> None:
        """End a backend, or leave it to the next server; blocks for a bounded time."""
        if self.leaves(backend):
            backend.leave()
        else:
            backend.close()

    def bury(self) -> None:
        """Close those that are retired, and wait for them, a bounded time."""
        with self._lock:
            dead, self._dead = self._dead, []
        for backend in dead:
            backend.close()

    def close(self) -> None:
        """Close all that there are."""
        with self._lock:
            prepared, self._prepared = self._prepared, None
        if prepared is not None:
            self.retire(prepared[0])
        self.bury()

    def _make(self) -> tuple[Backend, Ear]:
        ear = Ear(self._workspace)
        return self._make_backend(ear), ear
