"""
What the server knows of the model of each workspace, so that whoever asks for it waits for no job.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from bgpy.errors import RefusedError
from bgpy.tasks.workspace.jobs import JobRecord, JobState

#: Versions whose states are told: the latest ones.
MAX_VERSIONS = 100
#: Rows that are run as one where nobody knows the model yet; it limits them itself.
DEFAULT_BATCH = 64


class Home(Protocol):
    """What this needs of a `bgpy.tasks.workspace.workspace.Workspace`."""

    @property
    def worker(self) -> object | None:
        """What stands for the interpreter in service, None where there is none."""

    def status(self) -> dict[str, Any]:
        """Tell, among others, which jobs are remembered."""

    def record(self, number: int | None, whole: bool = True) -> JobRecord:
        """Return what is known of a job; raises RefusedError where there is none."""

    def when_ended(self, number: int, then: Callable[[JobRecord], object]) -> bool:
        """Have a function called at the end of a job that has not ended."""


class Catalog:
    """
    The models of all workspaces of a server. Thread-safe; fed by the ends of jobs, in whatever order they are told.

    A model lives in the interpreter that has loaded it: with that it is gone, and nothing need be told.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # What is known of a workspace goes with it, and another one of its name begins anew.
        self._entries: weakref.WeakKeyDictionary[Home, _Entry] = weakref.WeakKeyDictionary()

    def take_up(self, workspace: Home) -> dict[str, Any] | None:
        """
        Learn what an earlier server has left: which version was the last one, and what waits for somebody to resume it.

        Returns the description of what was loaded last, None where nothing was, or it was undeployed.
        """
        status, changes = workspace.status(), list[JobRecord]()
        for number in range(status["first_job"], status["next_job"]):
            try:
                record = workspace.record(number, whole=False)
            except RefusedError:
                continue  # a prediction: the store had only its number
            if not record.state.ended:
                workspace.when_ended(number, partial(self.ended, workspace))
            elif record.state is JobState.DONE and record.kind in ("deploy", "update", "undeploy"):
                changes.append(record)
        loads = [record.number for record in changes if record.kind != "undeploy"]
        value = workspace.record(loads[-1]).value if loads else None
        if value is None:
            return None
        description: dict[str, Any] = value.json
        with self._lock:
            self._entry(workspace).versions = description["version"]
        return description if changes[-1].number == loads[-1] else None

    def ended(self, workspace: Home, record: JobRecord) -> None:
        """Take the end of any job; that of one that changes the model may be told several times."""
        if record.kind == "predict":
            self._predicted(workspace, record)
        elif record.kind in ("deploy", "update", "recall"):
            self._loaded(workspace, record)
        elif record.kind == "undeploy":
            self._unloaded(workspace, record)

    def describe(self, workspace: Home) -> dict[str, Any] | None:
        """Return what is known of the model that is deployed in a workspace now, None where there is none."""
        worker = workspace.worker
        with self._lock:
            entry = self._entries.get(workspace)
            if entry is None or entry.model is None or not entry.model.is_with(worker):
                return None
            model, current = entry.model, entry.model.description["version"]
            versions = {str(number): "END" for number in range(max(1, current - MAX_VERSIONS + 1), current)}
            return {
                **model.description,
                "versions": {**versions, str(current): "AVAILABLE"},
                "predictions": model.predictions,
                "executions": model.executions,
                "failed_predictions": model.failed,
                "last_prediction": model.last_prediction,
            }

    def versions(self, workspace: Home) -> int:
        """Return how many versions a workspace has had, also those of interpreters that have died."""
        with self._lock:
            entry = self._entries.get(workspace)
            return 0 if entry is None else entry.versions

    def max_batch(self, workspace: Home) -> int:
        """Return how many predictions are worth handing over at once."""
        entry = self._entries.get(workspace)
        model = None if entry is None else entry.model  # without the lock: what is found was deployed a moment ago
        return DEFAULT_BATCH if model is None else int(model.description["max_batch"])

    def _loaded(self, workspace: Home, record: JobRecord) -> None:
        description = record.value.json if record.state is JobState.DONE and record.value is not None else None
        if description is None:
            return
        worker = workspace.worker
        with self._lock:
            entry = self._entry(workspace)
            entry.versions = max(entry.versions, description["version"])
            if record.number <= entry.last_change:
                return  # a later job has changed it since
            entry.last_change = record.number
            model = entry.model
            if record.kind == "update" and model is not None and model.is_with(worker):
                model.description = description
            else:
                entry.model = _Model(description, worker)

    def _unloaded(self, workspace: Home, record: JobRecord) -> None:
        if record.state is not JobState.DONE:
            return
        with self._lock:
            entry = self._entry(workspace)
            if record.number > entry.last_change:
                entry.last_change, entry.model = record.number, None

    def _predicted(self, workspace: Home, record: JobRecord) -> None:
        with self._lock:
            entry = self._entries.get(workspace)
            model = None if entry is None else entry.model
            if model is None or not record.state.ended or record.state is JobState.CANCELLED:
                return  # not ended: the server begins to end, and will not hear of it
            if record.state is JobState.DONE:
                model.predictions += 1
                model.executions += 0 if record.value is None else record.value.runs
            else:
                model.failed += 1
            model.last_prediction = record.ended

    def _entry(self, workspace: Home) -> _Entry:
        assert self._lock.locked()
        entry = self._entries.get(workspace)
        if entry is None:
            entry = self._entries[workspace] = _Entry()
        return entry


class _Model:
    """A model, and who has it."""

    __slots__ = ("_worker", "description", "executions", "failed", "last_prediction", "predictions")

    def __init__(self, description: dict[str, Any], worker: object | None) -> None:
        self.description = description
        # It may know its workspace, which must be able to go.
        self._worker = None if worker is None else weakref.ref(worker)
        #: How many predictions it has made, in how many runs, and how many have failed, since it was deployed.
        self.predictions = 0
        self.executions = 0
        self.failed = 0
        #: When the last one ended, in seconds since 1970.
        self.last_prediction: float | None = None

    def is_with(self, worker: object | None) -> bool:
        """Tell whether an interpreter has it."""
        return worker is not None and self._worker is not None and self._worker() is worker


class _Entry:
    """What is known of one workspace."""

    __slots__ = ("last_change", "model", "versions")

    def __init__(self) -> None:
        self.versions = 0
        #: The number of the job that has changed the model last: the ends of two may be told in the wrong order.
        self.last_change = -1
        self.model: _Model | None = None
