"""
An interpreter in a process of its own, which can be interrupted, killed with all that it started, and limited.

Three sockets lead to the worker, one for each thing that must not wait for another: the jobs, the word that interrupts one, the
variables. A fourth is its lifeline: the worker ends where that ends, however the server ended.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from bgpy.errors import BgpyError, RefusedError, SerializationError
from bgpy.system import process_start_time, wait_socket, workers
from bgpy.tasks.workspace import worker
from bgpy.tasks.workspace.backends import Abilities, Listener, Order, Outcome
from bgpy.tasks.workspace.backends.spawner import Spawner as Spawner
from bgpy.tasks.workspace.channel import (
    CLEAR_FIRST,
    CLEAR_ONLY,
    FILE,
    MARK_STDERR,
    MARK_STDOUT,
    MAX_SIZE,
    SCRIPT,
    Channel,
    Kind,
    Message,
    close_call,
    close_value,
    take_value,
)
from bgpy.tasks.workspace.output import Cutter
from bgpy.tasks.workspace.progress import NEWS
from bgpy.tasks.workspace.runner import NO_MEMORY
from bgpy.tasks.workspace.values import Packed, Value

#: Seconds for a worker to say that it is ready.
START_TIMEOUT = 30.0
#: Seconds for an idle worker to end by itself, so that what it registered for its end runs.
END_GRACE = 1.0
#: Seconds for a killed worker to be gone, until more is done about it.
KILL_GRACE = 2.0
#: Seconds after which an interrupt is believed to be under way: the interpreter is in C code that lets nobody else run.
INTERRUPT_TIMEOUT = 1.0
_CHUNK = 65536
#: As plain numbers: members are slow to look up.
_RUN, _CALL, _NEWS, _ENDED = int(Kind.RUN), int(Kind.CALL), int(Kind.NEWS), int(Kind.ENDED)
_FLAGS = {"file": FILE, "script": SCRIPT, "clear": CLEAR_ONLY}
_DONE = Outcome("done", None, None)
_Stream = Literal["stdout", "stderr"]


class _Line:
    """
    One of the two channels on which the server asks and the worker answers, one question at a time.

    `give_up` is told the number of a question that was not answered in time.
    """

    def __init__(self, channel: Channel, give_up: Callable[[int], object] = lambda number: None) -> None:
        self._channel = channel
        self._give_up = give_up
        self._turn = threading.Lock()
        self._number = 0
        self._closed = False

    def ask(self, kind: Kind, fields: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Return the answer; raises TimeoutError, EOFError where the worker has died, BgpyError for what cannot be sent."""
        deadline = time.monotonic() + timeout
        if not self._turn.acquire(timeout=max(timeout, 0)):
            raise TimeoutError
        try:
            if self._closed:
                raise EOFError("the interpreter has ended")
            self._number += 1
            try:
                self._channel.send(kind, self._number, fields)
            except OSError:
                raise EOFError("the interpreter has ended") from None
            try:
                return self._receive(deadline)
            except TimeoutError:
                self._give_up(self._number)
                raise
        finally:
            self._turn.release()

    def _receive(self, deadline: float) -> dict[str, Any]:
        while True:
            message = self._channel.receive(max(deadline - time.monotonic(), 0))
            if message is None:
                raise EOFError("the interpreter has ended")
            if message.number == self._number:  # else the answer to a question that was given up
                return message.fields

    def close(self) -> None:
        """Wake who waits for an answer, and close the channel."""
        self._channel.shutdown()
        with self._turn:
            self._closed = True
            self._channel.close()


class _Pipe:
    """One of the worker's two streams, as the server reads it."""

    def __init__(self, fd: int, stream: _Stream, secret: bytes) -> None:
        self.fd = fd
        self.stream: _Stream = stream
        self.cutter = Cutter(secret)
        #: The number of the last job whose mark has come.
        self.marked: int | None = None


class _Ends(NamedTuple):
    """The server's ends of everything that leads to a worker."""

    jobs: Channel
    control: Channel
    variables: Channel
    lifeline: socket.socket
    stdout: int
    stderr: int

    def close(self) -> None:
        for channel in (self.jobs, self.control, self.variables):
            channel.close()
        self.lifeline.close()
        os.close(self.stdout)
        os.close(self.stderr)


