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
from collections.abc import Sequence
from typing import Any

from bgpy.errors import JobFailedError, OverloadedError, RefusedError, SessionNotFoundError
from bgpy.tasks.runtime.folders import Folders, remove_tree
from bgpy.tasks.runtime.messages import Ending, Status, status_of
from bgpy.tasks.runtime.uploads import Upload, write_files
from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.events import EventLog
from bgpy.tasks.workspace.jobs import JobState
from bgpy.tasks.workspace.values import Value
from bgpy.tasks.workspace.variables import ask_worker
from bgpy.tasks.workspace.workspace import STOP_TIMEOUT, Workspace
from bgpy.tasks.workspace.workspaces import Workspaces

#: What keeps the placeholders, in the worker.
HOST = "bgpy.tasks.runtime.worker:Placeholders"
#: The jobs of a run, queued at once; predictions follow.
PREPARE, MAIN, ANNOUNCE = range(3)
#: Seconds that a run has after its interrupt; then it is killed.
GRACE = 2.0
#: Jobs that are remembered of a run.
_MAX_JOBS = 1000


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
            self._ending = Ending(status_of(told.state), self._shorten(told.error), told.ended or time.time())
        return self._ending

    def begin(self) -> None:
        """Queue its jobs; raises RefusedError where the server ends."""
        workspace, path = self.workspace, os.path.join(self.folder, *self.mainfile.split("/"))
        workspace.call(Call(HOST, "prepare", {"folder": self.folder}), "prepare")
        workspace.push("file", path)
        workspace.call(Call(HOST, "announce", {}), "announce")

    def wait(self, timeout: float) -> None:
        """Wait for its end; returns also where that did not come in time."""
        if self.ending() is None:
            self.workspace.wait(ANNOUNCE, timeout)

    def stop(self, grace: float = GRACE) -> None:
        """Interrupt it, and kill what has not ended `grace` seconds later; blocks a bounded time. Again is fine."""
        try:
            if self.ending() is None:
                self._stop(grace)
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

    def predict(self, name: str, is_data: bool, data: Any, timeout: float) -> Any:
        """
        Have a placeholder predict, behind what the run does; returns plain JSON data.

        Raises
        ------
        JobFailedError
            It raised, or its process died.
        RefusedError
            It takes longer than `timeout` and was told to stop; the session has no process any more.
        OverloadedError
            Too many wait.
        """
        self._check_values()
        values: list[Value | None] = []
        number = self.workspace.call(
            Call(HOST, "predict", {"name": name, "is_data": is_data, "data": data}, kept=False),
            name,
            then=lambda record: values.append(record.value),  # at once: a record does not keep what is large
        )
        if not self.workspace.wait(number, timeout).ended:
            if not self.workspace.cancel(number):
                self.workspace.interrupt(number)
            raise RefusedError(f"{name!r} did not predict within {timeout:g} s and was told to stop", "timeout")
        record = self.workspace.record(number)
        if record.state is not JobState.DONE:
            error = self._shorten(record.error) or {"type": record.state.value, "message": "", "traceback": ""}
            raise JobFailedError(self.id, number, record.state.value, error["type"], error["message"], error["traceback"])
        return values[0].json if values and values[0] is not None else None

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
        return reason.replace(repr(self.id), "the session")

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
        How many there may be, those that have ended and are kept included.
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
            There are too many sessions.
        RefusedError
            The files cannot be written here, or the server ends.
        """
        with self._lock:
            self._check_open()
            if len(self._sessions) + self._coming >= self._max_sessions:
                raise OverloadedError(f"it keeps {self._max_sessions:,} sessions; forget_run lets one go")
            self._coming += 1
        session = None
        try:
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

    def _let_go(self, session: RunSession) -> None:
        self._workspaces.release(session.workspace)
        remove_tree(session.folder)
        with self._lock:
            self._sessions.pop(session.id, None)

    def _ended(self, session: RunSession) -> None:
        """Take the end of a run, from whatever thread; does not block."""
        if session.ending() is None:
            return  # it ends with the server, or is let go
        session.used = time.monotonic()
        if not session.has_process():
            # The fresh worker that follows one that died has nothing to do.
            _in_thread(self._workspaces.release, session.workspace)
        self._keep_on(session)

    def _keep_on(self, session: RunSession) -> None:
        left = session.used + self._keep - time.monotonic()
        session.workspace.deadlines.add(_Keeping(self, session), max(left, 0.0))

    def look_after(self, session: RunSession) -> None:
        """Forget a session that nobody has asked for in its time; does not block."""
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
