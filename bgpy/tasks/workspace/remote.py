"""
A job and the variables of a workspace, as a Python program elsewhere sees them, and how it asks.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from bgpy.errors import JobFailedError, RefusedError, RequestTimeoutError, SerializationError, WorkspaceNotFoundError
from bgpy.protocol.messages import Data
from bgpy.seconds import plain_seconds
from bgpy.tasks.workspace.jobs import JobState
from bgpy.tasks.workspace.values import Packed

if TYPE_CHECKING:
    from bgpy.client import Client

#: Seconds of one request that waits for a job; a longer wait is several.
_LONGEST_WAIT = 3600.0
#: Seconds without a word, three signs of life, after which a watcher gives up.
_SILENCE = 60.0
#: A message of nothing but these, a prediction for one, need not be looked through for what cannot travel by name.
_CLOSED = frozenset({Packed, str, int, float, bool, type(None)})


class Output(NamedTuple):
    """
    What a job has written; its `str` is what it wrote to standard output.

    Attributes
    ----------
    truncated
        Whether it wrote more than is kept: then a mark stands where it was cut.
    """

    stdout: str
    stderr: str
    truncated: bool

    def __str__(self) -> str:
        return self.stdout


class JobError(NamedTuple):
    """Why a job did not run through; its `str` is the traceback where there is one."""

    type: str
    message: str
    traceback: str

    def __str__(self) -> str:
        return self.traceback or f"{self.type}: {self.message}"


class Job:
    """
    A job of a workspace. Made by `Workspace`.

    Its properties ask the server, until it has ended: then what is known is kept here.
    """

    def __init__(self, server: Asker, workspace: str, number: int, known: Mapping[str, Any] | None = None) -> None:
        #: The name of its workspace.
        self.workspace = workspace
        #: Counts the jobs of that workspace, from 0.
        self.number = number
        self._server = server
        self._end: Mapping[str, Any] | None = None
        self._record: Mapping[str, Any] | None = None
        if known is not None:
            self._learn(known)

    def __repr__(self) -> str:
        return f"<Job {self.number} of {self.workspace!r}>"

    @property
    def state(self) -> JobState:
        """Where it is in its life."""
        return _state(self._look())

    @property
    def output(self) -> Output:
        """What it has written so far."""
        output = self._server.ask("get_output", self.workspace, job=self.number) if self._end is None else self._end["output"]
        return Output(**output)

    @property
    def error(self) -> JobError | None:
        """Why it did not run through; None where it did, or has not ended."""
        error = self._look()["error"]
        return None if error is None else JobError(**error)

    @property
    def record(self) -> dict[str, Any]:
        """
        All that is known of it.

        A dict with number, state, result, value, value_type (its name), error, output, times, type, job, clear and time_limit.

        Raises SerializationError where the value cannot be unpickled here.
        """
        if self._record is None:
            self._learn(found := self._server.ask("get_record", self.workspace, job=self.number))
        else:
            found = self._record
        return {**found, "state": _state(found), "value": _open(found["value"])}

    def wait(self, timeout: float | None = None) -> bool:
        """
        Wait for its end, None: as long as it takes; returns whether it has ended.

        Raises WorkspaceNotFoundError where its workspace ends first.
        """
        deadline = deadline_in(timeout)
        while True:
            seconds, begun = seconds_left(deadline), time.monotonic()
            if _state(self._look(seconds)).ended:
                return True
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return False
            if now - begun < 0.9 * seconds:
                # Nobody over there waits for it any more: this tells why, or the workspace has just gone.
                self._server.ask("get_status", self.workspace)
                raise WorkspaceNotFoundError(self.workspace)

    def result(self, timeout: float | None = None) -> Any:
        """
        Wait for its end and return the value of its last expression, None where it has none.

        What cannot be pickled comes as its text.

        Raises
        ------
        JobFailedError
            It did not run through; has its state, and type, message and traceback of what it raised.
        RequestTimeoutError
            It has not ended after `timeout` seconds, and goes on.
        SerializationError
            The value is too large to be kept (get it as a variable), or cannot be unpickled here.
        """
        if self._end is None and not self.wait(timeout):
            assert timeout is not None
            raise RequestTimeoutError(timeout, f"the end of job {self.number} of workspace {self.workspace!r}", None)
        assert self._end is not None
        state = _state(self._end)
        if state is not JobState.DONE:
            error = self._end["error"] or {"type": "", "message": "", "traceback": ""}
            raise JobFailedError(self.workspace, self.number, state.value, error["type"], error["message"], error["traceback"])
        value = self._end["value"]
        if isinstance(value, dict) and value.get("truncated") is True:
            what = f"{value.get('type', 'object')} of shape {value['shape']}" if "shape" in value else str(value.get("type", ""))
            raise SerializationError(
                f"The value of job {self.number} ({what}) is too large to be kept with it: put it into a variable and read that"
            )
        return _open(value)

    def cancel(self) -> bool:
        """Take it out of the queue; returns whether it was still waiting."""
        return bool(self._server.ask("cancel", self.workspace, job=self.number))

    def interrupt(self) -> bool:
        """Raise KeyboardInterrupt in it; returns whether it ran."""
        return bool(self._server.ask("interrupt", self.workspace, job=self.number))

    def kill(self) -> bool:
        """End the process that runs it, and all that it started, at once; returns whether it ran."""
        return bool(self._server.ask("kill", self.workspace, job=self.number))

    def _look(self, timeout: float = 0.0) -> Mapping[str, Any]:
        if self._end is not None:
            return self._end
        record: Mapping[str, Any] = self._server.ask("get_record", self.workspace, job=self.number, timeout=timeout)
        self._learn(record)
        return record

    def _learn(self, known: Mapping[str, Any]) -> None:
        """Keep what a push or a record tells, if it is the last word."""
        if _state(known).ended and "value" in known:
            self._end = known
            if "times" in known:
                self._record = known


class Variables:
    """
    The variables of a workspace, in the manner of a dict: ``variables["x"]``, ``variables["x"] = value``.

    A job may run meanwhile. Modules, functions and classes are none, though they can be read by name; what cannot be pickled
    comes as its text. To delete one, run a job: ``del x``.

    Between a workspace on Ray and a program that has joined the same cluster (``ray.init(address=...)``) what has 1 MiB and more
    when it is pickled goes through Ray's object store; that changes nothing but the time. `Workspace.shared` spares one more
    copy, for arrays that need not be written.
    """

    def __init__(self, server: Asker, workspace: str) -> None:
        self._server = server
        self._workspace = workspace

    def __repr__(self) -> str:
        return f"<Variables of {self._workspace!r}>"

    def __getitem__(self, name: str) -> Any:
        """Return the value of a variable; raises KeyError."""
        return self.read(name)[name]

    def __setitem__(self, name: str, value: Any) -> None:
        """
        Set a variable.

        Raises RefusedError for what is no name or cannot be unpickled there, SerializationError for what cannot travel.
        """
        packed, store = Packed.of(value), _store()
        if store is None or not store.set_packed(self._server, self._workspace, name, packed):
            self._server.ask("set_variable", self._workspace, variable=name, value=packed)

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def keys(self) -> list[str]:
        """Return the names of all."""
        return self._names()

    def values(self) -> list[Any]:
        """Return the values of all, in one request."""
        return list(self.read().values())

    def items(self) -> list[tuple[str, Any]]:
        """Return names and values of all, in one request."""
        return list(self.read().items())

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a variable, or `default`."""
        try:
            return self[name]
        except KeyError:
            return default

    def read(self, *names: str) -> dict[str, Any]:
        """Return variables by name, all of them for no names, in one request; raises KeyError for one that there is not."""
        wanted, store = list(names) or None, _store()
        values = None if store is None else store.fetch(self._server, self._workspace, wanted)
        if values is None:
            values = self._server.ask("get_variable", self._workspace, variable=wanted)
        missing = [name for name in names if values.get(name) is None]  # one whose value is None comes packed
        if missing:
            raise KeyError(*missing)
        return {name: _open(value) for name, value in values.items()}

    def overview(self) -> list[dict[str, Any]]:
        """Return name, type and shape of each variable, the first 1,000 of them; nothing is pickled for that."""
        found: list[dict[str, Any]] = self._server.ask("list_variables", self._workspace)["variables"]
        return found

    def show(self, name: str, window: tuple[int, int] | None = None) -> dict[str, Any]:
        """
        Return a variable as a page shows it: plain data, of what is long some rows; nothing is pickled for that.

        Parameters
        ----------
        window
            The rows from the first number to before the second one; None: as many as fit into 1 MB of JSON, at most 1,000.

        Returns
        -------
        shown
            ``value``, ``type``, ``shape``, ``window`` (which rows it has, None where it has no rows), ``truncated``; of tables
            also ``columns``, ``index`` and ``dtypes``; ``encoding`` where the value is bytes or a picture.

        Raises
        ------
        RefusedError
            There is no such variable, or the worker does not answer.
        """
        rows = None if window is None else [int(row) for row in window]
        shown: dict[str, Any] = self._server.ask("get_value", self._workspace, variable=name, window=rows)
        return shown

    def statistics(self, name: str) -> dict[str, Any]:
        """Describe each column of a table or an array, as the statistics of runs (:doc:`runtime`); raises as `show`."""
        statistics: dict[str, Any] = self._server.ask("get_statistics", self._workspace, variable=name)
        return statistics

    def update(self, values: Mapping[str, Any] = {}, **more: Any) -> None:
        """Set several variables, one after another."""
        for name, value in {**values, **more}.items():
            self[name] = value

    def _names(self) -> list[str]:
        # Described only: nobody pays for values that are not looked at.
        return list(self._server.ask("get_variable", self._workspace, encoding="json", limit=0))


