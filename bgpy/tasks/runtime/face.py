"""
Run sessions for Python programs.

Every method asks the server and blocks until it has answered; all of them are safe from several threads. A session that is not
there, or not any more, raises SessionNotFoundError; what else the server refuses raises RefusedError; what stands in the way of
an answer raises as `bgpy.Client.execute`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bgpy.encoding import to_json
from bgpy.errors import (
    ModelDataError,
    ModelError,
    PlaceholderNotFoundError,
    PredictionFailedError,
    RefusedError,
    SessionNotFoundError,
)
from bgpy.tasks.faces import Face
from bgpy.tasks.runtime.commands import MAX_TIMEOUT
from bgpy.tasks.workspace.remote import deadline_in, seconds_left

if TYPE_CHECKING:
    from bgpy.client import Client

__all__ = ["Placeholder", "Run", "Runtime", "Status"]

#: How a run is.
Status = Literal["Alive", "Finished", "Failed", "Stopped"]

#: Seconds that the server itself may take for a question to a worker, or to stop a run.
_PATIENCE = 60.0
#: Seconds without a word, three signs of life, after which a listener gives up.
_SILENCE = 60.0


class Placeholder(NamedTuple):
    """
    The value of a placeholder, and what it is.

    Attributes
    ----------
    value
        Plain JSON data; of a figure its PNG, as `encoding` says.
    type
        The name of its type.
    shape
        Of tables, arrays and whatever has a length; None for others.
    window
        Which rows `value` has, [from, to]; None where it has no rows.
    truncated
        Whether there is less in it than was asked for.
    encoding
        How a text stands for bytes, such as ``png-base64``; None where it does not.
    details
        What else is known, such as the ``columns`` of a table.
    """

    value: Any
    type: str
    shape: list[int] | None
    window: list[int] | None
    truncated: bool
    encoding: str | None
    details: Mapping[str, Any]


class Runtime(Face):
    """
    The run sessions of a server. Iteration yields them.

    Parameters
    ----------
    client
        A client of a server with the task set ``bgpy.tasks.runtime``; or the name of such a server, by default ``default``, as
        ``bgpy serve`` starts it. A client that is made here is closed with this object.
    """

    def __iter__(self) -> Iterator[Run]:
        return iter([Run(self.client, session["sessionId"]) for session in self.sessions()])

    def __getitem__(self, session: str) -> Run:
        """Return the run of a session id; raises SessionNotFoundError."""
        run = Run(self.client, session)
        run.status()
        return run

    def run(self, files: Mapping[str, str | bytes], mainfile: str | None = None) -> Run:
        """
        Run a file in a fresh process, and return as soon as that was started.

        Parameters
        ----------
        files
            Contents by name. They are written into a folder of the run's own, which is its working directory; names are relative
            to it, folders stand before a slash.
        mainfile
            The one that is run; None: the first.

        Raises
        ------
        RefusedError
            A name cannot be used, the main file is not among the files, they are too many or too large, or the server keeps too
            many sessions; nothing was written.
        """
        files = dict(files)
        python = {
            "number": len(files),
            "files": [_file(name, content) for name, content in files.items()],
            "mainfile": next(iter(files), "") if mainfile is None else mainfile,
        }
        started = _ask(self.client, "run", {"python": python})
        return Run(self.client, started["sessionId"])

    def sessions(self) -> list[dict[str, Any]]:
        """Return sessionId, status, mainfile, files, started and ended (seconds since 1970) of each, the oldest first."""
        sessions: list[dict[str, Any]] = _ask(self.client, "list_runs", {})["sessions"]
        return sessions


class Run:
    """A run session, whoever has started it. Made by `Runtime`."""

    def __init__(self, client: Client, id: str) -> None:
        #: The session id, with which others find it.
        self.id = id
        self._client = client

    def __repr__(self) -> str:
        return f"<Run {self.id!r}>"

    def status(self) -> Status:
        """Tell how it is."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> Status:
        """Wait for its end, None: as long as it takes; tell how it is, which is ``Alive`` where the end did not come in time."""
        deadline = deadline_in(timeout)
        while True:
            seconds = min(seconds_left(deadline), MAX_TIMEOUT)
            status = self._look(seconds)
            if status != "Alive" or (deadline is not None and seconds_left(deadline) <= 0):
                return status

    def events(self, since: int = 0) -> Iterator[dict[str, Any]]:
        """
        Yield what it tells, as it tells it, from its start to its end; what it has told already comes at once.

        Each is a dict with ``type``, ``sessionId`` and ``number``, and what belongs to the type. The last one is
        ``[state]:EXECUTION_FINISHED`` or ``[state]:EXECUTION_FAILED``.

        Parameters
        ----------
        since
            The number of the last one that was seen: what came after it follows.
        """
        message = {"command": "watch_run", "sessionId": self.id, "since": since}
        responses = self._client.stream(message, timeout=_SILENCE)
        try:
            for response in responses:
                told: dict[str, Any] = _result(response, self.id)
                if told["type"] != "[status]:STATUS":  # a sign of life
                    yield told
        finally:
            responses.close()  # type: ignore[attr-defined]  # a generator

    def placeholders(self) -> list[dict[str, Any]]:
        """Return name, type and shape of each placeholder that there is now."""
        found: list[dict[str, Any]] = self._ask("list_placeholders")["placeholders"]
        return found

    def placeholder(self, name: str, window: tuple[int, int] | None = None) -> Placeholder:
        """
        Read a placeholder, also while the run goes on.

        Parameters
        ----------
        window
            The rows from the first number to before the second one; None: as many as fit into 1 MB of JSON, at most 1,000.

        Raises
        ------
        PlaceholderNotFoundError
            There is none of that name, or not yet.
        RefusedError
            The process of the run has ended, and its values with it.
        """
        asked = {"sessionId": self.id, "name": name, "window": None if window is None else [int(row) for row in window]}
        found = self._ask_of("get_placeholder", {"placeholder": asked}, name)
        for field in ("type", "sessionId", "name"):
            del found[field]
        known = {field: found.pop(field, None) for field in ("value", "value_type", "shape", "window", "encoding")}
        value, kind, shape, rows, encoding = known.values()
        return Placeholder(value, str(kind), shape, rows, bool(found.pop("truncated", False)), encoding, found)

    def stats(self, name: str) -> dict[str, Any]:
        """Describe the columns of a table or an array; raises as `placeholder`."""
        asked = {"sessionId": self.id, "name": name}
        statistics: dict[str, Any] = self._ask_of("get_stats", {"placeholder": asked}, name)["value"]
        return statistics

    def run_model(self, name: str, data: Any, is_data: bool = True, timeout: float = 60.0) -> Any:
        """
        Have a placeholder predict, once the run has ended.

        Parameters
        ----------
        name
            A placeholder with a method ``predict``, or a callable.
        data
            The instances: plain data, or whatever can be JSON, such as arrays. With `is_data` false the path of a CSV, JSON or
            .npy file on the server.
        timeout
            Seconds to wait, at most a day; then the prediction is interrupted, and its process killed where that does not end it.

        Returns
        -------
        value
            Plain JSON data.

        Raises
        ------
        PredictionFailedError
            `type_name` says what the model has raised; or it was stopped, or its process died.
        PlaceholderNotFoundError
            There is nothing of that name.
        ModelError
            It is no model; ModelDataError: the data are nothing that it can be given.
        RefusedError
            It took too long; or the process of the run has ended.
        """
        asked = {"sessionId": self.id, "name": name, "is_data": is_data, "data": to_json(data), "timeout": timeout}
        return _ask(self._client, "run_model", {"model": asked}, timeout, self.id, name)["value"]

    def stop(self) -> Status:
        """Interrupt it, or a prediction that runs, and kill what has not ended 2 s later; tell how the run has ended."""
        status: Status = self._ask("stop_run")["status"]
        return status

    def forget(self) -> None:
        """End it: what runs, its placeholders and its folder go."""
        self._ask("forget_run")

    def _look(self, timeout: float) -> Status:
        fields = {"sessionId": self.id, "timeout": timeout}
        status = _ask(self._client, "run_status", fields, timeout)["status"]
        if status == "Session not found":
            raise SessionNotFoundError(self.id)
        found: Status = status
        return found

    def _ask(self, command: str) -> dict[str, Any]:
        return _ask(self._client, command, {"sessionId": self.id}, _PATIENCE, self.id)

    def _ask_of(self, command: str, fields: dict[str, Any], name: str) -> dict[str, Any]:
        return _ask(self._client, command, fields, _PATIENCE, self.id, name)


