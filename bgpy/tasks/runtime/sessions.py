"""
Run sessions: made, found, stopped, kept for a time, forgotten.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from bgpy.errors import (
    ModelDataError,
    ModelError,
    OverloadedError,
    PlaceholderNotFoundError,
    PredictionFailedError,
    RefusedError,
    SessionNotFoundError,
)
from bgpy.tasks.runtime.folders import Folders, remove_tree
from bgpy.tasks.runtime.messages import Ending, Status, status_of
from bgpy.tasks.runtime.predictions import GRACE, Prediction
from bgpy.tasks.runtime.uploads import Upload, write_files
from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.events import EventLog
from bgpy.tasks.workspace.jobs import JobState
from bgpy.tasks.workspace.outbox import Then
from bgpy.tasks.workspace.variables import ask_worker
from bgpy.tasks.workspace.workspace import STOP_TIMEOUT, Workspace
from bgpy.tasks.workspace.workspaces import Workspaces

#: What keeps the placeholders, in the worker.
HOST = "bgpy.tasks.runtime.worker:Placeholders"
#: The jobs of a run, queued at once; predictions follow.
PREPARE, MAIN, ANNOUNCE = range(3)
#: Jobs that are remembered of a run.
_MAX_JOBS = 1000
#: What a worker says of a question that is at fault itself.
_MODEL_ERRORS = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in (ModelError, ModelDataError)}
_NO_PLACEHOLDER = f"{PlaceholderNotFoundError.__module__}.{PlaceholderNotFoundError.__qualname__}"


class RunSession:
    """
    One run, and its process for as long as it is kept. Thread-safe. Made by `Sessions`.

    Attributes
    ----------
    id
        128 random bits.
    workspace, folder
        Where it runs.
    mainfile, files
        The name of the file that is run, and of all.
    started
        Seconds since 1970.
    used
        When somebody asked for it last, by `time.monotonic`.
    """

    def __init__(self, workspace: Workspace, folder: str, uploads: Sequence[Upload], mainfile: str) -> None:
        self.id = workspace.name
        self.folder = folder
        self.mainfile = mainfile
        self.files = [upload.name for upload in uploads]
        self.started = time.time()
        self.used = time.monotonic()
        self.workspace = workspace
        self._ending: Ending | None = None
        self._predictions: set[Prediction] = set()

    @property
    def log(self) -> EventLog:
        """What happens in it."""
        return self.workspace.log

    @property
    def status(self) -> Status:
        """How it is."""
        ending = self.ending()
        return Status.ALIVE if ending is None else ending.status

    def ending(self) -> Ending | None:
        """Return how it has ended, None while it goes on."""
        if self._ending is None and self.workspace.state(ANNOUNCE).ended:
            prepared, main = self.workspace.record(PREPARE), self.workspace.record(MAIN)
            told = prepared if prepared.state.ended and prepared.state is not JobState.DONE else main
            announced = self.workspace.record(ANNOUNCE).value
            count = 0 if announced is None else len(announced.json["placeholders"])
            self._ending = Ending(status_of(told.state), self._shorten(told.error), told.ended or time.time(), count)
        return self._ending

    def begin(self) -> None:
        """Queue its jobs; raises RefusedError where the server ends."""
        workspace, path = self.workspace, os.path.join(self.folder, *self.mainfile.split("/"))
        nested = "/" in self.mainfile
        workspace.call(Call(HOST, "prepare", {"folder": self.folder, "nested": nested}), "prepare")
        workspace.push("file", path)
        workspace.call(Call(HOST, "announce", {}), "announce")

    def wait(self, timeout: float) -> None:
        """Wait for its end; returns also where that did not come in time."""
        if self.ending() is None:
            self.workspace.wait(ANNOUNCE, timeout)

    def is_busy(self) -> bool:
        """Tell whether a job of it runs or waits."""
        return not self.workspace.state(None).ended

    def when_idle(self, then: Then) -> bool:
        """Have `then` called at the end of the last job that there is now; returns False where nothing runs or waits."""
        return self.workspace.when_ended(self.workspace.record(None, whole=False).number, then)

    def stop(self, grace: float = GRACE) -> None:
        """
        Interrupt it, or the prediction that runs, and kill what has not ended `grace` seconds later; no prediction waits then.

        Blocks a bounded time. Again is fine.
        """
        try:
            # The last one first, so that none begins meanwhile.
            predictions = sorted(self._predictions, key=lambda each: each.number, reverse=True)
            running = [each for each in predictions if not each.cancel()]
            if self.ending() is None:
                self._stop(grace)
            for each in running:
                each.stop(grace)
        except RefusedError:
            if self.ending() is None:
                raise  # the server ends

    def ask(self, method: str, argument: dict[str, Any]) -> dict[str, Any]:
        """
        Ask for its placeholders, also while it runs; blocks until the worker has answered, a bounded time.

        Raises RefusedError where that has ended, or does not answer.
        """
        self._check_values()
        try:
            answer: dict[str, Any] = ask_worker(self.workspace, HOST, method, argument)
        except RefusedError as refused:
            self._check_values()
            raise RefusedError(self._without_id(refused.reason)) from None
        return answer

    def predict(self, name: str, is_data: bool, data: Any, timeout: float, then: Callable[[Prediction], object]) -> None:
        """
        Have a placeholder predict, behind what the run does; returns at once.

        Parameters
        ----------
        then
            Called by whoever hears of the end, once, with what `result_of` takes; must not block.

        Raises
        ------
        RefusedError
            The session has no process any more.
        OverloadedError
            Too many wait.
        """
        self._check_values()

        def told(prediction: Prediction) -> None:
            self._predictions.discard(prediction)
            then(prediction)

        prediction = Prediction(self.workspace, name, timeout, told)
        try:
            prediction.begin(Call(HOST, "predict", {"name": name, "is_data": is_data, "data": data}, kept=False))
        except RefusedError as refused:
            raise RefusedError(self._without_id(refused.reason)) from None
        except OverloadedError as overloaded:
            raise OverloadedError(self._without_id(overloaded.reason)) from None
        self._predictions.add(prediction)
        if prediction.settled:  # meanwhile, and not found there
            self._predictions.discard(prediction)

    def result_of(self, prediction: Prediction) -> Any:
        """
        Return what was predicted, as plain JSON data.

        Raises
        ------
        PredictionFailedError
            It raised, its process died, or somebody stopped it.
        RefusedError
            It took longer than it may, or the server ends.
        PlaceholderNotFoundError, ModelError, ModelDataError
            There is no such model, it is none, or the data are nothing for it.
        """
        record = prediction.record
        if record is not None and record.state is JobState.DONE:
            return None if record.value is None else record.value.json
        if prediction.late:
            late = f"{prediction.name!r} did not predict within {prediction.timeout:g} s and was told to stop"
            gone = "" if self.has_process() else "; it had to be killed, and with it went the session's placeholders"
            raise RefusedError(late + gone, "timeout")
        if record is None or not record.state.ended:
            raise RefusedError("The session ends")
        error = self._shorten(record.error) or {"type": record.state.value, "message": "", "traceback": ""}
        if error["type"] == _NO_PLACEHOLDER:
            raise PlaceholderNotFoundError(prediction.name)
        if error["type"] in _MODEL_ERRORS:
            raise _MODEL_ERRORS[error["type"]](error["message"])
        # Of one that was stopped, whatever is ours stands before the lines of the model.
        text = error["traceback"] if record.state is JobState.FAILED else ""
        raise PredictionFailedError(self.id, record.number, record.state.value, error["type"], error["message"], text)

    def has_process(self) -> bool:
        """Tell whether the process is there that the run has had, and with it the placeholders."""
        restarts: int = self.workspace.status()["restarts"]
        return restarts == 0

    def _stop(self, grace: float) -> None:
        workspace = self.workspace
        if workspace.cancel(MAIN):
            workspace.cancel(PREPARE)
            workspace.cancel(ANNOUNCE)
        elif grace:
            workspace.interrupt(MAIN)
        if not grace or not workspace.wait(ANNOUNCE, grace).ended:
            workspace.kill(None)
            workspace.wait(ANNOUNCE, STOP_TIMEOUT)

    def _check_values(self) -> None:
        if not self.has_process():
            raise RefusedError(f"The process of the session {self.id!r} has ended, and with it its placeholders", "sessionId")

    def _without_id(self, reason: str) -> str:
        return reason.replace(f"workspace {self.id!r}", "session").replace(repr(self.id), "the session")

    def _shorten(self, error: dict[str, str] | None) -> dict[str, str] | None:
        """Return an error with the names of the files as they came."""
        return None if error is None else {field: text.replace(self.folder + os.sep, "") for field, text in error.items()}


class Sessions:
    """
    The run sessions of one server. Thread-safe.

    Parameters
    ----------
    workspaces
        Where they run; not owned.
    keep
        Seconds that a session is kept after its end, or after it was asked for last.
    max_sessions
        How many there may be, those that have ended and are kept included. For one more, of those in which nothing runs the
        one is forgotten that was asked for longest ago.
    folder
        As for `Folders`.

    Raises
    ------
    TokenError, OSError
        As of `Folders`.
    """

    def __init__(
        self, workspaces: Workspaces, *, keep: float = 3600.0, max_sessions: int = 100, folder: str | None = None
    ) -> None:
        if not 0 <= keep <= threading.TIMEOUT_MAX / 4:
            raise ValueError(f"keep is a number of seconds, 0 or more, not {keep!r}.")
        if max_sessions < 1:
            raise ValueError(f"max_sessions is 1 or more, not {max_sessions!r}.")
        self._workspaces = workspaces
        self._keep = keep
        self._max_sessions = max_sessions
        self._folders = Folders(folder)
        self._lock = threading.Lock()
        self._sessions: dict[str, RunSession] = {}
        self._coming = 0
        self._closed = False

    def start(self, uploads: Sequence[Upload], mainfile: str) -> RunSession:
        """
        Write files that have been checked, and run one of them; returns at once.

        Raises
        ------
        OverloadedError
            There are too many sessions in which something runs.
        RefusedError
            The files cannot be written here, or the server ends.
        """
        with self._lock:
            self._check_open()
            gone = self._make_room()
            self._coming += 1
        session = None
        try:
            if gone is not None:
                self._let_go(gone)
            session = self._make(uploads, mainfile)
            session.begin()
        except BaseException:
            if session is not None:
                self._let_go(session)
            with self._lock:
                self._coming -= 1
            raise
        with self._lock:
            self._coming -= 1
            self._sessions[session.id] = session
            closed = self._closed
        if closed:  # meanwhile, and without this one
            self._let_go(session)
            raise RefusedError("The server is ending")
        if not session.workspace.when_ended(ANNOUNCE, lambda record: self._ended(session)):
            self._ended(session)
        return session

    def find(self, session: object) -> RunSession:
        """Return a session, which is kept for longer by that; raises SessionNotFoundError."""
        found = self._sessions.get(session) if isinstance(session, str) else None
        if found is None:
            raise SessionNotFoundError(str(session))
        found.used = time.monotonic()
        return found

    def predict(
        self, session: RunSession, name: str, is_data: bool, data: Any, timeout: float, then: Callable[[Prediction], object]
    ) -> None:
        """As `RunSession.predict`; the time that the session is kept begins anew with the end."""

        def told(prediction: Prediction) -> None:
            session.used = time.monotonic()
            self._let_worker_go(session)
            then(prediction)

        session.predict(name, is_data, data, timeout, told)

    def all(self) -> list[RunSession]:
        """Return all sessions, in the order of their starts."""
        with self._lock:
            return list(self._sessions.values())

    def forget(self, session: RunSession) -> None:
        """End a session with all that it runs, and remove its folder; blocks a bounded time. Again is fine."""
        with contextlib.suppress(RefusedError):  # the server ends, and all workers with it
            session.stop(grace=0.0)  # so that whoever listens hears of its end
        self._let_go(session)

    def close(self) -> None:
        """End all sessions and remove their folders. Again is fine."""
        with self._lock:
            self._closed = True
        # All at once: each may take a moment to end politely.
        threads = [
            threading.Thread(target=self._workspaces.release, args=(session.workspace,), name="bgpy-session-end")
            for session in self.all()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._folders.close()

    def _make(self, uploads: Sequence[Upload], mainfile: str) -> RunSession:
        folder = None
        try:
            folder = self._folders.make()
            write_files(folder, uploads)
            workspace = self._workspaces.create_unlisted(secrets.token_hex(16), max_jobs=_MAX_JOBS)
        except BaseException as error:
            if folder is not None:
                remove_tree(folder)
            if isinstance(error, OSError):
                raise RefusedError(f"The files cannot be written on the server: {error.strerror or error}", "files") from error
            raise
        return RunSession(workspace, folder, uploads, mainfile)

    def _make_room(self) -> RunSession | None:
        """Take out a session that has to go for one more, if one has to; raises OverloadedError. With the lock."""
        if len(self._sessions) + self._coming < self._max_sessions:
            return None
        for session in sorted(self._sessions.values(), key=lambda each: each.used):
            if not session.is_busy():
                return self._sessions.pop(session.id)
        raise OverloadedError(f"it keeps {self._max_sessions:,} sessions, and something runs in each; forget_run lets one go")

    def _let_go(self, session: RunSession) -> None:
        self._workspaces.release(session.workspace)
        remove_tree(session.folder)
        with self._lock:
            self._sessions.pop(session.id, None)

    def _ended(self, session: RunSession) -> None:
        """Take the end of a run, from whatever thread; does not block."""
        if session.ending() is None:
            return  # it ends with the server, or is let go
        self._let_worker_go(session)
        self._rest(session)

    def _let_worker_go(self, session: RunSession) -> None:
        """End the fresh worker that follows one that died, as it has nothing to do; does not block."""
        if not session.has_process():
            _in_thread(self._workspaces.release, session.workspace)

    def _rest(self, session: RunSession) -> None:
        """Let the time of a session begin in which nothing runs."""
        session.used = time.monotonic()
        self._keep_on(session)

    def _keep_on(self, session: RunSession) -> None:
        left = session.used + self._keep - time.monotonic()
        session.workspace.deadlines.add(_Keeping(self, session), max(left, 0.0))

    def look_after(self, session: RunSession) -> None:
        """Forget a session that nobody has asked for in its time, and in which nothing runs; does not block."""
        if session.when_idle(lambda record: self._rest(session)):
            return
        if time.monotonic() - session.used >= self._keep:
            _in_thread(self.forget, session)
        else:
            self._keep_on(session)

    def has(self, session: RunSession) -> bool:
        """Tell whether a session is there."""
        return session.id in self._sessions

    def _check_open(self) -> None:
        if self._closed:
            raise RefusedError("The server is ending")


class _Keeping:
    """The time that a session is kept; see `Expiring`."""

    def __init__(self, sessions: Sessions, session: RunSession) -> None:
        self._sessions = sessions
        self._session = session

    @property
    def settled(self) -> bool:
        return not self._sessions.has(self._session)

    def expire(self) -> None:
        self._sessions.look_after(self._session)


def _in_thread(do: Any, *arguments: Any) -> None:
    def work() -> None:
        try:
            do(*arguments)
        except Exception:
            logging.getLogger("bgpy.runtime").exception("Could not %s", getattr(do, "__name__", do))

    threading.Thread(target=work, name="bgpy-session-end", daemon=True).start()