class ProcessBackend:
    """
    See `Backend`.

    Parameters
    ----------
    spawner
        Must outlive this backend.
    memory_limit
        Bytes of address space of the interpreter, and of each process that it starts; None for no limit.
    max_size
        Most bytes of one message: of a script, of the variables that are read at once.
    """

    abilities = Abilities(kill=True, interrupt=True, capture=True, own_main=True, memory_limit=True)

    def __init__(
        self, listener: Listener, *, spawner: Spawner, memory_limit: int | None = None, max_size: int = MAX_SIZE
    ) -> None:
        self.process: tuple[int, str] | None = None
        self._listener = listener
        self._spawner = spawner
        self._memory_limit = memory_limit
        self._max_size = max_size
        self._guard = threading.Lock()
        self._ends: _Ends | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._driver: threading.Thread | None = None
        self._running: int | None = None
        self._together: frozenset[int] = frozenset()
        self._pending: tuple[int, Outcome, list[_Pipe]] | None = None
        self._pipes: dict[int, _Pipe] = {}
        self._broken: str | None = None
        self._closing = False

    # What a workspace asks for

    def start(self) -> None:
        """See `Backend`."""
        ends, popen = self._spawn()
        try:
            ready = self._await_ready(ends, popen)
        except BaseException:
            ends.lifeline.close()
            self._wait_for(popen)
            ends.close()
            raise
        pid, secret = ready["pid"], ready["secret"]
        self.process = (pid, process_start_time(pid) or "")
        for fd, stream in ((ends.stdout, "stdout"), (ends.stderr, "stderr")):
            os.set_blocking(fd, False)
            self._pipes[fd] = _Pipe(fd, stream, secret)  # type: ignore[arg-type]
        self._ends, self._popen = ends, popen
        self._control, self._variables = _Line(ends.control), _Line(ends.variables, self._give_up)
        self._driver = threading.Thread(target=self._drive, args=(ends, popen), name="bgpy-worker", daemon=True)
        self._driver.start()

    def run(self, order: Order) -> None:
        """See `Backend`."""
        ends = self._ends
        if ends is None:
            return  # it has died, and `died` has told so or will
        self._running = order.number
        try:
            if order.calls:
                self._together = frozenset(number for number, _ in order.calls)
                calls = [close_call(number, argument) for number, argument in order.calls]
                ends.jobs.send(_CALL, order.number, {"host": order.host, "method": order.kind, "calls": calls})
                return
            ends.jobs.send(_RUN, order.number, {"text": order.text}, _FLAGS[order.kind] | (CLEAR_FIRST if order.clear else 0))
        except OSError:
            pass  # as above

    def interrupt(self, number: int) -> bool:
        """See `Backend`."""
        if not self._runs(number):
            return False
        try:
            return bool(self._control.ask(Kind.INTERRUPT, {"job": number}, INTERRUPT_TIMEOUT)["hit"])
        except TimeoutError:
            return self._runs(number)  # the word is there, and names the job: it can hit no other
        except EOFError:
            return False

    def _runs(self, number: int) -> bool:
        return self._running is not None and (self._running == number or number in self._together)

    def kill(self) -> bool:
        """See `Backend`."""
        with self._guard:
            if self._ends is not None:
                self._cut(self._ends, self._popen)
        return True

    def read(
        self, names: list[str] | None, encoding: Literal["json", "objects"], limit: int | None, timeout: float
    ) -> dict[str, Any]:
        """See `Backend`."""
        values = self._ask(Kind.READ, {"names": names, "encoding": encoding, "limit": limit}, timeout)["values"]
        return values if encoding == "json" else {name: take_value(closed) for name, closed in values.items()}

    def _give_up(self, question: int) -> None:
        """Have the worker give up a question, lest a value whose own methods never end keeps it from all others."""
        try:
            self._control.ask(Kind.INTERRUPT, {"question": question}, INTERRUPT_TIMEOUT)
        except (TimeoutError, EOFError):
            pass  # it hears of it later, or has died

    def write(self, name: str, value: Any, timeout: float) -> None:
        """See `Backend`."""
        packed = isinstance(value, Packed)
        self._ask(Kind.WRITE, {"name": name, "packed": packed, "value": close_value(value) if packed else value}, timeout)

    def ask(self, host: str, method: str, argument: Any, timeout: float) -> Any:
        """See `Backend`."""
        return self._ask(Kind.ASK, {"host": host, "method": method, "argument": argument}, timeout, RefusedError)["value"]

    def _ask(
        self, kind: Kind, fields: dict[str, Any], timeout: float, error: type[BgpyError] = SerializationError
    ) -> dict[str, Any]:
        if self._ends is None:
            raise EOFError("the interpreter has ended")
        answer = self._variables.ask(kind, fields, timeout)
        if "error" in answer:
            raise error(answer["error"].rstrip("."))
        return answer

    def close(self) -> None:
        """See `Backend`. An idle interpreter gets a moment to end by itself."""
        self._closing = True
        driver, popen = self._driver, self._popen
        if driver is None or popen is None or driver is threading.current_thread():
            self.kill()
            return
        with self._guard:
            if self._ends is not None and self._running is None:
                self._ends.jobs.finish()
        if self._running is None:
            driver.join(END_GRACE)
        self.kill()
        driver.join(KILL_GRACE)
        if driver.is_alive():
            self._end_by_force(popen)
            driver.join(KILL_GRACE)

    # Start and end of the process

    def _spawn(self) -> tuple[_Ends, subprocess.Popen[bytes]]:
        pairs = [socket.socketpair() for _ in range(4)]
        pipes = [os.pipe() for _ in range(2)]
        ours = [pair[0] for pair in pairs]
        jobs, control, variables = (Channel(sock, self._max_size) for sock in ours[:3])
        ends = _Ends(jobs, control, variables, ours[3], pipes[0][0], pipes[1][0])
        theirs = [pair[1].fileno() for pair in pairs]
        numbers = [*theirs, self._memory_limit or 0, self._max_size]
        try:
            popen = self._spawner.spawn(
                [sys.executable, str(worker.__file__), *map(str, numbers)], theirs, pipes[0][1], pipes[1][1]
            )
        except BaseException:
            ends.close()
            raise
        finally:
            for _, sock in pairs:
                sock.close()
            for _, fd in pipes:
                os.close(fd)
        return ends, popen

    def _await_ready(self, ends: _Ends, popen: subprocess.Popen[bytes]) -> dict[str, Any]:
        deadline = time.monotonic() + START_TIMEOUT
        watch = workers.Watch([ends.jobs.fileno(), ends.stderr])
        said = b""
        while True:
            ready = watch.wait(deadline - time.monotonic())
            if ends.stderr in ready:  # read all the while, so that a long complaint does not block the worker
                said = (said + os.read(ends.stderr, _CHUNK))[-_CHUNK:]
            if ends.jobs.fileno() in ready:
                try:
                    message = ends.jobs.receive()
                except BgpyError as error:
                    raise RuntimeError(f"the worker does not speak as it should: {error}") from error
                if message is None:
                    raise RuntimeError(self._start_failure(ends, said))
                if message.fields["reason"] is not None:
                    raise RuntimeError(message.fields["reason"])
                return message.fields
            if not ready:
                raise RuntimeError(f"the worker was not ready after {START_TIMEOUT:g} s")

    def _start_failure(self, ends: _Ends, said: bytes) -> str:
        """Put together why a worker ended before it was ready."""
        status = self._read_report(ends.lifeline, KILL_GRACE)
        while wait_socket(ends.stderr, timeout=0) and (more := os.read(ends.stderr, _CHUNK)):
            said = (said + more)[-_CHUNK:]
        how = workers.describe_end(status[0]) if status else "no word of how"
        return f"the worker ended before it was ready ({how}): {said.decode('utf-8', 'replace').strip()}"

    def _read_report(self, lifeline: socket.socket, timeout: float) -> tuple[int, int] | None:
        if not wait_socket(lifeline, timeout=timeout):
            return None
        try:
            report = lifeline.recv(worker.REPORT.size)
        except OSError:
            return None
        return worker.REPORT.unpack(report) if len(report) == worker.REPORT.size else None

    def _cut(self, ends: _Ends, popen: subprocess.Popen[bytes] | None) -> None:
        """Tell the reaper to end it all, also where a job has stopped it."""
        if popen is not None:
            workers.wake_stopped(popen)
        try:
            ends.lifeline.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is over already

    def _end_by_force(self, popen: subprocess.Popen[bytes]) -> None:
        """End what can be reached from here, where the reaper itself does not answer."""
        if self.process is not None and process_start_time(self.process[0]) == self.process[1]:
            workers.end_group(self.process[0])
        popen.kill()

    def _wait_for(self, popen: subprocess.Popen[bytes]) -> int:
        """Wait for the process that was started, a bounded time."""
        try:
            return popen.wait(KILL_GRACE)
        except subprocess.TimeoutExpired:
            self._end_by_force(popen)
            return popen.wait()

    # The thread that hears the worker

    def _drive(self, ends: _Ends, popen: subprocess.Popen[bytes]) -> None:
        jobs, lifeline = ends.jobs.fileno(), ends.lifeline.fileno()
        watch = workers.Watch([jobs, lifeline, ends.stdout, ends.stderr])
        while True:
            ready = watch.wait()
            for fd in ready:
                pipe = self._pipes.get(fd)
                if pipe is not None and not self._read_pipe(pipe):
                    watch.drop(fd)
            if lifeline in ready:
                break
            if jobs in ready and not self._read_jobs(ends):
                watch.drop(jobs)
        self._finish(ends, popen)

    def _read_pipe(self, pipe: _Pipe) -> bool:
        """Pass on what a pipe holds; False at its end."""
        try:
            data = os.read(pipe.fd, _CHUNK)
        except BlockingIOError:
            return True
        for piece in pipe.cutter.feed(data):
            if isinstance(piece, int):
                self._take_mark(pipe, piece)
            else:
                self._tell_output(pipe, piece)
        return bool(data)

    def _tell_output(self, pipe: _Pipe, data: bytes) -> None:
        running = self._running
        self._listener.output(None if running == pipe.marked else running, pipe.stream, data)

    def _take_mark(self, pipe: _Pipe, number: int) -> None:
        pipe.marked = number
        if self._pending is not None:
            self._try_end(*self._pending)

    def _read_jobs(self, ends: _Ends) -> bool:
        """Handle what the jobs' channel holds; False at its end."""
        alive = ends.jobs.fill()
        try:
            while alive and (message := ends.jobs.next_message()) is not None:
                self._handle(message)
        except (BgpyError, KeyError, TypeError, ValueError) as error:
            self._broken = f"a job broke the worker's channel: {error}"
            self.kill()
            return False
        return alive

    def _handle(self, message: Message) -> None:
        kind, number, flags, fields = message
        if number != self._running:
            return
        if kind == _NEWS:
            event, details = fields["event"], fields["details"]
            self._listener.news(number, event, {name: details[name] for name in NEWS[event]})
        elif kind == _ENDED:
            waited = []
            for pipe, flag in zip(self._pipes.values(), (MARK_STDOUT, MARK_STDERR), strict=True):
                if flags & flag:
                    waited.append(pipe)
                elif held := pipe.cutter.finish():
                    self._tell_output(pipe, held)  # it looked like the beginning of a mark, and none was sent
            self._try_end(number, self._outcome(fields), waited)

    def _outcome(self, fields: dict[str, Any]) -> Outcome:
        if "calls" in fields:
            first, *rest = map(self._outcome, fields["calls"])
            return first._replace(rest=rest)
        if not fields:
            return _DONE
        value = None
        if "json" in fields:
            value = Value(fields["json"], None if fields["packed"] is None else take_value(fields["packed"]))
        return Outcome(fields["state"], value, fields.get("error"))

    def _try_end(self, number: int, outcome: Outcome, waited: list[_Pipe]) -> None:
        """Tell the end of a job as soon as all marks that were sent have come."""
        if any(pipe.marked != number for pipe in waited):
            self._pending = (number, outcome, waited)
            return
        self._pending = None
        self._running = None
        self._together = frozenset()
        self._listener.ended(number, outcome)

    def _finish(self, ends: _Ends, popen: subprocess.Popen[bytes]) -> None:
        """Take what the dead have left, close everything, and tell."""
        report = self._read_report(ends.lifeline, 0)
        self._wait_for(popen)
        if report is None:
            self._end_by_force(popen)
        for pipe in self._pipes.values():
            # All writers are dead. Should one have got away, it shall not keep us: what is there now is what is told.
            left = workers.unread_probe(pipe.fd)() or 1
            while left > 0 and self._read_pipe(pipe):
                left -= _CHUNK
            if held := pipe.cutter.finish():
                self._tell_output(pipe, held)
        while self._read_jobs(ends):
            pass
        with self._guard:
            self._ends = None
        self._control.close()
        self._variables.close()
        ends.close()
        reason, memory = self._judge(report)
        self._running = None
        if not self._closing:
            self._listener.died(reason, memory)

    def _judge(self, report: tuple[int, int] | None) -> tuple[str, bool]:
        """Say how the interpreter ended, and whether for want of memory."""
        if report is None:
            return self._broken or "the process that watches over the interpreter was killed", False
        status, peak = report
        how = workers.describe_end(status)
        if self._memory_limit is None:
            return self._broken or how, False
        if how == f"exit code {NO_MEMORY}":
            return "no memory left", True
        # A limit of memory kills nobody by itself: what dies of it is C code that takes no refusal, with much memory in use.
        by_refusal = how in ("signal SIGSEGV", "signal SIGABRT", "signal SIGBUS") and peak > self._memory_limit // 2
        return self._broken or how, by_refusal
