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
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bgpy.errors import BgpyError
from bgpy.system import process_start_time, socket_pair, wait_socket, workers
from bgpy.system.streams import open_stream
from bgpy.tasks.workspace import worker
from bgpy.tasks.workspace.backends import Abilities, Listener, Order, Outcome
from bgpy.tasks.workspace.backends.distant import DistantBackend
from bgpy.tasks.workspace.backends.driver import Driver
from bgpy.tasks.workspace.backends.questions import Beside
from bgpy.tasks.workspace.backends.spawner import Spawner as Spawner
from bgpy.tasks.workspace.channel import MAX_SIZE, Channel
from bgpy.tasks.workspace.outcomes import take_outcome
from bgpy.tasks.workspace.runner import NO_MEMORY

if TYPE_CHECKING:
    from bgpy.system.spawning import Held
    from bgpy.system.streams import Stream

#: Seconds for a worker to say that it is ready.
START_TIMEOUT = 30.0
#: Seconds for an idle worker to end by itself, so that what it registered for its end runs.
END_GRACE = 1.0
#: Seconds for a killed worker to be gone, until more is done about it.
KILL_GRACE = 2.0
_CHUNK = 65536


class _Ends(NamedTuple):
    """The server's ends of everything that leads to a worker."""

    jobs: Channel
    control: Channel
    variables: Channel
    lifeline: socket.socket
    stdout: Stream
    stderr: Stream

    def close(self) -> None:
        for each in self:
            each.close()


