"""
From a message to a call of the models' host, and from the end of its job to the answer.

Nothing of the user's is opened here, and neither TensorFlow nor NumPy is imported: arrays go to the worker as they came.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from bgpy.errors import OverloadedError, RefusedError, SerializationError, StoreError
from bgpy.protocol.messages import Data
from bgpy.sockets import ClientSocket
from bgpy.tasks.schema import checker
from bgpy.tasks.tensorflow import commands
from bgpy.tasks.tensorflow.changes import Bounds
from bgpy.tasks.tensorflow.ends import Fields, Make, Prediction, answer_maker, prediction
from bgpy.tasks.tensorflow.fleet import Fleet
from bgpy.tasks.tensorflow.readings import HOST, with_node
from bgpy.tasks.tensorflow.replicas import IDLE_TIME, MAX_REPLICAS
from bgpy.tasks.tensorflow.replicated import ReplicatedModel
from bgpy.tasks.tensorflow.together import Together
from bgpy.tasks.workspace.answering import answer_at_end, push_and_answer, refused
from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.dispatch import dispatch as dispatch_to_workspaces
from bgpy.tasks.workspace.dispatch import job_result
from bgpy.tasks.workspace.jobs import JobRecord, JobState
from bgpy.tasks.workspace.outbox import Then
from bgpy.tasks.workspace.values import Packed, Value
from bgpy.tasks.workspace.workspace import Workspace

_OWN = [command.name for command in commands.OWN]
_CHECKS = {command.name: checker(command) for command in (*commands.OWN, *commands.HIDDEN, *commands.CHANGED)}
_NUMBERS = ("replicas", "min_replicas", "max_replicas")


def dispatch(fleet: Fleet, client_socket: ClientSocket, message: Mapping[str, Any]) -> None:
    """
    Answer one request: those about models here, all others as the task set of workspaces does, in the same envelopes.

    Does not wait for jobs: whoever asks to is answered at the job's end, from another thread.
    """
    name = message.get("command")
    if not isinstance(name, str) or name not in _CHECKS or not fleet.workspaces.on:
        dispatch_to_workspaces(fleet.workspaces, client_socket, message, _OWN)
        return
    try:
        fields = _CHECKS[name](message)
        if name == commands.INFER_ALL.name:
            _infer_all(fleet, client_socket, fields["requests"])
            return
        _HANDLERS[name](fleet.workspaces[fields["name"]], fleet, client_socket, fields)
    except (OverloadedError, RefusedError, SerializationError, StoreError) as failure:
        client_socket.respond(refused(failure))


def _deploy(workspace: Workspace, fleet: Fleet, client_socket: ClientSocket, fields: Fields) -> None:
    if workspace.options.type == "thread":
        what = f"The thread workspace {workspace.name!r} has no process but the server's, and no server loads TensorFlow"
        raise RefusedError(f"{what}: create a workspace of type 0 (process) for the model", "name")
    _check_change(workspace, fields)
    bounds = _bounds(workspace, fleet, fields)
    argument = {field: fields[field] for field in ("name", "path", "device", "warmup", "safe_mode")}
    argument |= {"max_batch": int(fields["max_batch"]), "version": fleet.catalog.versions(workspace)}
    model = None
    if bounds[1] > 1:
        fleet.check_names(workspace, bounds[1])
        model = fleet.make(workspace)
        argument |= {"min_replicas": bounds[0], "max_replicas": bounds[1], "idle_time": bounds[2]}
    _change(workspace, fleet, client_socket, fields, Call(HOST, "deploy", argument), bounds, model)


def _update(workspace: Workspace, fleet: Fleet, client_socket: ClientSocket, fields: Fields) -> None:
    _check_change(workspace, fields)
    argument = {"name": fields["name"], "path": fields["path"], "version": fleet.catalog.versions(workspace)}
    _change(workspace, fleet, client_socket, fields, Call(HOST, "update", argument))


def _bounds(workspace: Workspace, fleet: Fleet, fields: Fields) -> Bounds:
    """Return how many replicas a deploy asks for, at least and at most; and the seconds after which one goes."""
    replicas, low, high = (None if fields[each] is None else int(fields[each]) for each in _NUMBERS)
    if replicas is not None and (low, high) != (None, None):
        raise RefusedError(
            "The field 'replicas' is a fixed number; 'min_replicas' and 'max_replicas' let load decide", "replicas"
        )
    model = fleet.find(workspace)
    before = (1, 1, IDLE_TIME) if model is None else model.bounds
    idle_time = before[2] if fields["idle_time"] is None else fields["idle_time"]
    if replicas is not None:
        low = high = replicas
    elif low is None and high is None:
        low, high = before[:2]
    low = low or 1
    high = high or max(low, before[1])
    for field, number in zip(_NUMBERS, (replicas, low, high), strict=True):
        if number is not None and number > MAX_REPLICAS:
            raise RefusedError(f"A model has at most {MAX_REPLICAS} replicas", field)
    if low > high:
        raise RefusedError(f"At least {low} replicas cannot be at most {high}", "min_replicas")
    return low, high, idle_time


def _check_change(workspace: Workspace, fields: Fields) -> None:
    model = workspace.options.replica_of
    if model is not None:
        raise RefusedError(f"{workspace.name!r} is a replica of the model of {model!r}, and has what that has", "name")
    if not fields.get("path", "path"):
        raise RefusedError("The field 'path' is empty: it would be the worker's own folder", "path")


def _undeploy(workspace: Workspace, fleet: Fleet, client_socket: ClientSocket, fields: Fields) -> None:
    _check_change(workspace, fields)
    _change(workspace, fleet, client_socket, fields, Call(HOST, "undeploy", {"name": fields["name"]}))


def _change(
    workspace: Workspace,
    fleet: Fleet,
    client_socket: ClientSocket,
    fields: Fields,
    call: Call,
    bounds: Bounds | None = None,
    model: ReplicatedModel | None = None,
) -> None:
    """Queue what changes the model; where it has replicas, or shall have, that of the first, which the others follow."""
    make = _nothing if call.method == "undeploy" else _description
    model = model or fleet.find(workspace)
    if model is None:
        _push(workspace, fleet, client_socket, fields, call, make)
        return
    begun = time.monotonic()
    assert isinstance(call.argument, dict)
    change, number = model.change(
        call.method, call.argument, bounds, getattr(client_socket, "identity", None), fields["time_limit"]
    )

    def answer(record: JobRecord, waited: float) -> Fields:
        known = _describe_model(workspace, fleet) if record.state is JobState.DONE and make is _description else None
        return {**job_result(record, waited), **({} if make is _nothing else {"value": known})}

    answer_at_end(change, client_socket, number, fields["timeout"], answer, begun)


def _predict(workspace: Workspace, fleet: Fleet, client_socket: ClientSocket, fields: Fields) -> None:
    feeds = fields.pop("feed_dict")
    if feeds is not None and not isinstance(feeds, (dict, Packed)):
        raise RefusedError(f"The field 'feed_dict' of predict is object or null, not {type(feeds).__name__}", "feed_dict")
    encoding = fields["encoding"]
    argument = {"fetches": fields["fetches"], "feed_dict": feeds, "encoding": encoding}
    if not isinstance(feeds, dict):
        argument = Data(argument)
    make = _arrays_as_json if encoding == "json" else _arrays
    _ask_model(workspace, fleet, client_socket, fields, argument, make)


def _infer(workspace: Workspace, fleet: Fleet, client_socket: ClientSocket, fields: Fields) -> None:
    body = fields.pop("body")
    if not isinstance(body, Packed) or len(body.buffers) != 1:
        raise RefusedError("The field 'body' of infer is a Packed with one buffer", "body")
    argument = Data({field: fields[field] for field in ("protocol", "verb", "name", "version", "header_length")})
    argument["body"] = pickle.PickleBuffer(body.buffers[0])  # goes on as it came: out of band, where it is large
    _ask_model(workspace, fleet, client_socket, fields, argument, partial(_body, fleet.catalog.max_batch(workspace)))


def _infer_all(fleet: Fleet, client_socket: ClientSocket, requests: Any) -> None:
    if not isinstance(requests, list) or not 0 < len(requests) <= commands.MAX_TOGETHER:
        raise RefusedError(f"The field 'requests' of infer_all is an array of 1 to {commands.MAX_TOGETHER} requests", "requests")
    if any(not isinstance(request, dict) or request.get("command") != commands.INFER.name for request in requests):
        raise RefusedError("The field 'requests' of infer_all is for infer alone", "requests")
    for part, request in zip(Together(client_socket, len(requests)).parts, requests, strict=True):
        dispatch(fleet, part, request)


def _get_result(workspace: Workspace, fleet: Fleet, client_socket: ClientSocket, fields: Fields) -> None:
    result: Any
    if fields["job"] is None:
        result = workspace.look(lambda jobs: jobs.results())
    else:
        record = workspace.record(int(fields["job"]), whole=False)
        arrays = _arrays_as_json(record.state, record.value).get("result") if record.kind == "predict" else None
        result = arrays if isinstance(arrays, list) else record.state.result
    client_socket.respond({"request_result": True, "result": result})


def _describe(workspace: Workspace, fleet: Fleet, client_socket: ClientSocket, fields: Fields) -> None:
    client_socket.respond({"request_result": True, "result": _describe_model(workspace, fleet)})


def _describe_model(workspace: Workspace, fleet: Fleet) -> dict[str, Any] | None:
    model = fleet.find(workspace)
    if model is not None:
        return model.describe()
    known = fleet.catalog.describe(workspace)
    if known is None:
        return None
    waiting = workspace.look(lambda jobs: jobs.counts[JobState.QUEUED] + jobs.counts[JobState.RUNNING])
    row = {"workspace": workspace.name, "state": "ready", "version": known["version"], "waiting": waiting}
    return {**known, "replicas": [with_node(row, workspace)]}


def _ask_model(
    workspace: Workspace,
    fleet: Fleet,
    client_socket: ClientSocket,
    fields: Fields,
    argument: dict[str, Any],
    make: Make,
) -> None:
    """Queue a prediction, in whosever words."""
    packed, model = Packed.of(argument), fleet.find(workspace)
    if model is None:
        _push(workspace, fleet, client_socket, fields, prediction(workspace, fleet.catalog, packed), make)
        return
    end = Prediction(model, fleet.catalog, make, fields, packed)
    end.send(getattr(client_socket, "identity", None))
    end.answer(client_socket)


def _push(
    workspace: Workspace,
    fleet: Fleet,
    client_socket: ClientSocket,
    fields: Fields,
    call: Call,
    make: Make,
) -> None:
    catalog, identity = fleet.catalog, getattr(client_socket, "identity", None)

    def push(then: Then) -> int:
        def note(record: JobRecord) -> None:
            catalog.ended(workspace, record)
            then(record)

        path, time_limit = fields.get("path", ""), fields.get("time_limit")
        return workspace.call(call, path, time_limit=time_limit, identity=identity, then=note)

    push_and_answer(workspace, client_socket, push, fields["timeout"], answer_maker(catalog, workspace, make))


def _nothing(state: JobState, value: Value | None) -> dict[str, Any]:
    return {}


def _description(state: JobState, value: Value | None) -> dict[str, Any]:
    return {"value": None if value is None else value.json}


def _arrays(state: JobState, value: Value | None) -> dict[str, Any]:
    """Return the arrays of a prediction that ran: they take the place of "it ran through"."""
    return {} if value is None or state is not JobState.DONE else {"result": value.packed}


def _arrays_as_json(state: JobState, value: Value | None) -> dict[str, Any]:
    return {} if value is None or state is not JobState.DONE else {"result": value.json}


def _body(max_batch: int, state: JobState, value: Value | None) -> dict[str, Any]:
    """Return the body for an adapter of the gateway, what stands before it, and what tells the gateway what to send together."""
    return {**_arrays(state, value), **_description(state, value), "max_batch": max_batch}


_HANDLERS: Mapping[str, Callable[[Workspace, Fleet, ClientSocket, Fields], None]] = {
    "deploy": _deploy,
    "update": _update,
    "undeploy": _undeploy,
    "predict": _predict,
    "describe": _describe,
    "infer": _infer,
    "get_result": _get_result,
}
