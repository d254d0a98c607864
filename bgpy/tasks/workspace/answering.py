"""
Answering a request at the end of its job: by whoever hears of that end, so that no thread has to be woken for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from bgpy.errors import BgpyError, RefusedError, StoreError
from bgpy.protocol.messages import Data
from bgpy.serving.deadlines import Deadlines
from bgpy.sockets import ClientSocket
from bgpy.tasks.workspace.jobs import JobRecord, JobState
from bgpy.tasks.workspace.means import Gate
from bgpy.tasks.workspace.outbox import Then

if TYPE_CHECKING:
    from bgpy.tasks.workspace.workspace import Workspace

#: Makes the result of the answer from the job's record as it is then, and the seconds that it took.
MakeResult = Callable[[JobRecord, float], Any]

#: Bytes of value and output up to which an answer fits into what a connection takes without being read.
SMALL_ANSWER = 32 << 10
_LONGEST = threading.TIMEOUT_MAX / 4


class Awaited(Protocol):
    """What has jobs whose ends are waited for: a `Workspace`, or what stands for one."""

    @property
    def deadlines(self) -> Deadlines:
        """What tells of the end of a time."""

    def record(self, number: int | None) -> JobRecord:
        """As `Workspace.record`."""

    def check_saved(self, number: int) -> None:
        """As `Workspace.check_saved`."""

    def when_ended(self, number: int, then: Then) -> bool:
        """As `Workspace.when_ended`."""

    def wait(self, number: int, timeout: float) -> JobState:
        """As `Workspace.wait`."""


def answer_at_end(
    workspace: Awaited, client_socket: ClientSocket, number: int, timeout: float, make: MakeResult, begun: float | None = None
) -> None:
    """
    Answer a request with what `make` returns, at the end of a job or after `timeout` seconds.

    Does not block where the task may defer. At once where nobody waits for the answer.

    Parameters
    ----------
    begun
        When the wait began, by `time.monotonic`; None for now.
    """
    answer = LateAnswer(workspace, client_socket, number, make, time.monotonic() if begun is None else begun)
    if not client_socket.awaited or timeout <= 0:
        answer.expire()
        return
    if not client_socket.deferrable:
        workspace.wait(number, timeout)
        answer.expire()
        return
    client_socket.defer(None)
    if workspace.when_ended(number, answer.tell):
        workspace.deadlines.add(answer, min(timeout, _LONGEST))
    else:
        answer.expire()


class Pushed:
    """
    A job that is about to be pushed, for `answer_at_end`: its end is heard also where the workspace forgets it at once.

    Parameters
    ----------
    workspace
        Where it will be pushed, with `note` as what is called at its end.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._lock = threading.Lock()
        self._then: list[Then] = []
        self._ended: JobRecord | None = None

    @property
    def deadlines(self) -> Deadlines:
        """See `Awaited`."""
        return self.workspace.deadlines

    def note(self, record: JobRecord) -> None:
        """Take the end of the job, or the word that the server begins to end."""
        with self._lock:
            waiting, self._then = self._then, []
            # A copy for whoever asks later, as the workspace may not keep what is large.
            self._ended = record if waiting else replace(record)
        for then in waiting:
            then(record)

    def place(self, number: int | None) -> tuple[Workspace, int | None]:
        """Return where the job is that was pushed with this number."""
        return self.workspace, number

    def record(self, number: int | None) -> JobRecord:
        """See `Awaited`."""
        if self._ended is not None:
            return self._ended
        workspace, number = self.place(number)
        return _record_of_pushed(workspace, number, workspace.name)

    def check_saved(self, number: int) -> None:
        """See `Awaited`."""
        self.place(number)[0].check_saved(number)

    def when_ended(self, number: int, then: Then) -> bool:
        """See `Awaited`."""
        with self._lock:
            if self._ended is None:
                self._then.append(then)
            return self._ended is None

    def wait(self, number: int, timeout: float) -> JobState:
        """See `Awaited`."""
        gate = Gate()

        def keep(record: JobRecord) -> None:
            self._ended = replace(record)
            gate.open()

        if self.when_ended(number, keep):
            gate.wait(min(timeout, threading.TIMEOUT_MAX))
        record = self.record(number)
        self.check_saved(record.number)
        return record.state


