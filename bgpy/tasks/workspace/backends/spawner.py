"""
The one thread that starts all workers.
"""

from __future__ import annotations

import queue
import socket
import threading
from typing import TYPE_CHECKING

from bgpy.system.spawning import spawn_worker

if TYPE_CHECKING:
    from bgpy.system.spawning import Held


class Spawner:
    """
    Start workers, all from one thread that lives until `close`.

    The kernel ends a worker with the thread that started it, so that must not be the thread of some connection.
    """

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[_Start | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="bgpy-spawner", daemon=True)
        self._thread.start()

    def spawn(self, argv: list[str], inherited: list[socket.socket], stdout: int, stderr: int) -> Held:
        """Start a worker, see `bgpy.system.spawning.spawn_worker`. Any thread; raises OSError, RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("no worker can be started any more: the workspaces are closed")
        start = _Start(argv, inherited, stdout, stderr)
        self._orders.put(start)
        start.done.wait()
        if start.process is None:
            raise start.error or RuntimeError("no worker can be started any more: the workspaces are closed")
        return start.process

    def close(self) -> None:
        """End the thread, and with it every worker that still runs. Again is fine."""
        self._closed = True
        self._orders.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (start := self._orders.get()) is not None:
            start.run()
        while not self._orders.empty():
            late = self._orders.get()
            if late is not None:
                late.done.set()


class _Start:
    """One worker to start."""

    def __init__(self, argv: list[str], inherited: list[socket.socket], stdout: int, stderr: int) -> None:
        self._arguments = (argv, inherited, stdout, stderr)
        self.done = threading.Event()
        self.process: Held | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.process = spawn_worker(*self._arguments)
        except Exception as error:  # noqa: BLE001 - raised again, in the thread that asked
            self.error = error
        finally:
            self.done.set()
