"""
From a message to a run session, and from what that says to the answer: a message of the Runtime server in the usual envelope.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from bgpy.encoding import to_json
from bgpy.errors import (
    BgpyError,
    ModelDataError,
    ModelError,
    OverloadedError,
    PlaceholderNotFoundError,
    PredictionFailedError,
    RefusedError,
    SerializationError,
    SessionNotFoundError,
    StoreError,
)
from bgpy.inspection.windows import read_window
from bgpy.sockets import ClientSocket
from bgpy.tasks.runtime import commands
from bgpy.tasks.runtime.messages import FIRST, Message, Status, Story
from bgpy.tasks.runtime.predictions import Prediction
from bgpy.tasks.runtime.sessions import ANNOUNCE, RunSession, Sessions
from bgpy.tasks.runtime.uploads import check_upload
from bgpy.tasks.schema import checker, make_plain, unknown_command
from bgpy.tasks.workspace.answering import SMALL_ANSWER, answer_at_end, refused

#: Seconds of silence after which a listener gets a sign of life: without sending, nobody learns that a client has gone.
ALIVE_INTERVAL = 20.0
#: Seconds that the core waits longer than a prediction may take, which is always answered.
_MARGIN = 60.0

_CHECKS = {command.name: checker(command) for command in commands.COMMANDS}

#: What is refused; all else is a defect.
_FAILURES = (OverloadedError, RefusedError, SerializationError, StoreError)

Fields = dict[str, Any]


def dispatch(sessions: Sessions, client_socket: ClientSocket, message: Mapping[str, Any]) -> None:
    """
    Answer one request; who waits for the end of a run or of a prediction is answered then, from another thread.

    What is refused, and a prediction that failed, is answered, not raised: ``{"request_result": False, "result": REASON, "field":
    NAME_OR_NONE, "error": TYPE}``, of a model that raised with ``traceback``, ``job`` and ``state``.
    """
    name = message.get("command")
    try:
        if not isinstance(name, str) or name not in _CHECKS:
            raise unknown_command(message, _CHECKS)
        fields = _CHECKS[name](message)
        if name in _ANSWERING:
            _ANSWERING[name](sessions, fields, client_socket)
            return
        result = _HANDLERS[name](sessions, fields)
    except _FAILURES as failure:
        client_socket.respond(refused(failure))
    else:
        client_socket.respond({"request_result": True, "result": result})


def _failed(failure: PredictionFailedError) -> dict[str, Any]:
    text = f"{failure.type_name}: {failure.message}".rstrip(": ")
    return {
        "request_result": False,
        "result": text,
        "field": None,
        "error": failure.type_name,
        "traceback": failure.traceback_text,
        "job": failure.number,
        "state": failure.state,
    }


def _run(sessions: Sessions, fields: Fields) -> Message:
    python = fields["python"]
    uploads = check_upload(python["number"], python["files"], python["mainfile"])
    session = sessions.start(uploads, python["mainfile"])
    return _story(session).started()


def _get_placeholder(sessions: Sessions, fields: Fields) -> Message:
    asked = fields["placeholder"]
    session, window = sessions.find(asked["sessionId"]), read_window(asked["window"])
    answer = session.ask("value", {"name": asked["name"], "window": window})
    found = _found(asked["name"], answer)
    return {**_message("[placeholder]:VALUE", session), "name": asked["name"], "value_type": found.pop("type"), **found}


def _get_stats(sessions: Sessions, fields: Fields) -> Message:
    asked = fields["placeholder"]
    session = sessions.find(asked["sessionId"])
    found = _found(asked["name"], session.ask("statistics", {"name": asked["name"]}))
    return {**_message("[placeholder]:STATS", session), "name": asked["name"], **found}


def _found(name: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Return what the worker says of a placeholder; raises PlaceholderNotFoundError."""
    if not answer.pop("found"):
        raise PlaceholderNotFoundError(name)
    return answer


def _seconds(timeout: float) -> float:
    if timeout > commands.MAX_TIMEOUT:
        raise RefusedError(f"The field 'timeout' is at most {commands.MAX_TIMEOUT:,} seconds", "timeout")
    return timeout


def _run_model(sessions: Sessions, fields: Fields, client_socket: ClientSocket) -> None:
    """Answer at the end of the prediction, or when it was stopped; does not block where it may defer."""
    asked = fields["model"]
    if not asked["is_data"] and not isinstance(asked["data"], str):
        raise RefusedError("The field 'data' of model is the path of a file, a string, where 'is_data' is false", "data")
    timeout, session = _seconds(asked["timeout"]), sessions.find(asked["sessionId"])
    try:
        data = make_plain(asked["data"])
    except TypeError:
        data = to_json(asked["data"])  # as `Run.run_model` does, arrays for instance
    over = threading.Event()

    def answer(prediction: Prediction) -> None:
        try:
            _respond(client_socket, _predicted(session, prediction))
        finally:
            prediction.record = None  # its deadline may be kept for longer, what is large must not
            over.set()

    def tell(prediction: Prediction) -> None:
        record = prediction.record
        if record is not None and record.size(SMALL_ANSWER) > SMALL_ANSWER:
            prediction.record = replace(record)  # a copy: what is large does not stay in the record
            threading.Thread(target=answer, args=(prediction,), name="bgpy-large-answer", daemon=True).start()
        else:
            answer(prediction)

    if client_socket.awaited and client_socket.deferrable:
        client_socket.defer(timeout + _MARGIN)
    sessions.predict(session, asked["name"], asked["is_data"], data, timeout, tell)
    if not client_socket.deferrable:
        over.wait(timeout + _MARGIN)