def push_and_answer(
    workspace: Workspace,
    client_socket: ClientSocket,
    push: Callable[[Then], int],
    timeout: float,
    make: MakeResult,
) -> None:
    """
    Push a job and answer as `answer_at_end` does, at its end also where the workspace forgets it at once.

    Parameters
    ----------
    push
        Pushes the job with its argument as ``then`` of `Workspace.push`, and returns its number.
    """
    begun = time.monotonic()
    if client_socket.awaited and client_socket.deferrable and timeout > 0:
        # The usual case in the fewest steps: whoever hears of the end has the answer to give.
        answer = _AnswerOfPushed(workspace, client_socket, -1, make, begun)
        client_socket.defer(None)
        answer.number = push(answer.tell)
        if not answer.settled:
            workspace.deadlines.add(answer, min(timeout, _LONGEST))
        return
    pushed = Pushed(workspace)
    answer_at_end(pushed, client_socket, push(pushed.note), timeout, make, begun)


def _record_of_pushed(workspace: Awaited, number: int | None, name: str = "") -> JobRecord:
    """Return a job's record as it is, or as if it ran: one that is gone already has its end on the way to who has pushed it."""
    try:
        return workspace.record(number)
    except RefusedError:
        return JobRecord(name, number or 0, "", "", state=JobState.RUNNING)


def refused(error: BgpyError) -> dict[str, Any]:
    """Return the envelope of what was not done; its reason is the text."""
    field = error.field if isinstance(error, RefusedError) else None
    return {"request_result": False, "result": str(error), "field": field, "error": type(error).__name__}


def respond_or_refuse(client_socket: ClientSocket, envelope: dict[str, Any]) -> None:
    """Send an answer, or why it cannot be sent: it may be too large for this client."""
    try:
        client_socket.respond(envelope)
    except BgpyError as error:
        if not client_socket.responded and client_socket.connected:
            client_socket.respond(refused(error))


class LateAnswer:
    """One answer, given once, by whoever comes first: the end of the job or the end of its time."""

    __slots__ = ("_begun", "_client_socket", "_given", "_make", "_workspace", "number")

    def __init__(self, workspace: Awaited, client_socket: ClientSocket, number: int, make: MakeResult, begun: float) -> None:
        self._workspace = workspace
        self._client_socket = client_socket
        self.number = number
        self._make = make
        self._begun = begun
        self._given = threading.Lock()

    @property
    def settled(self) -> bool:
        """See `Expiring`."""
        return self._given.locked()

    def expire(self) -> None:
        """See `Expiring`: answer with the job as it is."""
        try:
            record = self._record()
        except BgpyError as error:
            if self._given.acquire(blocking=False):
                respond_or_refuse(self._client_socket, refused(error))
        else:
            self.tell(record)

    def _record(self) -> JobRecord:
        return self._workspace.record(self.number)

    def tell(self, record: JobRecord) -> None:
        """Answer, unless that has been done. Does not block: what is large goes out by a thread of its own."""
        if not self._given.acquire(blocking=False):
            return
        if record.size(SMALL_ANSWER) > SMALL_ANSWER:
            # A copy: what is large does not stay in the record of a workspace with a store.
            threading.Thread(target=self._answer, args=(replace(record),), name="bgpy-large-answer", daemon=True).start()
        else:
            self._answer(record)

    def _answer(self, record: JobRecord) -> None:
        try:
            self._workspace.check_saved(record.number)
            # What is known of a job is data, as it comes from a worker's channel, or was made for one.
            envelope = Data(request_result=True, result=self._make(record, time.monotonic() - self._begun))
        except (RefusedError, StoreError) as error:
            respond_or_refuse(self._client_socket, refused(error))
        else:
            respond_or_refuse(self._client_socket, envelope)


class _AnswerOfPushed(LateAnswer):
    """The answer of a request that pushes the job itself: its number is known when that has been done."""

    __slots__ = ()

    def _record(self) -> JobRecord:
        return _record_of_pushed(self._workspace, self.number)
