"""
What a workspace is made with, and what it shares with the others of its server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bgpy.errors import StoreError
from bgpy.serving.deadlines import Deadlines
from bgpy.tasks.workspace.backends import Backend, Listener
from bgpy.tasks.workspace.queue import MAX_JOBS
from bgpy.tasks.workspace.store import Store

if TYPE_CHECKING:
    from bgpy.tasks.workspace.workspace import Workspace

#: Seconds that a commit may take before whoever waits for it is told that the store hangs.
STORE_TIMEOUT = 60.0


#: What can be said of where a workspace on Ray runs, and with what.
PLACEMENT = ("num_cpus", "num_gpus", "memory", "resources", "runtime_env", "node")


class Options(NamedTuple):
    """
    What a workspace was created with.

    Attributes
    ----------
    type
        The name of its backend.
    on_crash, max_jobs
        As for `JobQueue`.
    memory_limit
        Bytes of address space that the worker may take, None for no limit.
    placement
        Of a workspace on Ray: where it runs and with what, the fields of `PLACEMENT`.
    home
        What its worker is known by outside of this server, where that can outlive it: the next server finds it by this.
    replica_of
        The workspace whose model it has a replica of, where another task set made it for that.
    """

    type: str = "process"
    on_crash: Literal["abort", "continue"] = "abort"
    memory_limit: int | None = None
    max_jobs: int = MAX_JOBS
    placement: Mapping[str, Any] | None = None
    home: str | None = None
    replica_of: str | None = None

    def told(self) -> dict[str, Any]:
        """Return what the workspace's status tells of them."""
        return {"type": self.type} if self.replica_of is None else {"type": self.type, "replica_of": self.replica_of}


class Means(NamedTuple):
    """What the workspaces of one server share."""

    store: Store
    #: Whether whole records can be read from it.
    keeps: bool
    deadlines: Deadlines
    #: Makes a backend, not started yet; raises RefusedError where there is none of that type.
    make_backend: Callable[[Options, Listener], Backend]
    #: Called with a workspace whose worker has died, for whoever had something in it; must not block.
    tell_death: Callable[[Workspace], object] = lambda workspace: None


class Gate:
    """What one thread waits at, until another one opens it."""

    __slots__ = ("_lock", "error")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.error: StoreError | None = None

    def wait(self, timeout: float) -> bool:
        """Wait until it is open; returns whether that came in time."""
        return self._lock.acquire(timeout=timeout)

    def wait_for_store(self) -> None:
        """Wait for what the store says; raises StoreError where it could not do it, or says nothing."""
        if not self.wait(STORE_TIMEOUT):
            raise StoreError("of the workspaces", f"It did not answer within {STORE_TIMEOUT:g} s", "See whether its disk works")
        if self.error is not None:
            raise self.error

    def open_at_end(self, record: object) -> None:
        """Let it go on, as what is called at the end of a job."""
        self.open()

    def open(self, error: StoreError | None = None) -> None:
        """Let the one that waits go on; once."""
        self.error = error
        self._lock.release()