class Asker:
    """Ask a server, and judge its envelopes."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def ask(self, command: str, name: str | None = None, *, timeout: float | None = None, **fields: Any) -> Any:
        """Return the result of a command; `timeout` are seconds that the server itself may wait."""
        message = _message(command, name, fields)
        if timeout is not None:
            message["timeout"] = timeout
        own = self._client.timeout
        limit = None if own is None else own + (timeout or 0.0)
        return _result(self._client.execute(message, await_response=True, timeout=limit), name)

    def stream(self, command: str, name: str | None = None, **fields: Any) -> Iterator[Any]:
        """Yield the results of a command that streams."""
        responses = self._client.stream(_message(command, name, fields), timeout=_SILENCE)
        try:
            for response in responses:
                yield _result(response, name)
        finally:
            responses.close()  # type: ignore[attr-defined]  # a generator


def _store() -> Any:
    """Return what hands values over by Ray's object store; None in a program without Ray."""
    if "ray" not in sys.modules:
        return None
    from bgpy.tasks.workspace.onray import shared

    return shared


def _message(command: str, name: str | None, fields: dict[str, Any]) -> dict[str, Any]:
    message = {"command": command, **fields}
    if name is not None:
        message["name"] = name
    kinds = set(map(type, message.values()))
    return Data(message) if Packed in kinds and kinds <= _CLOSED else message


def _result(response: dict[str, Any], name: str | None) -> Any:
    """Return the result in an envelope; raises RefusedError and WorkspaceNotFoundError."""
    if response.get("request_result") is True:
        return response["result"]
    reason = response.get("result")
    if reason is False:
        raise RefusedError('The workspaces of this server are switched off: {"command": "create"} switches them on')
    if "request_result" not in response:
        raise RefusedError("The server has no workspaces: it needs the task set bgpy.tasks.workspace")
    if name is not None and response.get("error") == WorkspaceNotFoundError.__name__:
        raise WorkspaceNotFoundError(name)
    raise RefusedError(str(reason).rstrip("."), response.get("field"))


def _state(known: Mapping[str, Any]) -> JobState:
    return JobState(known["state"])


def _open(value: Any) -> Any:
    return value.open() if isinstance(value, Packed) else value


def deadline_in(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + plain_seconds(timeout)


def seconds_left(deadline: float | None) -> float:
    return _LONGEST_WAIT if deadline is None else min(max(deadline - time.monotonic(), 0.0), _LONGEST_WAIT)
