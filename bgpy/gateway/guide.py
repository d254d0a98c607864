"""
The API guide that ``POST /`` answers: Pserve's own, made from the doors, so that it is true of whatever has been added since.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from bgpy.gateway.doors import Door
from bgpy.tasks.schema import REQUIRED, Command, Field

#: What the gateway fills in itself.
OWN_FIELDS = frozenset({"encoding"})


def make_guide(doors: Iterable[Door]) -> dict[str, Any]:
    """Return the guide: what each POST takes and answers, by its path with a slash at its end."""
    return {_slashed(door.path): _entry(door) for door in doors if door.method == "POST"}


def own_fields(command: Command) -> tuple[Field, ...]:
    """Return the fields of a command that a client of the gateway may say."""
    return tuple(field for field in command.fields if field.name not in OWN_FIELDS)


def _slashed(path: str) -> str:
    return path if path.endswith("/") else f"{path}/"


def _entry(door: Door) -> dict[str, Any]:
    command = door.command
    if command is None:
        context, request, result = door.summary.rstrip("."), door.request, door.result
    else:
        context = command.guide or command.help.rstrip(".")
        request = {field.name: describe(field) for field in own_fields(command)} or None
        result = command.guide_result or command.result.rstrip(".")
    response = result if door.answers == "status" else {"request_result": "Request result", "result": result}
    return {"context": context, "json": {"request": request, "response": response}}


def describe(field: Field) -> str:
    """Return the text of a field: Pserve's, or one in its manner."""
    if field.guide:
        return field.guide
    text = field.help.rstrip(".")
    if field.default is REQUIRED:
        return f"{text}(Necessary field)"
    return text if field.default is None else f"{text}(Default:{json.dumps(field.default)})"
