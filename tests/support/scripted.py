"""A backend that does what a test tells it, from a thread of its own, and a client socket that keeps what it is sent."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Literal

from bgpy.sockets import ClientSocket
from bgpy.tasks.workspace.backends import Abilities, Listener, Order, Outcome
from bgpy.tasks.workspace.means import Options
from bgpy.tasks.workspace.values import Value

DONE = Outcome("done", None, None)
INTERRUPTED = Outcome("interrupted", None, {"type": "KeyboardInterrupt", "message": "", "traceback": "..."})


class ScriptedBackend:
    """
    An interpreter of one-line scripts: ``done``, ``fail TEXT``, ``die REASON``, ``print TEXT``, ``value TEXT``,
    ``set NAME TEXT``, ``wait`` (until `end_job` or an interrupt), ``deaf`` (until it is killed).
    """

    process: tuple[int, str] | None = None
    place: tuple[str, str] | None = None
    adopted = False

    def __init__(self, listener: Listener, abilities: Abilities, fails: str | None, ready: threading.Event | None) -> None:
        self.listener = listener
        self.abilities = abilities
        self.variables: dict[str, Any] = {}
        #: What it was told to run, in order.
        self.orders: list[Order] = []
        #: Set while a job waits.
        self.waiting = threading.Event()
        self.closed = False
        self._fails = fails
        self._ready = ready
        self._todo: queue.SimpleQueue[Callable[[], bool]] = queue.SimpleQueue()
        self._running: int | None = None
        self._deaf = False
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="test-backend")

    def start(self) -> None:
        if self._ready is not None:
            assert self._ready.wait(10)
        if self._fails is not None:
            raise RuntimeError(self._fails)
        self._thread.start()

    def run(self, order: Order) -> None:
        self.orders.append(order)
        self._running = order.number
        self._todo.put(lambda: self._execute(order))

    def interrupt(self, number: int) -> bool:
        with self._guard:
            if self._running != number:
                return False
            if not self._deaf:
                self._todo.put(lambda: self._end(number, INTERRUPTED))
            return True

    def kill(self) -> bool:
        if self.abilities.kill:
            self.die("signal SIGKILL")
        return self.abilities.kill

    def read(
        self, names: list[str] | None, encoding: Literal["json", "objects"], limit: int | None, timeout: float
    ) -> dict[str, Any]:
        self._check()
        return {name: value for name, value in self.variables.items() if names is None or name in names}

    def write(self, name: str, value: Any, timeout: float) -> None:
        self._check()
        self.variables[name] = value

    def leave(self) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True
        self._todo.put(lambda: False)
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(10)

    # What only a test calls.

    def end_job(self, outcome: Outcome = DONE) -> None:
        """End the job that waits."""
        number = self._running
        assert number is not None
        self._todo.put(lambda: self._end(number, outcome))

    def die(self, reason: str, memory: bool = False) -> None:
        """Die, with or without a job."""
        self._todo.put(lambda: self._die(reason, memory))

    def _serve(self) -> None:
        while self._todo.get()():
            pass

    def _check(self) -> None:
        if not self._thread.is_alive():
            raise EOFError

    def _die(self, reason: str, memory: bool) -> bool:
        self._running = None
        self.listener.died(reason, memory)
        return False

    def _execute(self, order: Order) -> bool:
        if order.clear:
            self.variables.clear()
        word, _, text = order.text.partition(" ")
        outcome = DONE
        if word == "die":
            return self._die(text or "exit code 1", False)
        if word in ("wait", "deaf"):
            self._deaf = word == "deaf"
            self.waiting.set()
            return True
        if word == "print":
            self.listener.output(order.number, "stdout", text.encode())
        elif word == "value":
            outcome = Outcome("done", Value(text, None, "str"), None)
        elif word == "set":
            name, _, value = text.partition(" ")
            self.variables[name] = value
        elif word == "fail":
            outcome = Outcome("failed", None, {"type": "ValueError", "message": text, "traceback": "..."})
        return self._end(order.number, outcome)

    def _end(self, number: int, outcome: Outcome) -> bool:
        with self._guard:
            if self._running != number:
                return True
            self._running = None
            self._deaf = False
        self.waiting.clear()
        self.listener.ended(number, outcome)
        return True


class Backends:
    """Makes scripted backends, and remembers them."""

    def __init__(self) -> None:
        self.made: list[ScriptedBackend] = []
        self.abilities = Abilities(kill=True, interrupt=True, capture=True, own_main=True, memory_limit=True)
        #: What the next ones fail to start with.
        self.fails: str | None = None
        #: What the next ones wait for before they are ready.
        self.ready: threading.Event | None = None

    def make(self, options: Options, listener: Listener) -> ScriptedBackend:
        self.made.append(ScriptedBackend(listener, self.abilities, self.fails, self.ready))
        return self.last

    @property
    def last(self) -> ScriptedBackend:
        return self.made[-1]


class KeepingSocket(ClientSocket):
    """A client that waits for responses and keeps them."""

    awaited = True
    streamed = True
    connected = True
    identity: Any = None

    def __init__(self, *, awaited: bool = True, connected: bool = True, identity: tuple[bytes, int, int] | None = None) -> None:
        super().__init__(None, None, 0)
        self.awaited = awaited
        self.connected = connected
        self.identity = identity
        self.responses: queue.SimpleQueue[tuple[dict[str, Any], bool]] = queue.SimpleQueue()

    def respond(self, response: dict[str, Any], *, more: bool = False) -> None:
        self.responses.put((response, more))

    def answer(self) -> dict[str, Any]:
        """Return the response, the only one."""
        response, more = self.responses.get(timeout=10)
        assert not more
        assert self.responses.empty()
        return response