def _predicted(session: RunSession, prediction: Prediction) -> dict[str, Any]:
    """Return the envelope of what became of a prediction."""
    try:
        value = session.result_of(prediction)
    except PredictionFailedError as failure:
        return _failed(failure)
    except ModelError as failure:
        field = "data" if isinstance(failure, ModelDataError) else "name"
        return {**refused(failure), "field": field}
    except RefusedError as failure:
        return refused(failure)
    return {"request_result": True, "result": {**_message("[model]:RESULT", session), "name": prediction.name, "value": value}}


def _respond(client_socket: ClientSocket, envelope: dict[str, Any]) -> None:
    try:
        client_socket.respond(envelope)
    except BgpyError as error:
        if not client_socket.responded and client_socket.connected:
            client_socket.respond(refused(error))  # too large for this client, for instance


def _list_placeholders(sessions: Sessions, fields: Fields) -> Message:
    session = sessions.find(fields["sessionId"])
    found = session.ask("listing", {})
    return {**_message("[placeholder]:LIST", session), "placeholders": found["listed"], "left_out": found["left_out"]}


def _run_status(sessions: Sessions, fields: Fields, client_socket: ClientSocket) -> None:
    """Answer at once, or at the end of the run; does not block where it may defer."""
    timeout = _seconds(fields["timeout"])
    try:
        session = sessions.find(fields["sessionId"])
    except SessionNotFoundError:
        status = {"type": "[status]:STATUS", "sessionId": fields["sessionId"], "status": Status.NOT_FOUND.value}
        client_socket.respond({"request_result": True, "result": status})
        return
    if session.ending() is None:
        answer_at_end(session.workspace, client_socket, ANNOUNCE, timeout, lambda record, seconds: _status(session))
    else:
        client_socket.respond({"request_result": True, "result": _status(session)})


def _stop_run(sessions: Sessions, fields: Fields) -> Message:
    session = sessions.find(fields["sessionId"])
    session.stop()
    return _status(session)


def _list_runs(sessions: Sessions, fields: Fields) -> Message:
    return {"type": "[status]:LIST", "sessions": [_describe(session) for session in sessions.all()]}


def _describe(session: RunSession) -> dict[str, Any]:
    ending = session.ending()
    return {
        "sessionId": session.id,
        "status": session.status.value,
        "mainfile": session.mainfile,
        "files": session.files,
        "started": session.started,
        "ended": None if ending is None else ending.time,
        "placeholders": None if ending is None else ending.placeholders,
    }


def _forget_run(sessions: Sessions, fields: Fields) -> Message:
    session = sessions.find(fields["sessionId"])
    sessions.forget(session)
    return _message("[status]:FORGOTTEN", session)


def _story(session: RunSession) -> Story:
    return Story(session.id, session.mainfile)


def _status(session: RunSession) -> Message:
    return {**_message("[status]:STATUS", session), "status": session.status.value}


def _message(kind: str, session: RunSession) -> Message:
    return {"type": kind, "sessionId": session.id}


def _watch(sessions: Sessions, fields: Fields, client_socket: ClientSocket) -> None:
    """Stream what a run tells until it has ended, or the client is gone."""
    session, since = sessions.find(fields["sessionId"]), int(fields["since"])
    if not client_socket.awaited:
        return

    def tell(message: Message, *, more: bool = True) -> None:
        client_socket.respond({"request_result": True, "result": message}, more=more)

    story = _story(session)
    if since < FIRST:
        tell(story.started())
        since = FIRST
    watcher = session.log.watch(since)
    # After the watcher has its place: an end that comes from now on is an event that it will see.
    ending = session.ending()
    while client_socket.connected:
        events = watcher.next(0.0 if ending is not None else ALIVE_INTERVAL, time.time())
        numbers = [event["number"] for event in events if event["event"] == "finished" and event["job"] == ANNOUNCE]
        for message in story.tell(event for event in events if not numbers or event["number"] < numbers[0]):
            tell(message)
        # An end that is older than what was asked for, or than the log, is told all the same.
        ending = session.ending() if numbers else ending
        if ending is not None:
            tell(story.ended(ending, numbers[0] if numbers else watcher.position), more=False)
            return
        if watcher.ended:
            tell(story.forgotten(watcher.position), more=False)
            return
        if not events:
            tell(story.alive(watcher.position))


_HANDLERS: Mapping[str, Callable[[Sessions, Fields], Message]] = {
    "run": _run,
    "get_placeholder": _get_placeholder,
    "get_stats": _get_stats,
    "list_placeholders": _list_placeholders,
    "stop_run": _stop_run,
    "list_runs": _list_runs,
    "forget_run": _forget_run,
}

#: Those that answer by themselves.
_ANSWERING: Mapping[str, Callable[[Sessions, Fields, ClientSocket], None]] = {
    "run_model": _run_model,
    "run_status": _run_status,
    "watch_run": _watch,
}
