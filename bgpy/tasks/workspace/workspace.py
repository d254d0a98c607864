"""
One workspace: drives its queue with a backend, a store and a log of events.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

from bgpy.errors import RefusedError, StoreError
from bgpy.serving.deadlines import Deadlines
from bgpy.tasks.workspace.backends import Abilities, Backend, Outcome, whereabouts
from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.events import EventLog
from bgpy.tasks.workspace.hearing import Ear, JobTimer
from bgpy.tasks.workspace.instructions import (
    Acknowledge,
    Announce,
    Commit,
    Instruction,
    Interrupt,
    Kill,
    Run,
    SetTimer,
    Settle,
    StartWorker,
)
from bgpy.tasks.workspace.jobs import Identity, JobRecord, JobState
from bgpy.tasks.workspace.ledger import Ledger
from bgpy.tasks.workspace.means import Gate, Means, Options
from bgpy.tasks.workspace.outbox import Outbox, Tell, Then, Waiters
from bgpy.tasks.workspace.queue import JobQueue
from bgpy.tasks.workspace.records import StoredWorkspace, WorkspaceGone
from bgpy.tasks.workspace.supply import Supply

T = TypeVar("T")

#: Seconds in which whatever stops a job has stopped it.
STOP_TIMEOUT = 5.0
#: Bytes of value and output that stay in memory with an ended job whose whole record the store has.
KEPT_OUTPUT = 4096
#: Seconds that a start under way gets when the workspace goes.
_START_TIMEOUT = 10.0


class Workspace:
    """
    A namespace that runs jobs in order. Thread-safe; no lock is held while a backend or the store is at work.

    Parameters
    ----------
    stored
        What an earlier server has left of it.
    """

    def __init__(self, name: str, options: Options, means: Means, stored: StoredWorkspace | None = None) -> None:
        self.name = name
        self.options = options
        self.log = EventLog()
        self._means = means
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._stopping = 0  # who waits for a job to be with its worker, so that it can be stopped
        self._queue = JobQueue(name, on_crash=options.on_crash, max_jobs=options.max_jobs, volatile=not means.keeps)
        self._outbox = Outbox(self._lock, self._carry_out)
        self._perform = self._outbox.empty
        self._acknowledgements: dict[int, Gate] = {}
        self._waiters = Waiters(self._let_go, means.keeps)
        self._gone = Gate()
        self._ear: Ear | None = None
        self._backend: Backend | None = None
        self._supply = Supply(partial(means.make_backend, options), self, means.keeps)
        self._abilities: Abilities | None = None
        self._starter: threading.Thread | None = None
        self._start_failure = ""
        self._closed = False
        if stored is not None:
            self._queue.jobs.left.update(stored.left)
            self._queue.restore(stored.jobs, stored.next_number, stored.restarts, time.time(), survivor=options.home is not None)

    @property
    def deadlines(self) -> Deadlines:
        """What tells of the end of a time; shared by all workspaces of the server."""
        return self._means.deadlines

    @property
    def worker(self) -> object | None:
        """The interpreter in service: another object for each, None where there is none."""
        return self._ear

    def prepare(self) -> Abilities:
        """Make the backend, without starting it; raises RefusedError where there is none of that type."""
        return self._note_abilities(self._supply.prepare().abilities)

    def open(self) -> None:
        """Start the worker; returns at once."""
        self._tell(self._queue.want_worker)

    # What clients ask for.

    def push(
        self,
        kind: str,
        text: str,
        *,
        clear: bool = False,
        time_limit: float | None = None,
        identity: Identity | None = None,
        call: Call | None = None,
        then: Then | None = None,
    ) -> int:
        """
        Queue a job and return its number; blocks until the store has it.

        Parameters
        ----------
        kind
            file, script or clear; `call` queues what is none of these.
        then
            As for `when_ended`, and no end is missed; of a job that the same request has pushed before it may come at once.

        Raises
        ------
        RefusedError
            The workspace is gone.
        OverloadedError
            Too many jobs wait.
        StoreError
            The job could not be kept; it will not run.
        """
        gate = None
        with self._lock:
            self._check_open()
            following = self._queue.jobs.next_number
            number = self._queue.push(
                kind, text, clear=clear, time_limit=time_limit, identity=identity, now=time.time(), call=call
            )
            if number == following:
                if self._queue.waits_for_store(number):
                    gate = self._acknowledgements[number] = Gate()
                if then is not None:
                    self._waiters.add(number, then)
            self._absorb()
        self._perform()
        if gate is not None:
            gate.wait_for_store()
        elif then is not None and number != following and not self.when_ended(number, then):
            then(self.record(number))
        return number

    def call(self, call: Call, text: str, **options: Any) -> int:
        """Queue a call, `text` stands for it in its record; as `push`."""
        return self.push(call.method, text, call=call, **options)

    def when_ended(self, number: int, then: Then) -> bool:
        """
        Have `then` called with the job's record at its end, or when the server begins to end; returns False where that has come.

        It is called from whatever thread and must not block; the record may lose what is large afterwards. Raises RefusedError
        where there is no such job.
        """
        with self._lock:
            if self._queue.jobs.state(number).ended or self._closed:
                return False
            self._waiters.add(number, then)
        return True

    def wait(self, number: int, timeout: float) -> JobState:
        """
        Wait for the end of a job; returns its state, which is not an end where that did not come in time or the server ends.

        Raises StoreError where the job's end could not be kept, RefusedError where there is no such job.
        """
        gate = Gate()
        if self.when_ended(number, gate.open_at_end) and not gate.wait(min(timeout, threading.TIMEOUT_MAX)):
            with self._lock:
                self._waiters.take_back(number, gate.open_at_end)
        state = self.state(number)
        self.check_saved(number)
        return state

    def check_saved(self, number: int) -> None:
        """Raise StoreError where the end of a job could not be kept; for whoever knows of that end."""
        error = self._queue.jobs.unsaved.get(number)  # without the lock: it was noted before anybody heard of the end
        if error is not None:
            raise error

    def state(self, number: int | None) -> JobState:
        """Return the state of a job, None is the last one; raises RefusedError where there is no such job."""
        with self._lock:
            return self._queue.jobs.state(number)

    def record(self, number: int | None, whole: bool = True) -> JobRecord:
        """
        Return all that is known of a job, None is the last one; unless `whole` without what is only in the store.

        Raises RefusedError where there is no such job, StoreError where it cannot be read.
        """
        with self._lock:
            record = self._queue.jobs.view(number)
            left = whole and record.number in self._queue.jobs.left
        if left:
            stored = self._means.store.read(self.name, record.number)
            if stored is None:
                raise RefusedError(f"Job {record.number} of the workspace {self.name!r} is gone", "job")
            return stored
        return record

    def look(self, question: Callable[[Ledger], T]) -> T:
        """Return what a question finds in the records of all jobs; it must be quick, and keep nothing of them."""
        with self._lock:
            return question(self._queue.jobs)

    def status(self) -> dict[str, Any]:
        """Return how the workspace is: the keys of the original, and more."""
        with self._lock:
            return {
                **self._queue.status(),
                **self.options.told(),
                **whereabouts(self._backend),
                "abilities": dict(self._abilities._asdict()) if self._abilities is not None else None,
                **self._queue.jobs.bounds(),
                "last_event": self.log.last,
            }

    def cancel(self, number: int) -> bool:
        """Take a waiting job out of the queue; returns whether it was waiting."""
        return self._tell(self._queue.cancel, number, time.time())

    def resume(self, number: int | None) -> int:
        """Let held jobs run; returns how many."""
        return self._tell(self._queue.resume, number, time.time())

    def interrupt(self, number: int | None) -> bool:
        """Raise KeyboardInterrupt in the running job, if it is that one; returns whether it was hit."""
        return self._stop(self._queue.ask_interrupt, number) is not None

    def kill(self, number: int | None) -> bool:
        """
        Kill the worker that runs the job; returns whether that ended it. Blocks until it has ended, a bounded time.

        Raises RefusedError where the backend cannot kill.
        """
        if self._abilities is not None and not self._abilities.kill:
            what = f"A job of the {self.options.type} workspace {self.name!r} cannot be killed"
            raise RefusedError(f"{what}: there is no process of its own to end. Interrupt it: that reaches its Python code")
        killed = self._stop(self._queue.ask_kill, number)
        return killed is not None and self.wait(killed, STOP_TIMEOUT) is JobState.KILLED

    def destroy(self) -> None:
        """End the workspace with all that it runs, and forget it; blocks until the store has, raises StoreError."""
        self._tell(self._queue.destroy, time.time())
        with self._lock:
            self._supply.keeps = False
            backend = self._backend
        if backend is not None:
            backend.kill()
        try:
            self._gone.wait_for_store()
        finally:
            self.close()

    def shut(self) -> None:
        """Begin to close: nothing starts any more, whoever waits is woken, and a job that runs is killed. Does not block."""
        with self._changed:
            self._closed = True
            self._queue.close()
            self._absorb()
            backend, busy = self._backend, self._queue.is_running()
            self._outbox.put_all(self._waiters.take_all(self._queue.jobs.view))
            self._changed.notify_all()
        self._perform()
        self.log.close()
        if backend is not None and busy and not self._supply.leaves(backend):
            backend.kill()

    def close(self) -> None:
        """
        End the worker and wait for it, a bounded time; one that can outlive the server is left where the store knows of it.

        What the store knows stays. Again is fine.
        """
        self.shut()
        starter = self._starter
        if starter is not None and starter is not threading.current_thread():
            starter.join(_START_TIMEOUT)
        with self._lock:
            backend, self._backend, self._ear = self._backend, None, None
        if backend is not None:
            self._supply.part_with(backend)
        self._supply.close()

    # What the backend tells; each from its own threads, in order.

    def heard_output(self, number: int | None, stream: Literal["stdout", "stderr"], data: bytes, text: str) -> None:
        """Take what was written."""
        with self._lock:
            self._queue.output(number, stream, data)
            if text:
                self.log.add("output", number, time.time(), {"stream": stream, "text": text})

    def heard_news(self, number: int, event: str, details: dict[str, Any]) -> None:
        """Take what a job tells of itself."""
        self.log.add(event, number, time.time(), details)

    def heard_end(self, ear: Ear, number: int, outcome: Outcome) -> None:
        """Take the end of a job."""
        with self._lock:
            if ear is not self._ear:
                return
            self._queue.ended(number, outcome, time.time())
            self._absorb()
        self._perform()

    def heard_death(self, ear: Ear, reason: str, memory: bool) -> None:
        """Take the end of a worker."""
        with self._changed:
            ear.death = reason, memory
            if ear is not self._ear:
                return  # it has not been taken into service yet, or is out of it
            goes_on = self._note_death(reason, memory)
        self._perform()
        if goes_on:
            self._means.tell_death(self)

    def time_passed(self, number: int) -> None:
        """Take the end of a job's time. For the thread of the deadlines."""
        with self._lock:
            self._queue.time_passed(number, time.time())
            backend, urgent = self._backend, self._absorb()
        self._perform()
        if urgent:
            # Not by this thread, which serves all workspaces: a worker deep in C code takes its time to say that it was hit.
            work = [partial(self._urge, instruction, backend) for instruction in urgent]
            threading.Thread(target=lambda: [do() for do in work], name="bgpy-time-limit", daemon=True).start()

    def runs(self, number: int) -> bool:
        """Tell whether a job runs now; without the lock, so what it tells may be over."""
        return self._queue.runs(number)

    # How the queue's instructions are carried out.

    def _tell(self, method: Callable[..., T], *arguments: Any) -> T:
        with self._lock:
            self._check_open()
            result = method(*arguments)
            self._absorb()
        self._perform()
        return result

    def _stop(self, ask: Callable[[int | None, float], int | None], number: int | None) -> int | None:
        """Ask for the end of the running job; returns its number where it was hit."""
        with self._lock:
            self._check_open()
            # On its way to the worker it can be hit neither here nor there.
            self._stopping += 1
            self._changed.wait_for(lambda: not self._queue.is_being_handed(), STOP_TIMEOUT)
            self._stopping -= 1
            hit = ask(number, time.time())
            backend, urgent = self._backend, self._absorb()
        self._perform()
        # By this thread, not by whoever performs: that may be the one which reads what the worker answers.
        missed = [instruction for instruction in urgent if not self._urge(instruction, backend)]
        return None if missed else hit

    def _urge(self, instruction: Interrupt | Kill, backend: Backend | None) -> bool:
        if backend is None:
            return False
        if isinstance(instruction, Interrupt):
            return backend.interrupt(instruction.number)
        if backend.kill():
            return True
        with self._lock:
            self._queue.kill_failed(time.time())
            self._absorb()
        self._perform()
        return False

    def _absorb(self) -> Sequence[Interrupt | Kill]:
        """Do at once what cannot block, put the rest into the outbox, and return what the caller has to do without the lock."""
        assert self._lock.locked()
        if not (instructions := self._queue.take()):
            return ()
        urgent: list[Interrupt | Kill] = []
        tells: list[Tell] = []
        announced: list[Announce] = []
        for instruction in instructions:
            if type(instruction) is Announce:
                announced.append(instruction)
            elif type(instruction) is Settle:
                tells += self._waiters.settle(self._queue.jobs[instruction.number])
            elif type(instruction) is Acknowledge:
                if instruction.error is not None:
                    self._waiters.drop(instruction.number)  # there is no such job, and its end will never be told
                self._acknowledgements.pop(instruction.number).open(instruction.error)
            elif type(instruction) is Interrupt or type(instruction) is Kill:
                urgent.append(instruction)
            else:
                self._outbox.put(instruction, self._backend)
        if announced:
            self.log.add_all(announced, time.time())
        if tells:
            self._outbox.put_all(tells)  # the worker has its next job first
        return urgent

    def _let_go(self, record: JobRecord) -> None:
        with self._lock:
            if record.number in self._queue.jobs:
                self._queue.jobs.let_go(record.number, KEPT_OUTPUT)

    def _carry_out(self, instruction: Instruction, backend: Backend | None) -> None:
        if isinstance(instruction, Run):
            if backend is not None:
                backend.run(instruction.order)
            with self._lock:
                self._queue.handed(instruction.order.number)
                self._absorb()
                if self._stopping:
                    self._changed.notify_all()
        elif isinstance(instruction, Commit):
            try:
                self._means.store.commit(instruction.changes, lambda error: self._committed(instruction, error))
            except StoreError as error:
                self._committed(instruction, error)
        elif isinstance(instruction, SetTimer):
            if instruction.seconds < threading.TIMEOUT_MAX / 2:
                self._means.deadlines.add(JobTimer(self, instruction.number), instruction.seconds)
        elif isinstance(instruction, StartWorker):
            with self._lock:
                if not self._closed:
                    # Within the lock, so that `close` finds it running or prevents it.
                    self._starter = threading.Thread(target=self._start_worker, name="bgpy-worker-start", daemon=True)
                    self._starter.start()

    def _committed(self, commit: Commit, error: StoreError | None) -> None:
        with self._lock:
            self._queue.committed(commit, error, time.time())
            self._absorb()
        if any(isinstance(change, WorkspaceGone) for change in commit.changes):
            self._gone.open(error)
        self._perform()

    def _start_worker(self) -> None:
        """Make a worker and take it into service; for a thread of its own."""
        try:
            backend, ear = self._supply.start()
        except Exception as error:  # noqa: BLE001 - whatever it is, the jobs that wait for this worker must hear of it
            with self._changed:
                self._start_failure = f"{type(error).__name__}: {error}"
                self._queue.start_failed(self._start_failure, time.time())
                self._absorb()
                self._changed.notify_all()
            self._perform()
            return
        with self._changed:
            closed = self._closed
            if not closed:
                self._note_abilities(backend.abilities)
                self._backend, self._ear = backend, ear
                self._queue.ready(backend.process, time.time(), adopted=backend.adopted)
                self._absorb()
                if ear.death is not None:
                    self._note_death(*ear.death)
                self._changed.notify_all()
        if closed:
            self._supply.part_with(backend)
        self._perform()

    def _note_abilities(self, abilities: Abilities) -> Abilities:
        self._abilities = abilities
        self._queue.can_kill = abilities.kill
        return abilities

    def _note_death(self, reason: str, memory: bool) -> bool:
        assert self._backend is not None
        self._supply.retire(self._backend)
        self._backend = self._ear = None
        goes_on = self._queue.died(reason, memory, time.time())
        self._absorb()
        self._changed.notify_all()
        return goes_on

    def wait_for_backend(self, deadline: float) -> Backend:
        """Return the worker in service, a fresh one where that died; raises RefusedError where there is none in time."""
        self._tell(self._queue.want_worker)
        with self._changed:
            left = max(deadline - time.monotonic(), 0.0)
            self._changed.wait_for(lambda: self._closed or self._backend is not None or self._queue.lacks_worker(), left)
            self._check_open()
            if self._backend is None:
                why = f"could not be started: {self._start_failure}" if self._queue.lacks_worker() else "is not ready"
                raise RefusedError(f"The worker of {self.name!r} {why}")
            return self._backend

    def _check_open(self) -> None:
        if self._closed:
            raise RefusedError(f"The workspace {self.name!r} is gone", "name")