class ProcessBackend(DistantBackend):
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
        super().__init__()
        self.process: tuple[int, str] | None = None
        self.place: tuple[str, str, int] | None = None
        self.adopted = False
        self._listener = listener
        self._spawner = spawner
        self._memory_limit = memory_limit
        self._max_size = max_size
        self._guard = threading.Lock()
        self._ends: _Ends | None = None
        self._held: Held | None = None
        self._thread: threading.Thread | None = None
        self._closing = False

    @property
    def _running(self) -> int | None:
        return self._driver.running

    # What a workspace asks for

    def start(self) -> None:
        """See `Backend`."""
        ends, held = self._spawn()
        try:
            ready = self._await_ready(ends, held)
        except BaseException:
            ends.lifeline.close()
            self._wait_for(held)
            held.close()
            ends.close()
            raise
        pid, secret = ready["pid"], ready["secret"]
        self.process = (pid, process_start_time(pid) or "")
        self._driver = Driver(self, ends.jobs, ends.stdout, ends.stderr, secret, take_outcome)
        self._ends, self._held = ends, held
        self._beside = Beside(ends.control, ends.variables)
        self._thread = threading.Thread(target=self._drive, args=(ends, held), name="bgpy-worker", daemon=True)
        self._thread.start()

    def run(self, order: Order) -> None:
        """See `Backend`."""
        ends = self._ends
        if ends is None:
            return  # it has died, and `died` has told so or will
        self._driver.running = order.number
        try:
            unsent = self._send(ends.jobs, order)
        except OSError:
            return  # as above
        if unsent is not None:
            self._driver.running = None
            self.ended(order.number, unsent)

    def kill(self) -> bool:
        """See `Backend`."""
        with self._guard:
            if self._ends is not None:
                self._cut(self._ends, self._held)
        return True

    def leave(self) -> None:
        """See `Backend`: it ends with the server."""
        self.close()

    def close(self) -> None:
        """See `Backend`. An idle interpreter gets a moment to end by itself."""
        self._closing = True
        thread, held = self._thread, self._held
        if thread is None or held is None or thread is threading.current_thread():
            self.kill()
            return
        with self._guard:
            if self._ends is not None and self._driver.running is None:
                self._ends.jobs.finish()
        if self._driver.running is None:
            thread.join(END_GRACE)
        self.kill()
        thread.join(KILL_GRACE)
        if thread.is_alive():
            self._end_by_force(held)
            thread.join(KILL_GRACE)

    # Start and end of the process

    def _spawn(self) -> tuple[_Ends, Held]:
        pairs = [socket_pair() for _ in range(4)]
        streams = [open_stream() for _ in range(2)]
        ours = [pair[0] for pair in pairs]
        jobs, control, variables = (Channel(sock, self._max_size) for sock in ours[:3])
        ends = _Ends(jobs, control, variables, ours[3], streams[0][0], streams[1][0])
        theirs = [pair[1] for pair in pairs]
        numbers = [*(sock.fileno() for sock in theirs), self._memory_limit or 0, self._max_size]
        arguments = [sys.executable, str(worker.__file__), *map(str, numbers)]
        try:
            try:
                held = self._spawner.spawn(arguments, theirs, streams[0][1], streams[1][1])
            finally:
                for sock in theirs:
                    sock.close()
                for _, fd in streams:
                    os.close(fd)
        except BaseException:
            ends.close()
            raise
        return ends, held

    def _await_ready(self, ends: _Ends, held: Held) -> dict[str, Any]:
        deadline = time.monotonic() + START_TIMEOUT
        watch = workers.Watch([ends.jobs.fileno(), ends.stderr.fileno()])
        said = b""
        while True:
            ready = watch.wait(deadline - time.monotonic())
            if ends.stderr.fileno() in ready:  # read all the while, so that a long complaint does not block the worker
                said = (said + ends.stderr.read(_CHUNK))[-_CHUNK:]
            if ends.jobs.fileno() in ready:
                try:
                    message = ends.jobs.receive()
                except BgpyError as error:
                    raise RuntimeError(f"the worker does not speak as it should: {error}") from error
                if message is None:
                    raise RuntimeError(self._start_failure(ends, held, said))
                if message.fields["reason"] is not None:
                    raise RuntimeError(message.fields["reason"])
                return message.fields
            if not ready:
                raise RuntimeError(f"the worker was not ready after {START_TIMEOUT:g} s")

    def _start_failure(self, ends: _Ends, held: Held, said: bytes) -> str:
        """Put together why a worker ended before it was ready."""
        report = self._read_report(ends.lifeline, KILL_GRACE)
        code = self._wait_for(held)
        for more in ends.stderr.rest(_CHUNK):
            said = (said + more)[-_CHUNK:]
        how = workers.describe_end(report[0]) if report else workers.describe_exit(code)
        return f"the worker ended before it was ready ({how}): {said.decode('utf-8', 'replace').strip()}"

    def _read_report(self, lifeline: socket.socket, timeout: float) -> tuple[int, int] | None:
        if not wait_socket(lifeline, timeout=timeout):
            return None
        try:
            report = lifeline.recv(worker.REPORT.size)
        except OSError:
            return None
        return worker.REPORT.unpack(report) if len(report) == worker.REPORT.size else None

    def _is_alone(self, held: Held) -> bool:
        """Tell whether the interpreter is the process that was started itself, with no reaper over it."""
        return self.process is not None and self.process[0] == held.pid

    def _cut(self, ends: _Ends, held: Held | None) -> None:
        """End it all, by its reaper where there is one, also where a job has stopped that."""
        if held is not None:
            if self._is_alone(held):
                held.end_all()
                return
            held.wake()
        try:
            ends.lifeline.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is over already

    def _end_by_force(self, held: Held) -> None:
        """End what can be reached from here, where the reaper itself does not answer."""
        if self.process is not None and process_start_time(self.process[0]) == self.process[1]:
            workers.end_group(self.process[0])
        held.end_all()

    def _wait_for(self, held: Held) -> int:
        """Wait for the process that was started, a bounded time; returns its exit code."""
        if self._is_alone(held):
            held.end_rest(KILL_GRACE)
        try:
            return held.wait(KILL_GRACE)
        except subprocess.TimeoutExpired:
            self._end_by_force(held)
            return held.wait()

    # The thread that hears the worker

    def _drive(self, ends: _Ends, held: Held) -> None:
        jobs, lifeline, *streams = (each.fileno() for each in (ends.jobs, ends.lifeline, ends.stdout, ends.stderr))
        watch = workers.Watch([jobs, lifeline, *streams])
        while True:
            ready = watch.wait()
            for fd in streams:
                if fd in ready and not self._driver.read(fd):
                    watch.drop(fd)
            if lifeline in ready:
                break
            if jobs in ready and not self._driver.read_jobs():
                watch.drop(jobs)
                if self._driver.broken is not None:
                    self.kill()
        self._finish(ends, held)

    def output(self, number: int | None, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        """See `Hears`."""
        self._listener.output(number, stream, data)

    def news(self, number: int, event: str, details: dict[str, Any]) -> None:
        """See `Hears`."""
        self._listener.news(number, event, details)

    def ended(self, number: int, end: Outcome) -> None:
        """See `Hears`."""
        self._together = frozenset()
        self._listener.ended(number, end)

    def _finish(self, ends: _Ends, held: Held) -> None:
        """Take what the dead have left, close everything, and tell."""
        report = self._read_report(ends.lifeline, 0)
        code = self._wait_for(held)
        if report is None:
            self._end_by_force(held)
        self._driver.finish()
        with self._guard:
            self._ends = None
        self._end_questions()
        ends.close()
        reason, memory = self._judge(held, report, code)
        held.close()
        if not self._closing:
            self._listener.died(reason, memory)

    def _judge(self, held: Held, report: tuple[int, int] | None, code: int) -> tuple[str, bool]:
        """Say how the interpreter ended, and whether for want of memory."""
        if report is not None:
            how, peak = workers.describe_end(report[0]), report[1]
        elif self._is_alone(held):
            how, peak = workers.describe_exit(code), held.peak_memory()
        else:
            return self._driver.broken or "the process that watches over the interpreter was killed", False
        if self._memory_limit is None:
            return self._driver.broken or how, False
        if how == f"exit code {NO_MEMORY}":
            return "no memory left", True
        # A limit of memory kills nobody by itself: what dies of it is C code that takes no refusal, with much memory in use.
        return self._driver.broken or how, workers.is_crash(how) and peak > self._memory_limit // 2
