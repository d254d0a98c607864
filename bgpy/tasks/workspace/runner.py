"""
The interpreter's side of a worker process: it takes jobs and questions from its channels, and tells what becomes of them.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from bgpy.errors import BgpyError, MessageTooLargeError, RemoteProtocolError
from bgpy.system import workers
from bgpy.tasks.workspace.backends import Order, Outcome
from bgpy.tasks.workspace.channel import (
    CLEAR_FIRST,
    FILE,
    MARK_STDERR,
    MARK_STDOUT,
    SCRIPT,
    Channel,
    Kind,
    Message,
    close_value,
    take_call,
    take_value,
)
from bgpy.tasks.workspace.interpreter import Interpreter, plain_text, safe_text
from bgpy.tasks.workspace.outcomes import close_outcome, close_outcomes
from bgpy.tasks.workspace.output import SECRET_SIZE, SECRET_START, make_mark
from bgpy.tasks.workspace.progress import SINK, Sink
from bgpy.tasks.workspace.readers import Readers
from bgpy.tasks.workspace.shield import Shield

#: The exit code of an interpreter that had no memory left to say how a job ended.
NO_MEMORY = 71
_SIGINT = int(signal.SIGINT)
_CALL, _ENDED = int(Kind.CALL), int(Kind.ENDED)
_NONE: frozenset[int] = frozenset()
_NO_ERROR = {"type": "KeyboardInterrupt", "message": "", "traceback": ""}


class Runner:
    """
    The interpreter's side: jobs in the main thread, so that a signal interrupts them; all else in two threads beside it.

    `_open` says whether a signal may raise in the running job. It is set and cleared by the main thread alone, in one step, with
    no place for a signal between the end of the user's code and that step. `_current` is the job for those who name it,
    `_together` are the calls that run as one, and `_guard` keeps them from ending between the question whether they run and the
    signal. `_hit` says for which one was sent.

    Parameters
    ----------
    adopts
        Whether this process itself adopts the orphans of its jobs; otherwise its parent does, and nothing else.
    """

    def __init__(self, jobs: Channel, *, adopts: bool = False) -> None:
        self._jobs = jobs
        self._beside: set[Channel] = set()
        self._orphanage = os.getpid() if adopts else os.getppid()
        self._guard = threading.Lock()
        self._current: int | None = None
        self._together: frozenset[int] = frozenset()
        self._open = False
        self._held = False
        self._postponed = False
        self._hit: int | None = None
        self._handler = self._on_interrupt
        self._pid = os.getpid()
        self._secret = SECRET_START + os.urandom(SECRET_SIZE - len(SECRET_START))
        # Copies of the pipes for the marks: a job may close or redirect descriptors 1 and 2.
        copies = [(os.dup(1), MARK_STDOUT), (os.dup(2), MARK_STDERR)]
        self._pipes = [(fd, workers.unread_probe(fd), flag) for fd, flag in copies]
        self._flush_c = workers.flusher_of_c()
        self._clock = workers.start_clock()
        self._begun = self._clock()
        for stream in (sys.stdout, sys.stderr):
            # Line by line, as in a terminal; and no text that a job prints may fail for the locale's encoding.
            # And a line ends the same way everywhere.
            stream.reconfigure(  # type: ignore[union-attr]
                encoding="utf-8", errors="backslashreplace", line_buffering=True, newline="\n"
            )
        self._interpreter = Interpreter(own_process=True)
        SINK.of_process = Sink(self._send_news)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._let_go)

    def serve(self, limit: int) -> None:
        """Say that all is ready and run jobs until the channel ends."""
        signal.signal(signal.SIGINT, self._handler)
        reason = None
        if limit:
            try:
                workers.limit_memory(limit)
            except (RuntimeError, OSError, ValueError) as error:
                reason = str(error)
        self._jobs.send(Kind.READY, 0, {"pid": self._pid, "secret": self._secret, "reason": reason})
        try:
            while (message := self._jobs.receive()) is not None:
                self._serve_job(message)
        except MemoryError:
            workers.leave(NO_MEMORY)
        except OSError:
            pass  # the server has gone

    def answer(self, control: Channel, variables: Channel) -> None:
        """Answer the questions of two channels beside the jobs, in two threads, until they end. Any thread."""
        self._beside |= {control, variables}
        readers = Readers(partial(self._serve_variables, variables))
        threading.Thread(target=self._serve_control, args=(control, readers), name="bgpy-workspace", daemon=True).start()

    # Jobs

    def _serve_job(self, message: Message) -> None:
        number, flags = message.number, message.flags
        if message.kind == _CALL:
            fields = message.fields
            calls = [take_call(closed) for closed in fields["calls"]]
            ended = close_outcomes(self._run_calls(Order(number, fields["method"], "", False, fields["host"], calls)))
        else:
            kind = "script" if flags & SCRIPT else "file" if flags & FILE else "clear"
            order = Order(number, kind, message.fields.get("text", ""), bool(flags & CLEAR_FIRST))
            ended = close_outcome(self._run_whole(order))
        self._jobs.send(_ENDED, number, ended, self._mark(number))

    def _run_calls(self, order: Order) -> list[Outcome]:
        """Run calls as one; where one of them is interrupted, the others are run again without it."""
        outcomes: dict[int, Outcome] = {}
        left = list(order.calls)
        while left:
            outcome = self._run_whole(order._replace(calls=left))
            hit = self._hit
            if outcome.state != "interrupted" or outcome.rest or hit is None or len(left) == 1:
                ends = (outcome, *(outcome.rest or [outcome] * (len(left) - 1)))
                outcomes.update({number: end for (number, _), end in zip(left, ends, strict=True)})
                break
            outcomes[hit] = outcome
            left = [call for call in left if call[0] != hit]
        return [outcomes[number] for number, _ in order.calls]

    def _run_whole(self, order: Order) -> Outcome:
        """Run a job, and see to what it leaves behind where it is interrupted."""
        outcome = self._run(order)
        if os.getpid() != self._pid:
            workers.leave(0 if outcome is not None and outcome.state == "done" else 1)  # a job forked, and its child came here
        if outcome is None:
            self._flush()  # what the interrupt kept from being written
            outcome = Outcome("interrupted", None, _NO_ERROR)
        if self._hit is not None and outcome.state != "done":
            workers.end_younger_than(self._begun, self._orphanage)  # whatever stops a job takes along what it started
        return outcome

    def _run(self, order: Order) -> Outcome | None:
        """Run a job; None where it was interrupted at its very end."""
        if _signal.getsignal(_SIGINT) is not self._handler:  # not by `signal`, whose detour by names takes 5 us
            signal.signal(signal.SIGINT, self._handler)  # the job before has put another one there
        outcome: Outcome | None = None
        self._begun, self._hit = self._clock(), None
        self._together = frozenset([number for number, _ in order.calls]) if order.calls else _NONE
        self._current = order.number
        try:
            self._open = True
            outcome = self._interpreter.run(order)
            self._flush()
            self._open = False
        except KeyboardInterrupt:
            self._open = False
            outcome = None
        with self._guard:
            self._current = None
        return outcome

    def _on_interrupt(self, number: int, frame: object) -> None:
        if not self._open:
            return
        if self._held:
            self._postponed = True
        else:
            raise KeyboardInterrupt

    def _flush(self) -> None:
        """Write out what Python and C have buffered, whatever the job has made of its streams."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # noqa: BLE001 - closed, or an object of the job's that can raise anything
                pass
        self._flush_c()

    def _mark(self, number: int) -> int:
        """Put the mark of the job's end into both pipes; not into one that has been read empty, where all has arrived."""
        flags = 0
        for fd, unread, flag in self._pipes:
            if unread():
                os.write(fd, make_mark(self._secret, number))
                flags |= flag
        return flags

    def _send_news(self, event: str, details: dict[str, Any]) -> None:
        """Send one event of the running job; an interrupt waits until it has been sent whole."""
        number, fields = self._current, {"event": event, "details": details}
        if number is None or os.getpid() != self._pid:
            return
        if threading.get_ident() != threading.main_thread().ident:
            self._jobs.send(Kind.NEWS, number, fields)  # no signal is handled there
            return
        self._held = True
        try:
            self._jobs.send(Kind.NEWS, number, fields)
        finally:
            self._held = False
        if self._postponed:
            self._postponed = False
            raise KeyboardInterrupt

    def _let_go(self) -> None:
        """Close, in a process that a job has forked, what would keep the server from seeing the end of this one."""
        for channel in (self._jobs, *self._beside):
            channel.close()
        while self._pipes:
            os.close(self._pipes.pop()[0])

    # Beside the jobs

    def _serve_control(self, channel: Channel, readers: Readers) -> None:
        workers.hold_interrupts_back()

        def answer(message: Message) -> dict[str, Any]:
            question = message.fields.get("question")
            return {"hit": self._interrupt(message.fields["job"]) if question is None else readers.give_up(question)}

        self._answer(channel, answer)

    def _interrupt(self, number: int) -> bool:
        with self._guard:
            if self._current is None or not (self._current == number or number in self._together) or not self._open:
                return False
            self._hit = number
            workers.interrupt_own_group(self._begun)
            return True

    def _serve_variables(self, channel: Channel, readers: Readers, shield: Shield) -> None:
        workers.hold_interrupts_back()
        shield.thread = threading.get_ident()

        def attempt(message: Message) -> dict[str, Any]:
            try:
                return _QUESTIONS[message.kind](self, message.fields)
            except KeyboardInterrupt:
                raise
            except BgpyError as error:
                return {"error": plain_text(str(error))}  # one of ours says all in its text
            except BaseException as error:  # noqa: BLE001 - a value of the user may raise anything
                return {"error": f"{type(error).__name__}: {plain_text(safe_text(error))}"}

        def answer(message: Message) -> dict[str, Any]:
            return shield.run(message.number, partial(attempt, message), {"error": "it was given up"})

        self._answer(channel, answer, lambda: readers.serves(shield))

    def _read(self, fields: dict[str, Any]) -> dict[str, Any]:
        values = self._interpreter.read(fields["names"], fields["encoding"], fields["limit"])
        if fields["encoding"] == "objects":
            values = {name: close_value(packed) for name, packed in values.items()}
        return {"values": values}

    def _write(self, fields: dict[str, Any]) -> dict[str, Any]:
        self._interpreter.write(fields["name"], take_value(fields["value"]) if fields["packed"] else fields["value"])
        return {}

    def _ask(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {"value": self._interpreter.ask(fields["host"], fields["method"], fields["argument"])}

    def _answer(
        self, channel: Channel, answer: Callable[[Message], dict[str, Any]], serves: Callable[[], bool] = lambda: True
    ) -> None:
        """Answer the questions of one channel until it ends, or another thread does so."""
        try:
            while (message := channel.receive()) is not None:
                fields = answer(message)
                if not serves():
                    return  # the question was given up, and the channel is another thread's
                try:
                    channel.send(Kind.ANSWER, message.number, fields)
                except MessageTooLargeError as error:
                    channel.send(Kind.ANSWER, message.number, {"error": str(error)})
        except (OSError, RemoteProtocolError):
            pass  # the server has gone, or asks what no server asks: it hears so, for nobody answers here any more
        self._beside.discard(channel)
        channel.close()


_QUESTIONS: Mapping[int, Callable[[Runner, dict[str, Any]], dict[str, Any]]] = {
    Kind.READ: Runner._read,
    Kind.WRITE: Runner._write,
    Kind.ASK: Runner._ask,
}
