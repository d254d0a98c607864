"""
An interpreter in a thread of the server: it shares the server's memory, and what Python cannot do to a thread stays undone.

A job that does not end by itself cannot be killed; an interrupt comes when the job next runs Python code; of the output only what
is written through `sys.stdout` and `sys.stderr` by the job's own thread (and its asyncio tasks) is told as the job's.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal

from bgpy.errors import BgpyError, RefusedError, SerializationError
from bgpy.system import workers
from bgpy.system.waiting import within
from bgpy.tasks.workspace.backends import Abilities, Listener, Order, Outcome
from bgpy.tasks.workspace.interpreter import Interpreter, safe_text
from bgpy.tasks.workspace.progress import SINK, Sink
from bgpy.tasks.workspace.shield import Shield

#: Seconds for a job to end after the interrupt by `close`; then its thread is left alone.
END_GRACE = 1.0
_INTERRUPTED = Outcome("interrupted", None, {"type": "KeyboardInterrupt", "message": "", "traceback": ""})
_Stream = Literal["stdout", "stderr"]
_STREAMS: tuple[_Stream, ...] = ("stdout", "stderr")

#: Whose interpreter runs in this context. Set by its thread, for itself.
_BACKEND: ContextVar[ThreadBackend | None] = ContextVar("bgpy_thread_backend", default=None)
#: Held while the streams of the process are exchanged.
_EXCHANGE = threading.Lock()


class JobStream:
    """Stand for `sys.stdout` or `sys.stderr` while there are thread workspaces: what a job writes goes to its workspace."""

    def __init__(self, name: _Stream, original: Any) -> None:
        self.users = 0
        self.original = original
        self._name = name

    def write(self, text: str) -> int:
        """Write a text where it belongs."""
        backend = _BACKEND.get()
        if backend is None or not backend.in_job:
            return int(self.original.write(text))
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        backend.tell_output(self._name, text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of some texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write out what is buffered; of a job nothing is."""
        backend = _BACKEND.get()
        if backend is None or not backend.in_job:
            self.original.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


@contextlib.contextmanager
def job_streams() -> Iterator[None]:
    """Put a `JobStream` in the place of both streams, or share those that are there, for the time of a job."""
    used = []
    with _EXCHANGE:
        for name in _STREAMS:
            stream = getattr(sys, name)
            if not isinstance(stream, JobStream):
                stream = JobStream(name, stream)
                setattr(sys, name, stream)
            stream.users += 1
            used.append((name, stream))
    try:
        yield
    finally:
        with _EXCHANGE:
            for name, stream in used:
                stream.users -= 1
                if stream.users == 0 and getattr(sys, name) is stream:
                    setattr(sys, name, stream.original)