def _file(name: str, content: str | bytes) -> dict[str, str]:
    if isinstance(content, str):
        return {"filename": name, "content": content}
    try:
        encoded = base64.b64encode(content).decode()
    except TypeError:  # a path for one
        raise TypeError(f"The content of the file {name!r:.100} is a text or bytes, not {type(content).__name__}.") from None
    return {"filename": name, "content": encoded, "encoding": "base64"}


def _ask(
    client: Client, command: str, fields: dict[str, Any], patience: float = 0.0, session: str = "", name: str = ""
) -> dict[str, Any]:
    """Return the result of a command; `patience` are seconds that the server itself may take."""
    limit = None if client.timeout is None else client.timeout + patience
    return _result(client.execute({"command": command, **fields}, await_response=True, timeout=limit), session, name)


def _result(response: dict[str, Any], session: str, name: str = "") -> dict[str, Any]:
    """Return the result in an envelope; raises what its refusal stands for."""
    if response.get("request_result") is True:
        result: dict[str, Any] = response["result"]
        return result
    if "request_result" not in response:
        raise RefusedError("The server has no run sessions: it needs the task set bgpy.tasks.runtime")
    error, reason = str(response.get("error")), str(response["result"])
    if "traceback" in response:
        message = reason.removeprefix(error).removeprefix(": ")
        raise PredictionFailedError(session, response["job"], response["state"], error, message, response["traceback"])
    if error == SessionNotFoundError.__name__:
        raise SessionNotFoundError(session)
    if error == PlaceholderNotFoundError.__name__:
        raise PlaceholderNotFoundError(name)
    for kind in (ModelError, ModelDataError):
        if error == kind.__name__:
            raise kind(reason)
    raise RefusedError(reason.rstrip("."), response.get("field"))
