"""
From a message to a command, and from its result to the answer.
"""

from __future__ import annotations

import keyword
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from bgpy.errors import OverloadedError, RefusedError, SerializationError, StoreError, WorkspaceNotFoundError
from bgpy.inspection.windows import read_window
from bgpy.sockets import ClientSocket
from bgpy.tasks.schema import checker, make_plain, unknown_command
from bgpy.tasks.workspace import commands
from bgpy.tasks.workspace.answering import Pushed, push_and_answer, refused
from bgpy.tasks.workspace.jobs import JobRecord
from bgpy.tasks.workspace.means import PLACEMENT, Options
from bgpy.tasks.workspace.outbox import Then
from bgpy.tasks.workspace.values import Packed
from bgpy.tasks.workspace.variables import (
    copy_variable,
    fetch_variables,
    lend_variable,
    list_variables,
    look_at,
    read_variables,
    return_variable,
    take_variable,
    write_variable,
)
from bgpy.tasks.workspace.workspace import Workspace
from bgpy.tasks.workspace.workspaces import Workspaces

#: Bytes of JSON from which on a variable is only described where all are asked for.
DEFAULT_LIMIT = 1 << 20
#: Seconds of silence after which a watcher gets a sign of life: without sending, nobody learns that a client has gone.
ALIVE_INTERVAL = 20.0

_CHECKS = {command.name: checker(command) for command in commands.COMMANDS}
_KINDS: Mapping[int | str, str] = {0: "file", 1: "script", "file": "file", "script": "script"}

Fields = dict[str, Any]
#: What a handler returns that has seen to the answer itself.
ANSWERED: Final = object()


def dispatch(workspaces: Workspaces, client_socket: ClientSocket, message: Mapping[str, Any], others: Iterable[str] = ()) -> None:
    """
    Answer one request; blocks for as long as it asks to wait.

    What is refused is answered, not raised: ``{"request_result": False, "result": REASON, "field": NAME_OR_NONE}``. After
    ``destroy`` everything but ``create`` is answered with false, as in the original.

    Parameters
    ----------
    others
        Commands that the caller answers itself: named beside those of this set where there is none of a name.
    """
    name = message.get("command")
    if not workspaces.on and name != commands.CREATE.name:
        client_socket.respond({"request_result": False, "result": False})
        return
    try:
        if not isinstance(name, str) or name not in _CHECKS:
            raise unknown_command(message, (*_CHECKS, *others))
        fields = _CHECKS[name](message)
        if name == commands.WATCH.name:
            _watch(workspaces, client_socket, fields)
            return
        result = _HANDLERS[name](workspaces, client_socket, fields)
    except (OverloadedError, RefusedError, SerializationError, StoreError) as failure:
        client_socket.respond(refused(failure))
    else:
        if result is not ANSWERED:
            client_socket.respond({"request_result": True, "result": result})


