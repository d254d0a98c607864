"""
Models for Python programs: arrays go in, arrays come back, and no JSON lies between.

As in `bgpy.tasks.workspace.face`, every method asks the server and blocks until it has answered, and all of them are safe from
several threads. A deploy, an update or a prediction that does not succeed is a job that failed: JobFailedError, whose `type_name`
says which error of `bgpy.errors` or of TensorFlow it was.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from bgpy.errors import ModelNotFoundError, RequestTimeoutError
from bgpy.tasks.workspace import face
from bgpy.tasks.workspace.remote import Asker, Job, deadline_in, seconds_left
from bgpy.tasks.workspace.values import Packed

__all__ = ["Model", "Workspace", "Workspaces"]


class Workspaces(face.Workspaces):
    """
    The workspaces of a server with the task set ``bgpy.tasks.tensorflow``; as `bgpy.tasks.workspace.face.Workspaces`.

    Parameters
    ----------
    client
        A client of such a server; or its name, by default ``default``.
    """

    def __getitem__(self, name: str) -> Workspace:
        """Return a workspace; raises WorkspaceNotFoundError."""
        return Workspace(self._server, super().__getitem__(name).name)

    def create(
        self, name: str | None = None, type: Literal["process", "thread", "ray"] | int | None = None, **options: Any
    ) -> Workspace:
        """Create a workspace, as `bgpy.tasks.workspace.face.Workspaces.create`."""
        return Workspace(self._server, super().create(name, type, **options).name)


class Workspace(face.Workspace):
    """A workspace that can have a model. Made by `Workspaces`."""

    @property
    def model(self) -> Model:
        """What is deployed here; raises ModelNotFoundError where none is."""
        return Model(self._server, self.name, _describe(self._server, self.name))

    def deploy(
        self,
        path: str | os.PathLike[str],
        device: str = "/cpu:0",
        *,
        warmup: bool = False,
        max_batch: int = 64,
        safe_mode: bool = True,
        replicas: int | None = None,
        min_replicas: int | None = None,
        max_replicas: int | None = None,
        idle_time: float | None = None,
        timeout: float | None = None,
        time_limit: float | None = None,
    ) -> Model:
        """
        Load a model and wait until it can be asked; a model that is there answers until then, and for good if this fails.

        Parameters
        ----------
        path
            On the server: a SavedModel folder, a ``.keras`` or ``.h5`` file, or a checkpoint of TensorFlow 1 with its meta graph.
        device
            Where it runs; what it cannot do there runs on the CPU.
        warmup
            Whether to run each signature once, so that the first to ask need not wait for that.
        max_batch
            Rows of waiting predictions that are run as one; 1: each alone.
        safe_mode
            Whether a ``.keras`` file that would run code of its own is refused.
        replicas
            On how many workspaces, this one among them: the others are made, like this one, and named NAME.1, NAME.2 and so on.
            None: as many as now, or one.
        min_replicas, max_replicas
            How many at least and at most, where load decides.
        idle_time
            Seconds after which a replica goes that is not needed. None: as now, or 300.
        timeout
            Seconds to wait; None: as long as it takes.
        time_limit
            Seconds that loading may take; then it is ended.

        Raises
        ------
        JobFailedError
            It could not be loaded: `type_name` is "bgpy.errors.ModelLoadError", or what TensorFlow raised.
        RequestTimeoutError
            It takes longer than `timeout`, and goes on.
        """
        options = {"device": device, "warmup": warmup, "max_batch": max_batch, "safe_mode": safe_mode, "time_limit": time_limit}
        replication = {"replicas": replicas, "min_replicas": min_replicas, "max_replicas": max_replicas, "idle_time": idle_time}
        fields = {"path": os.fspath(path), **options, **replication}
        return Model(self._server, self.name, _run(self._server, self.name, "deploy", fields, timeout))


class Model:
    """
    The model of a workspace: what is deployed there now, whoever has deployed it. Made by `Workspace`.

    Attributes
    ----------
    workspace
        The name of its workspace.
    description
        What the server told of it when this object was made, or updated by it: ``path``, ``version``, ``device``, ``signatures``
        and more.
    """

    def __init__(self, server: Asker, workspace: str, description: dict[str, Any]) -> None:
        self.workspace = workspace
        self.description = description
        self._server = server

    def __repr__(self) -> str:
        known = self.description
        return f"<Model of {self.workspace!r}: {known['path']!r} on {known['device']}, version {known['version']}>"

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """What its default signature takes, by name; each with ``dtype`` and ``shape``, in which None stands for any length."""
        return self._default("inputs")

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """What its default signature gives, as `inputs`."""
        return self._default("outputs")

    @property
    def replicas(self) -> list[dict[str, Any]]:
        """
        All workspaces that have it now; its own comes first.

        Each with ``workspace``, ``state`` (ready, loading, draining or failed), ``version``, ``waiting`` (predictions), on Ray
        ``node`` and ``address``, and ``error`` where it could not load. Raises as `describe`.
        """
        found: list[dict[str, Any]] = self.describe()["replicas"]
        return found

    def predict(
        self, feed_dict: Mapping[str, Any] | None = None, fetches: str | Sequence[str] | None = None, timeout: float | None = None
    ) -> list[Any]:
        """
        Run the model. Predictions that wait beside one another are run as one, each getting its own rows.

        Parameters
        ----------
        feed_dict
            Arrays, or what NumPy makes arrays of, by the names of the inputs; in a graph of TensorFlow 1 by collection keys or
            names of tensors. They are cast to what the model takes where nothing is lost. Arrays are sent without a copy: do
            not change them meanwhile.
        fetches
            Names of outputs, SIGNATURE/OUTPUT, in a graph of TensorFlow 1 collection keys or names of tensors. None: all outputs.
        timeout
            Seconds to wait, in the queue too; None: as long as it takes.

        Returns
        -------
        arrays
            NumPy arrays in the order of the fetches: a list also for a single one. They are the caller's own; copy one before
            writing to it, as small ones may be read-only.

        Raises
        ------
        JobFailedError
            `type_name` is "bgpy.errors.ModelInputError" for wrong names, dtypes and shapes, "bgpy.errors.ModelNotFoundError"
            where no model is deployed any more, else what the model itself raised.
        RequestTimeoutError
            It takes longer than `timeout`; it may still run.
        SerializationError
            A value in `feed_dict` cannot travel.
        """
        fields = {
            "feed_dict": None if feed_dict is None else Packed.of(dict(feed_dict)),
            "fetches": fetches if fetches is None or isinstance(fetches, str) else list(fetches),
        }
        arrays: list[Any] = _run(self._server, self.workspace, "predict", fields, timeout)
        return arrays

    def update(self, path: str | os.PathLike[str], timeout: float | None = None) -> None:
        """
        Give the model new weights, as a new version.

        Parameters
        ----------
        path
            On the server: a checkpoint of the same graph, a ``.weights.h5`` file, a SavedModel of the same signature.
        timeout
            Seconds to wait; None: as long as it takes.

        Raises
        ------
        JobFailedError
            They do not fit, and the message names the first tensor that differs, or cannot be read: the old ones stay.
        RequestTimeoutError
            It takes longer than `timeout`, and goes on.
        """
        self.description = _run(self._server, self.workspace, "update", {"path": os.fspath(path)}, timeout)

    def undeploy(self, timeout: float | None = None) -> None:
        """Let the model go, behind all predictions that wait; raises JobFailedError where it has gone already."""
        _run(self._server, self.workspace, "undeploy", {}, timeout)

    def describe(self) -> dict[str, Any]:
        """
        Ask what is known of it, without waiting for a job; raises ModelNotFoundError where no model is deployed any more.

        Returns
        -------
        description
            name, path, format, platform, device, version, versions (their states), load_time (seconds), max_batch,
            default_signature, signatures (by name: inputs and outputs, each by name with dtype and shape); and since it was
            deployed predictions, executions (runs, of which each may have made several predictions), failed_predictions and
            last_prediction (seconds since 1970). Also replicas, and where there are several min_replicas, max_replicas and
            idle_time.
        """
        return _describe(self._server, self.workspace)

    def _default(self, side: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.description["signatures"][self.description["default_signature"]][side]
        return found


def _describe(server: Asker, workspace: str) -> dict[str, Any]:
    description: dict[str, Any] | None = server.ask("describe", workspace)
    if description is None:
        raise ModelNotFoundError(f"No model is deployed in the workspace {workspace!r}")
    return description


def _run(server: Asker, workspace: str, command: str, fields: dict[str, Any], timeout: float | None) -> Any:
    """Ask for a job and return its value; one request, unless it takes very long."""
    deadline = deadline_in(timeout)
    answer = server.ask(command, workspace, timeout=seconds_left(deadline), **fields)
    result = answer["result"]
    if type(result) is Packed:
        return result.open()
    if result is True:
        return answer.get("value")
    # It failed, which a `Job` knows how to say; or its end is still to be waited for.
    job = Job(server, answer.get("name", workspace), answer["job"], {**answer, "value": None} if answer["finish"] else None)
    if not job.wait(None if deadline is None else seconds_left(deadline)):
        assert timeout is not None
        raise RequestTimeoutError(timeout, f"the end of job {job.number} of workspace {job.workspace!r}", None)
    return job.result()