class ThreadBackend:
    """See `Backend`."""

    abilities = Abilities(kill=False, interrupt=False, capture=False, own_main=False, memory_limit=False)

    def __init__(self, listener: Listener) -> None:
        self.process: tuple[int, str] | None = None
        self.place: tuple[str, str, int] | None = None
        self.adopted = False
        self._listener = listener
        self._interpreter = Interpreter(own_process=False)
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._shield = Shield()
        self._sink = Sink(self._tell_news)
        #: Held by the thread that tells the listener something, which is `_teller`: a job's own threads do so, too.
        self._telling = threading.Lock()
        self._teller = 0
        self._closed = False

    def start(self) -> None:
        """See `Backend`."""
        SINK.add(self._interpreter.namespace, self._sink)
        self._thread = threading.Thread(target=self._serve, name="bgpy-thread-workspace", daemon=True)
        self._thread.start()

    def run(self, order: Order) -> None:
        """See `Backend`."""
        self._orders.put(order)

    def interrupt(self, number: int) -> bool:
        """See `Backend`: as far as Python can. A job in C code, a sleep for instance, hears of it afterwards."""
        return self._shield.interrupt(number)

    def kill(self) -> bool:
        """See `Backend`: no thread can be killed."""
        return False

    def read(
        self, names: list[str] | None, encoding: Literal["json", "objects"], limit: int | None, timeout: float
    ) -> dict[str, Any]:
        """See `Backend`."""
        values: dict[str, Any] = self._bounded(timeout, lambda: self._interpreter.read(names, encoding, limit))
        return values

    def write(self, name: str, value: Any, timeout: float) -> None:
        """See `Backend`."""
        self._bounded(timeout, lambda: self._interpreter.write(name, value))

    def ask(self, host: str, method: str, argument: Any, timeout: float) -> Any:
        """See `Backend`."""

        def ask() -> Any:
            try:
                return self._interpreter.ask(host, method, argument)
            except KeyboardInterrupt:
                raise
            except BgpyError as error:
                raise RefusedError(str(error).rstrip(".")) from None  # one of ours says all in its text
            except BaseException as error:  # noqa: BLE001 - a value of the user may raise anything
                raise RefusedError(f"{type(error).__name__}: {safe_text(error)}".rstrip(".")) from None

        return self._bounded(timeout, ask)

    def _bounded(self, timeout: float, work: Callable[[], Any]) -> Any:
        """Let the methods of the user's values run in a thread of their own, until the time is up."""
        self._check_open()
        shield = Shield()
        late: tuple[Any, BaseException | None] = (None, TimeoutError())

        def attempt() -> tuple[Any, BaseException | None]:
            try:
                return work(), None
            except (RefusedError, SerializationError) as error:
                return None, error

        def run() -> tuple[Any, BaseException | None]:
            shield.thread = _thread.get_ident()
            return shield.run(0, attempt, late)

        done = within(timeout, run, lambda late: None)
        if done is None:
            shield.interrupt(0)
            raise TimeoutError
        value, error = done
        if error is not None:
            raise error
        return value

    def leave(self) -> None:
        """See `Backend`: it ends with the server."""
        self.close()

    def close(self) -> None:
        """See `Backend`. A job that runs is interrupted; one that goes on all the same is left alone and not heard any more."""
        if self._closed or self._thread is None:
            return
        self._closed = True
        SINK.remove(self._interpreter.namespace)
        self._orders.put(None)
        current = self._shield.current
        if current is not None:
            self._shield.interrupt(current)
        if self._thread is not threading.current_thread():
            self._thread.join(END_GRACE)
        self._interpreter.close()

    def _check_open(self) -> None:
        if self._closed or self._thread is None:
            raise EOFError("the interpreter has ended")

    # The thread of the interpreter

    def _serve(self) -> None:
        _BACKEND.set(self)
        SINK.set(self._sink)
        self._shield.thread = _thread.get_ident()
        own = os.getpid()
        while (order := self._orders.get()) is not None:
            with job_streams():
                outcome = self._shield.run(order.number, partial(self._interpreter.run, order), _INTERRUPTED)
                if os.getpid() != own:
                    workers.leave(0 if outcome.state == "done" else 1)  # a job forked, and its child came here
            with self._telling:
                if not self._closed:
                    self._listener.ended(order.number, outcome)

    # What a job tells, in its thread or in one of its own

    @property
    def in_job(self) -> bool:
        """Whether a job runs, and the calling thread no code of ours within it."""
        own = _thread.get_ident()
        ours = self._shield.entered if own == self._shield.thread else own == self._teller
        return self._shield.current is not None and not ours

    def tell_output(self, stream: _Stream, text: str) -> None:
        """Pass on what the running job writes."""
        data = str.encode(text, "utf-8", "backslashreplace")
        if data:
            self._tell(lambda number: self._listener.output(number, stream, data))

    def _tell_news(self, event: str, details: dict[str, Any]) -> None:
        self._tell(lambda number: self._listener.news(number, event, details))

    def _tell(self, tell: Callable[[int], None]) -> None:
        """Tell something of the job that runs, if one does. No thread is interrupted meanwhile: only the job's own ever is."""
        own = _thread.get_ident()
        with self._shield if own == self._shield.thread else contextlib.nullcontext(), self._telling:
            number = self._shield.current
            if number is not None and not self._closed:
                self._teller = own
                try:
                    tell(number)
                finally:
                    self._teller = 0