def _create(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> bool:
    workspaces.switch_on()
    return True


def _destroy(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> bool:
    workspaces.switch_off()
    return True


def _create_workspace(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> str:
    options = {field: fields[field] for field in Options._fields if fields.get(field) is not None}
    placement = {field: fields[field] for field in PLACEMENT if fields[field] is not None}
    if placement:
        options["placement"] = placement
    for field in ("memory_limit", "max_jobs"):
        if field in options:
            options[field] = int(options[field])
    return workspaces.create(fields["name"], **options).name


def _destroy_workspace(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> bool:
    workspaces.destroy(fields["name"])
    return True


def _get_workspace(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> list[str]:
    return workspaces.names()


def _get_status(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> dict[str, Any]:
    return workspaces[fields["name"]].status()


def _push_job(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> Any:
    workspace = workspaces[fields["name"]]
    variables = fields["variables"]

    def push(then: Then) -> int:
        return workspace.push(
            _KINDS[fields["type"]],
            fields["job"],
            clear=fields["clear"],
            time_limit=fields["time_limit"],
            identity=getattr(client_socket, "identity", None),
            then=then,
        )

    def make(record: JobRecord, waited: float) -> Fields:
        answer = job_result(record, waited)
        answer |= _value(record, fields["encoding"])
        answer["output"] = _output(record)
        answer["variable"] = {}
        return answer

    if variables is False or variables == [] or not client_socket.awaited:
        push_and_answer(workspace, client_socket, push, fields["timeout"], make)
        return ANSWERED
    begun, pushed = time.monotonic(), Pushed(workspace)
    number = push(pushed.note)
    pushed.wait(number, fields["timeout"])
    answer = make(pushed.record(number), time.monotonic() - begun)
    if answer["finish"]:
        answer["variable"] = _variables_of(workspace, fields)
    return answer


def _clear(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> Any:
    workspace = workspaces[fields["name"]]
    identity = getattr(client_socket, "identity", None)

    def push(then: Then) -> int:
        return workspace.push("clear", "", clear=True, identity=identity, then=then)

    push_and_answer(workspace, client_socket, push, fields["timeout"], job_result)
    return ANSWERED


def job_result(record: JobRecord, waited: float) -> Fields:
    """Return what the answer tells of any job, in the words of the original, and its state and error."""
    state = record.state
    return {
        "job": record.number,
        "finish": state.ended,
        "result": state.result,
        "time": waited,
        "state": state.text,
        "error": record.error,
    }


def _variables_of(workspace: Workspace, fields: Fields) -> dict[str, Any]:
    wanted = fields["variables"]
    names = None if wanted is True else list(wanted)
    try:
        return read_variables(workspace, names, fields["encoding"], _limit(fields, DEFAULT_LIMIT))
    except RefusedError:
        return {}  # the job's end is what was asked for, and it is known; get_variable says why these are not


def _get_job(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> int:
    count: int = workspaces[fields["name"]].status()["JOB_COUNT"]
    return count


def _get_finish(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> bool:
    return workspaces[fields["name"]].state(_number(fields)).ended


def _get_result(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> Any:
    workspace, number = workspaces[fields["name"]], _number(fields)
    return workspace.look(lambda jobs: jobs.results()) if number is None else workspace.state(number).result


def _get_variable(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> Any:
    workspace, wanted, encoding = workspaces[fields["name"]], fields["variable"], fields["encoding"]
    if isinstance(wanted, str):
        return read_variables(workspace, [wanted], encoding, _limit(fields, None)).get(wanted)
    if wanted is None:
        return read_variables(workspace, None, encoding, _limit(fields, DEFAULT_LIMIT))
    values = read_variables(workspace, list(wanted), encoding, _limit(fields, None)) if wanted else {}
    return {name: values.get(name) for name in wanted}


def _list_variables(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> dict[str, Any]:
    found = list_variables(workspaces[fields["name"]])
    return {"variables": found["listed"], "left_out": found["left_out"]}


def _get_value(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> dict[str, Any]:
    return look_at(workspaces[fields["name"]], "value", fields["variable"], read_window(fields["window"]))


def _get_statistics(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> dict[str, Any]:
    statistics: dict[str, Any] = look_at(workspaces[fields["name"]], "statistics", fields["variable"])["value"]
    return statistics


def _set_variable(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> bool:
    workspace, name, value = workspaces[fields["name"]], fields["variable"], fields["value"]
    _check_variable(name, "variable")
    try:
        value = value if isinstance(value, Packed) else make_plain(value)
    except TypeError as error:
        raise RefusedError(f"The field 'value' of set_variable is JSON data, or a Packed: {error}", "value") from None
    write_variable(workspace, name, value)
    return True


def _copy_variable(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> bool:
    new_name = fields["variable"] if fields["new_name"] is None else fields["new_name"]
    _check_variable(new_name, "new_name" if fields["new_name"] is not None else "variable")
    source = workspaces[fields["name"]]
    try:
        target = workspaces[fields["to"]]
    except WorkspaceNotFoundError as error:
        raise RefusedError(str(error).rstrip("."), "to") from None
    copy_variable(source, fields["variable"], target, new_name)
    return True


def _lend_variable(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> dict[str, str]:
    return lend_variable(workspaces[fields["name"]], fields["variable"])


def _fetch_variable(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> dict[str, Any]:
    names = fields["variable"]
    return fetch_variables(workspaces[fields["name"]], None if names is None else list(names), fields["node"])


def _return_variable(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> bool:
    return_variable(workspaces[fields["name"]], fields["key"])
    return True


def _take_variable(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> bool:
    _check_variable(fields["variable"], "variable")
    return take_variable(workspaces[fields["name"]], fields["variable"], fields["reference"], fields["packed"])


def _check_variable(name: str, field: str) -> None:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise RefusedError(f"{name!r:.100} is no name of a variable", field)


def _get_output(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> dict[str, Any]:
    return _output(workspaces[fields["name"]].record(_number(fields)))


def _get_record(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> dict[str, Any]:
    workspace = workspaces[fields["name"]]
    record = workspace.record(_number(fields))
    if fields["timeout"] and not record.state.ended and client_socket.awaited:
        workspace.wait(record.number, fields["timeout"])
        record = workspace.record(record.number)
    return {
        "number": record.number,
        "state": record.state.value,
        "result": record.state.result,
        **_value(record, fields["encoding"]),
        "error": record.error,
        "output": _output(record),
        "times": {"pushed": record.pushed, "started": record.started, "ended": record.ended},
        "type": record.kind,
        "job": record.text,
        "clear": record.clear,
        "time_limit": record.time_limit,
    }


def _interrupt(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> bool:
    return workspaces[fields["name"]].interrupt(_number(fields))


def _cancel(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> bool:
    return workspaces[fields["name"]].cancel(int(fields["job"]))


def _kill(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> bool:
    return workspaces[fields["name"]].kill(_number(fields))


def _resume(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> int:
    return workspaces[fields["name"]].resume(_number(fields))


def _get_metrics(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> dict[str, Any]:
    return workspaces.metrics()


def _get_overview(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> dict[str, Any]:
    return workspaces.overview(fields["since"])


def _get_nodes(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> list[dict[str, Any]]:
    return workspaces.nodes()


def _watch(workspaces: Workspaces, client_socket: ClientSocket, fields: Fields) -> None:
    """Stream events until the job has ended, the workspace is gone, or the client is."""
    workspace = workspaces[fields["name"]]
    until = None if fields["until"] is None else int(fields["until"])
    if until is None and client_socket.awaited and not client_socket.streamed:
        how = "ask for it as one, with Client.stream or POST /watch, or say until the end of which job"
        raise RefusedError(f"watch is a stream, which would be waited for in vain: {how}", "until")
    watcher = workspace.log.watch(None if fields["since"] is None else int(fields["since"]))
    # After the watcher has its place: an end that comes from now on is an event that it will see.
    over = until is not None and workspace.state(until).ended
    if not client_socket.awaited:
        return
    while True:
        events = watcher.next(0.0 if over else ALIVE_INTERVAL, time.time())
        for event in events:
            last = event["event"] == "finished" and event["job"] == until
            client_socket.respond({"request_result": True, "result": event}, more=not last)
            if last:
                return
        if until is not None and over:
            # Its end is older than what was asked for, or than the log.
            record = workspace.record(until)
            finished = {"event": "finished", "number": watcher.position, "time": record.ended, "job": until}
            details = {"state": record.state.value, "result": record.state.result, "error": record.error}
            client_socket.respond({"request_result": True, "result": {**finished, **details}})
            return
        if watcher.ended:
            gone = {"event": "gone", "number": watcher.position, "time": time.time(), "job": None}
            client_socket.respond({"request_result": True, "result": gone})
            return
        if not events:
            alive = {"event": "alive", "number": watcher.position, "time": time.time(), "job": None}
            client_socket.respond({"request_result": True, "result": alive}, more=True)
        if not client_socket.connected:
            return


def _number(fields: Fields) -> int | None:
    return None if fields["job"] is None else int(fields["job"])


def _limit(fields: Fields, default: int | None) -> int | None:
    return default if fields["limit"] is None else int(fields["limit"])


def _value(record: JobRecord, encoding: str) -> dict[str, Any]:
    value = record.value
    if value is None:
        return {"value": None, "value_type": None}
    packed = encoding == "objects" and value.packed is not None
    told = {"value": value.packed if packed else value.json, "value_type": value.type}
    return {**told, "nulls": list(value.nulls)} if value.nulls and not packed else told


def _output(record: JobRecord) -> dict[str, Any]:
    return {
        "stdout": record.stdout.decode("utf-8", "replace"),
        "stderr": record.stderr.decode("utf-8", "replace"),
        "truncated": record.truncated,
    }


_HANDLERS: Mapping[str, Callable[[Workspaces, ClientSocket, Fields], Any]] = {
    "create": _create,
    "destroy": _destroy,
    "create_workspace": _create_workspace,
    "destroy_workspace": _destroy_workspace,
    "get_workspace": _get_workspace,
    "get_status": _get_status,
    "push_job": _push_job,
    "clear": _clear,
    "get_job": _get_job,
    "get_finish": _get_finish,
    "get_variable": _get_variable,
    "list_variables": _list_variables,
    "get_value": _get_value,
    "get_statistics": _get_statistics,
    "get_result": _get_result,
    "set_variable": _set_variable,
    "copy_variable": _copy_variable,
    "lend_variable": _lend_variable,
    "fetch_variable": _fetch_variable,
    "return_variable": _return_variable,
    "take_variable": _take_variable,
    "get_output": _get_output,
    "get_record": _get_record,
    "interrupt": _interrupt,
    "cancel": _cancel,
    "kill": _kill,
    "resume": _resume,
    "get_metrics": _get_metrics,
    "get_overview": _get_overview,
    "get_nodes": _get_nodes,
}
