"""
The OpenAPI 3.1 description of ``/openapi.json``, made from the doors and the commands' fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from bgpy._version import __version__
from bgpy.gateway.doors import Door
from bgpy.gateway.guide import own_fields
from bgpy.tasks.schema import REQUIRED, Field

_SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"cookie": []}]
_ENVELOPE = {"$ref": "#/components/schemas/Envelope"}
_REFUSALS = {
    "400": "The request is malformed: its body is not JSON, or it has no proper Host.",
    "401": "Not logged in.",
    "403": "Sent by a page of another site, or for a host that is not this gateway's.",
    "404": "There is no such path.",
    "405": "The wrong method.",
    "408": "The body was not there in time.",
    "413": "The body is too large.",
    "415": "Without a Bearer token a body needs Content-Type: application/json.",
    "500": "The gateway failed.",
    "503": "The bgpy server cannot be reached.",
    "504": "The bgpy server did not answer in time.",
}
#: An argument in the path of a door.
_ARGUMENT = re.compile(r"\{([a-z]+)\}")
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {"type": "string", "minLength": 1, "description": "The name of the workspace with the model."},
    "version": {
        "type": "string",
        "pattern": "^[0-9]{1,19}$",
        "description": "The version: how many were deployed, up to this one.",
    },
}
#: What a door without a body never answers.
_OF_BODIES = frozenset({"408", "413", "415"})
_DESCRIPTION = """\
Named Python workspaces and whatever else a bgpy server runs, as JSON over HTTP. The status says what became of a request on its
way; 200 means that the server answered, and `request_result` whether it did what was asked. Paths may end with a slash or not.

`/watch` is a WebSocket, too: its first message is the JSON object that the POST takes as its body, and each message back is an
envelope with one event.

`/runtime` and `/requests` are WebSockets for many requests, a JSON object each, and for what is told of them. Who has sent no
token with the upgrade says `{"token": "…"}` first.

