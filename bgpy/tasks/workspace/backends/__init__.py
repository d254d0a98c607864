"""
Where an interpreter lives: one small interface, a file for each kind.

A workspace tells a `Backend` what to do, from any thread; the backend tells its `Listener` what happens, from threads of its own,
one call at a time and in the order in which things happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from bgpy.tasks.workspace.values import Value

#: The numbers of Pserve, and the names that stand for the same.
NAMES = {0: "process", 1: "thread", 2: "ray"}


class Abilities(NamedTuple):
    """What a kind of backend can do. The shared tests of the backends ask this, and so does who is told that it cannot."""

    #: Can end a running job at once, with all processes that it started.
    kill: bool
    #: Can raise KeyboardInterrupt in a running job, wherever it is: also in a wait or in C code that looks for signals.
    interrupt: bool
    #: Takes what C code and child processes write, too.
    capture: bool
    #: The namespace is a ``__main__`` of its own.
    own_main: bool
    #: Can limit the memory of its interpreter.
    memory_limit: bool
    #: Can outlive the server: the next one on the same records finds it again.
    survive: bool = False


class Order(NamedTuple):
    """One job, as its interpreter is told of it; or several calls that are run as one."""

    #: Of the first of them.
    number: int
    #: file, script or clear; of calls the name of the method.
    kind: str
    #: The path, or the script; "" for clear.
    text: str
    #: Whether the namespace is emptied first.
    clear: bool
    #: ``package.module:Class`` of calls.
    host: str = ""
    #: Number and argument of each call; () for all other jobs.
    calls: Sequence[tuple[int, Any]] = ()


class Outcome(NamedTuple):
    """How the interpreter says that a job ended."""

    state: Literal["done", "failed", "interrupted"]
    #: The value of the last expression, None where there is none.
    value: Value | None
    #: ``type``, ``message``, ``traceback`` (with the job's own source lines) of what it raised; None where it ran through.
    error: dict[str, str] | None
    #: How the other calls of the order ended, in its order; where they are not told apart, all ended like this.
    rest: Sequence[Outcome] = ()


class Listener(Protocol):
    """Whom a backend tells what happens."""

    def output(self, number: int | None, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        """Take what was written while job `number` ran (None: between two jobs)."""

    def news(self, number: int, event: str, details: dict[str, Any]) -> None:
        """Take what a job tells of itself, see `bgpy.tasks.workspace.progress.NEWS`."""

    def ended(self, number: int, outcome: Outcome) -> None:
        """Take the end of a job; all output that it had written has come before."""

    def died(self, reason: str, memory: bool) -> None:
        """
        Take the end of the interpreter, asked for or not; all its output has come before, and nothing comes after.

        `reason` is a text for people: "exit code 3", "signal SIGSEGV". `memory`: whether its memory limit is the likely cause.
        """


class Backend(Protocol):
    """One interpreter. Any thread; no method but `start` and `read` blocks for long."""

    abilities: Abilities
    #: The process that runs the jobs and its start time (`bgpy.system.process_start_time`), None where it has none of its own.
    process: tuple[int, str] | None
    #: On a cluster its node, by id and address, and its process there; None beside the server, and before `start`.
    place: tuple[str, str, int] | None
    #: Whether `start` has found the interpreter that an earlier server has left, and not made one.
    adopted: bool

    def start(self) -> None:
        """
        Make the interpreter, or find the one that was left; blocks until it is ready.

        Raises OSError or RuntimeError with the reason; `died` is not called then.
        """

    def run(self, order: Order) -> None:
        """
        Run a job; only after `start`, while no other one runs. A dead interpreter is told by `Listener.died`, not raised.

        The first job of one that was adopted may be one that it has been given before: then it is not run again, but all that it
        has written is told, and its end.
        """

    def interrupt(self, number: int) -> bool:
        """
        Raise KeyboardInterrupt in job `number`; returns whether that job ran now. Never hits another job.

        Of calls that run as one, the others are run again.
        """

    def kill(self) -> bool:
        """End the interpreter at once with all that it started; `Listener.died` follows. False where that cannot be done."""

    def read(
        self, names: list[str] | None, encoding: Literal["json", "objects"], limit: int | None, timeout: float
    ) -> dict[str, Any]:
        """
        Return variables by name, all of them for None; also while a job runs. Names that there are not are left out.

        With "json" each value is plain JSON data, described (``{"type", "shape", "truncated": true}``) where its JSON would pass
        `limit` bytes; with "objects" a `Packed`. Raises TimeoutError; EOFError where the interpreter has died.
        """

    def write(self, name: str, value: Any, timeout: float) -> None:
        """Set a variable to plain JSON data or to what is in a `Packed`; raises as `read`, and SerializationError."""

    def ask(self, host: str, method: str, argument: Any, timeout: float) -> Any:
        """
        Return what a method of a host of calls says to an argument, plain data both; also while a job runs.

        Raises as `read`, and RefusedError with the text of whatever the method raised.
        """

    def leave(self) -> None:
        """Let go of the interpreter, for the next server; only where it can `survive`. `died` is not called."""

    def close(self) -> None:
        """
        End the interpreter with all that it started, and wait for it, a bounded time. Again is fine.

        `died` may or may not be called.
        """


def whereabouts(backend: Backend | None) -> dict[str, Any]:
    """Return where an interpreter runs, for whoever asks how a workspace is: pid, node and address; None for what it has not."""
    process, place = (None, None) if backend is None else (backend.process, backend.place)
    node, address, pid = place or (None, None, None)
    return {"pid": process[0] if process is not None else pid, "node": node, "address": address}
