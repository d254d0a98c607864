"""
From a message to a call of the models' host, and from the end of its job to the answer.

Nothing of the user's is opened here, and neither TensorFlow nor NumPy is imported: arrays go to the worker as they came.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping
from typing import Any

from bgpy.errors import OverloadedError, RefusedError, SerializationError, StoreError
from bgpy.sockets import ClientSocket
from bgpy.tasks.schema import checker
from bgpy.tasks.tensorflow import commands
from bgpy.tasks.tensorflow.catalog import Catalog
from bgpy.tasks.workspace.answering import answer_at_end, refused
from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.dispatch import dispatch as dispatch_to_workspaces
from bgpy.tasks.workspace.dispatch import job_result
from bgpy.tasks.workspace.jobs import JobRecord, JobState
from bgpy.tasks.workspace.values import Packed, Value
from bgpy.tasks.workspace.workspace import Workspace
from bgpy.tasks.workspace.workspaces import Workspaces

#: What runs models, in the worker.
HOST = "bgpy.tasks.tensorflow.worker:make_host"

_OWN = [command.name for command in commands.OWN]
_CHECKS = {command.name: checker(command) for command in (*commands.OWN, *commands.HIDDEN)}

Fields = dict[str, Any]
#: Makes what an answer tells beside what it tells of any job, from the state and the value.
Make = Callable[[JobState, Value | None], dict[str, Any]]


def dispatch(workspaces: Workspaces, catalog: Catalog, client_socket: ClientSocket, message: Mapping[str, Any]) -> None:
    """
    Answer one request: those about models here, all others as the task set of workspaces does, in the same envelopes.

    Does not wait for jobs: whoever asks to is answered at the job's end, from another thread.
    """
    name = message.get("command")
    if not isinstance(name, str) or name not in _CHECKS or not workspaces.on:
        dispatch_to_workspaces(workspaces, client_socket, message, _OWN)
        return
    try:
        fields = _CHECKS[name](message)
        _HANDLERS[name](workspaces[fields["name"]], catalog, client_socket, fields)
    except (OverloadedError, RefusedError, SerializationError, StoreError) as failure:
        client_socket.respond(refused(failure))


def _deploy(workspace: Workspace, catalog: Catalog, client_socket: ClientSocket, fields: Fields) -> None:
    if workspace.options.type == "thread":
        what = f"The thread workspace {workspace.name!r} has no process but the server's, and no server loads TensorFlow"
        raise RefusedError(f"{what}: create a workspace of type 0 (process) for the model", "name")
    _check_path(fields)
    argument = {field: fields[field] for field in ("name", "path", "device", "warmup", "safe_mode")}
    argument |= {"max_batch": int(fields["max_batch"]), "version": catalog.versions(workspace)}
    _push(workspace, catalog, client_socket, fields, Call(HOST, "deploy", argument), _description)


def _update(workspace: Workspace, catalog: Catalog, client_socket: ClientSocket, fields: Fields) -> None:
    _check_path(fields)
    argument = {"name": fields["name"], "path": fields["path"], "version": catalog.versions(workspace)}
    _push(workspace, catalog, client_socket, fields, Call(HOST, "update", argument), _description)


def _check_path(fields: Fields) -> None:
    if not fields["path"]:
        raise RefusedError("The field 'path' is empty: it would be the worker's own folder", "path")


def _undeploy(workspace: Workspace, catalog: Catalog, client_socket: ClientSocket, fields: Fields) -> None:
    _push(workspace, catalog, client_socket, fields, Call(HOST, "undeploy", {"name": fields["name"]}), _nothing)


def _predict(workspace: Workspace, catalog: Catalog, client_socket: ClientSocket, fields: Fields) -> None:
    feeds = fields["feed_dict"]
    if feeds is not None and not isinstance(feeds, (dict, Packed)):
        raise RefusedError(f"The field 'feed_dict' of predict is object or null, not {type(feeds).__name__}", "feed_dict")
    argument = {"fetches": fields["fetches"], "feed_dict": feeds, "encoding": fields["encoding"]}
    make = _arrays_as_json if fields["encoding"] == "json" else _arrays
    _ask_model(workspace, catalog, client_socket, fields, argument, make)


def _infer(workspace: Workspace, catalog: Catalog, client_socket: ClientSocket, fields: Fields) -> None:
    body = fields["body"]
    if not isinstance(body, Packed) or len(body.buffers) != 1:
        raise RefusedError("The field 'body' of infer is a Packed with one buffer", "body")
    argument = {field: fields[field] for field in ("protocol", "verb", "name", "version", "header_length")}
    argument["body"] = pickle.PickleBuffer(body.buffers[0])  # goes on as it came: out of band, where it is large
    _ask_model(workspace, catalog, client_socket, fields, argument, _body)


def _describe(workspace: Workspace, catalog: Catalog, client_socket: ClientSocket, fields: Fields) -> None:
    client_socket.respond({"request_result": True, "result": catalog.describe(workspace)})


def _ask_model(
    workspace: Workspace,
    catalog: Catalog,
    client_socket: ClientSocket,
    fields: Fields,
    argument: dict[str, Any],
    make: Make,
) -> None:
    """Queue a prediction, in whosever words. Of these there may be thousands a second: the store does not keep them."""
    call = Call(HOST, "predict", Packed.of(argument), batch=catalog.max_batch(workspace), kept=False)
    _push(workspace, catalog, client_socket, fields, call, make)


def _push(workspace: Workspace, catalog: Catalog, client_socket: ClientSocket, fields: Fields, call: Call, make: Make) -> None:
    """Queue a call, and have it answered at its end, or when the client has waited for as long as it wants to."""
    end, begun = _End(workspace, catalog, make), time.monotonic()
    number = workspace.call(
        call,
        fields.get("path", ""),
        time_limit=fields.get("time_limit"),
        identity=getattr(client_socket, "identity", None),
        then=end.note,
    )
    answer_at_end(workspace, client_socket, number, fields["timeout"], end.make, begun)


class _End:
    """The end of one job, on its way to the catalog and to whoever waits for it."""

    __slots__ = ("_catalog", "_make", "_value", "_workspace")

    def __init__(self, workspace: Workspace, catalog: Catalog, make: Make) -> None:
        self._workspace = workspace
        self._catalog = catalog
        self._make = make
        self._value: Value | None = None

    def note(self, record: JobRecord) -> None:
        """Take the end as soon as it is known."""
        self._value = record.value  # the workspace may not keep what is large
        self._catalog.ended(self._workspace, record)

    def make(self, record: JobRecord, waited: float) -> dict[str, Any]:
        """Make the answer."""
        if record.kind != "predict":
            # Whoever has this answer may ask at once what is deployed: it must not be faster than the word to the catalog.
            self._catalog.ended(self._workspace, record)
        return {**job_result(record, waited), **self._make(record.state, self._value or record.value)}


def _nothing(state: JobState, value: Value | None) -> dict[str, Any]:
    return {}


def _description(state: JobState, value: Value | None) -> dict[str, Any]:
    return {"value": None if value is None else value.json}


def _arrays(state: JobState, value: Value | None) -> dict[str, Any]:
    """Return the arrays of a prediction that ran: they take the place of "it ran through"."""
    return {} if value is None or state is not JobState.DONE else {"result": value.packed}


def _arrays_as_json(state: JobState, value: Value | None) -> dict[str, Any]:
    return {} if value is None or state is not JobState.DONE else {"result": value.json}


def _body(state: JobState, value: Value | None) -> dict[str, Any]:
    """Return the body for an adapter of the gateway, and what stands before it."""
    return {**_arrays(state, value), **_description(state, value)}


_HANDLERS: Mapping[str, Callable[[Workspace, Catalog, ClientSocket, Fields], None]] = {
    "deploy": _deploy,
    "update": _update,
    "undeploy": _undeploy,
    "predict": _predict,
    "describe": _describe,
    "infer": _infer,
}