Below `/v1` is the REST API of TensorFlow Serving, below `/v2` the Open Inference Protocol (KServe v2). Both have statuses of
their own, and `{"error": …}` for an error.
"""


def make_openapi(doors: Iterable[Door], root_path: str = "") -> dict[str, Any]:
    """Return the description of an app that is mounted at `root_path`."""
    paths: dict[str, dict[str, Any]] = {}
    for door in doors:
        if door.method != "WEBSOCKET":
            path = f"{door.path}/" if door.command is not None else door.path
            paths.setdefault(path, {})[door.method.lower()] = _operation(door)
    return {
        "openapi": "3.1.0",
        "info": {"title": "bgpy", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": root_path or "/"}],
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": _security_schemes(), "responses": _responses()},
    }


def _operation(door: Door) -> dict[str, Any]:
    with_body = door.method == "POST"
    operation: dict[str, Any] = {
        "operationId": _name(door),
        "summary": door.summary,
        "responses": {"200": _success(door), **_failures(door)},
        "security": _SECURITY if door.access == "login" else [{}, *_SECURITY] if door.access == "page" else [],
    }
    arguments = _ARGUMENT.findall(door.path)
    if arguments:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": _ARGUMENTS[name]} for name in arguments
        ]  # fmt: skip
    elif door.method == "GET" and door.command is not None:
        operation["parameters"] = [
            {"name": field.name, "in": "query", "required": field.default is REQUIRED, "schema": _field_schema(field)}
            for field in own_fields(door.command)
        ]
    if with_body:
        schema = _body(door)
        operation["requestBody"] = {"required": "required" in schema, "content": {"application/json": {"schema": schema}}}
    return operation


def _name(door: Door) -> str:
    """Return a name that no other door has: /query_module is not /query/module."""
    segments = [re.sub("[^a-z0-9_]+", "_", segment).strip("_") for segment in door.path.strip("/").split("/")]
    return f"{door.method.lower()}_{'__'.join(segments) or 'root'}"


def _failures(door: Door) -> dict[str, Any]:
    if door.answers == "status":
        return {statuses: {"$ref": "#/components/responses/Status"} for statuses in ("4XX", "5XX")}
    if door.answers.startswith("model"):
        return {statuses: {"$ref": "#/components/responses/Error"} for statuses in ("4XX", "5XX")}
    return {
        status: {"$ref": f"#/components/responses/{status}"}
        for status in _REFUSALS
        if door.method == "POST" or status not in _OF_BODIES
    }


def _success(door: Door) -> dict[str, Any]:
    if door.answers in ("envelope", "text/event-stream"):
        text = door.result if isinstance(door.result, str) else ""
        result = door.command.result if door.command is not None else text or "The result."
        content: dict[str, Any] = {"application/json": {"schema": _ENVELOPE}}
        if door.answers == "text/event-stream":
            content["text/event-stream"] = {"schema": {"description": "Each event's data is an envelope, its id the number."}}
        return {"description": result, "content": content}
    if door.answers == "model nothing":
        return {"description": door.summary}
    if door.answers == "model":
        content = {"application/json": {"schema": {"type": ["object", "array"]}}}
        if door.path.endswith("/infer"):
            content["application/octet-stream"] = {"schema": {"description": "JSON and the tensors behind it."}}
        return {"description": door.summary, "content": content}
    if door.answers in ("json", "status"):
        return {"description": door.summary, "content": {"application/json": {"schema": {"type": "object"}}}}
    kinds = door.answers.split(" ")
    return {"description": door.summary, "content": {kind: {"schema": {"type": "string"}} for kind in kinds}}


def _body(door: Door) -> dict[str, Any]:
    if door.command is not None:
        return _object_schema(own_fields(door.command))
    if door.answers.startswith("model"):
        return door.request or {"type": "object"}
    schema = door.request if isinstance(door.request, dict) else None
    if schema is None:
        return {"type": "object"} if door.path != "/json_test" else {}
    return {
        "type": "object",
        "properties": {name: {"type": "string", "description": text} for name, text in schema.items()},
        "required": list(schema),
    }


def _object_schema(fields: Iterable[Field]) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {field.name: _field_schema(field) for field in fields},
        "additionalProperties": False,
    }
    required = [field.name for field in fields if field.default is REQUIRED]
    if required:
        schema["required"] = required
    return schema


def _field_schema(field: Field) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": field.help}
    if field.types:
        schema["type"] = field.types[0] if len(field.types) == 1 else list(field.types)
    if field.choices:
        schema["enum"] = list(field.choices)
    if field.minimum is not None:
        schema["minimum"] = field.minimum
    if field.fields and "object" in field.types:
        schema |= _object_schema(field.fields) | {"type": schema["type"]}
    if field.items and "array" in field.types:
        schema["items"] = _object_schema(field.fields) if field.items == "object" and field.fields else {"type": field.items}
    if field.default is not REQUIRED:
        schema["default"] = field.default
    return schema


def _schemas() -> dict[str, Any]:
    return {
        "Envelope": {
            "type": "object",
            "properties": {
                "request_result": {"type": "boolean", "description": "Whether the request was carried out."},
                "result": {"description": "The result; the reason where it was not carried out."},
                "field": {"type": ["string", "null"], "description": "The field at fault."},
                "error": {"description": "The kind of the error, by the name of its class; of a task that raised, all of it."},
                "executed": {
                    "type": ["boolean", "null"],
                    "description": "Of a request that got lost: whether it ran; null where nobody can know.",
                },
            },
            "required": ["request_result", "result"],
        }
    }


def _responses() -> dict[str, Any]:
    content = {"application/json": {"schema": _ENVELOPE}}
    error = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    status = {
        "type": "object",
        "properties": {"status": {"const": "Error"}, "message": {"type": "string"}},
        "required": ["status", "message"],
    }
    return {
        **{status: {"description": text, "content": content} for status, text in _REFUSALS.items()},
        "Error": {"description": "What is wrong.", "content": {"application/json": {"schema": error}}},
        "Status": {
            "description": "What is wrong; an envelope where the request never got there.",
            "content": {"application/json": {"schema": {"anyOf": [status, _ENVELOPE]}}},
        },
    }


def _security_schemes() -> dict[str, Any]:
    return {
        "bearer": {"type": "http", "scheme": "bearer", "description": "The token of the bgpy server."},
        "cookie": {"type": "apiKey", "in": "cookie", "name": "bgpy-PORT", "description": "What the log-in on the page gives."},
    }
