"""
The REST API of TensorFlow Serving, below ``/v1``: its paths, its texts and its statuses. What is in the bodies the worker knows.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from bgpy.errors import ModelNotFoundError
from bgpy.gateway import model_metadata
from bgpy.gateway.answers import Answer, Fault, json_answer
from bgpy.gateway.doors import Call, Door, decode
from bgpy.gateway.models import Models, Unknown

_MODEL = r"(?:/versions/(\d+)|/labels/([^/:]+))?"
_FLAGS = re.ASCII | re.IGNORECASE
_ASK = re.compile(rf"/v1/models(?:/([^/:]+))?{_MODEL}(/metadata)?", _FLAGS)
_RUN = re.compile(rf"/v1/models/([^/:]+){_MODEL}:(classify|regress|predict)", _FLAGS)
#: Digits of the largest version that there can be, in 64 bits.
_MAX_DIGITS = 19

_WHICH = ("", "/versions/{version}", "/labels/{label}")
_SUMMARIES = {
    "predict": "Run a signature on rows (instances) or columns (inputs).",
    "classify": "Run a signature on examples; each gives labels and scores.",
    "regress": "Run a signature on examples; each gives a number.",
}


class TensorFlowServing:
    """The dialect of TensorFlow Serving."""

    prefix = "/v1"

    def __init__(self, models: Models) -> None:
        self._models = models
        self._run = {
            (which, verb): Door(
                f"/v1/models/{{name}}{which}:{verb}", "POST", partial(self._infer, verb), summary, answers="model"
            )
            for which in _WHICH
            for verb, summary in _SUMMARIES.items()
        }
        self._ask = {
            (which, part): Door(f"/v1/models/{{name}}{which}{part}", "GET", endpoint, summary, answers="model")
            for which in _WHICH
            for part, endpoint, summary in (
                ("", self._status, "Tell the versions of a model and their states."),
                ("/metadata", self._metadata, "Tell the signatures of a model."),
            )
        }
        # Nothing here has a label, so what answers only that is not worth a description.
        doors = (*self._ask.values(), *self._run.values())
        self.doors = tuple(door for door in doors if "{label}" not in door.path)

    def find(self, method: str, path: str) -> tuple[Door, tuple[str | None, ...]]:
        """Return the door and its arguments: name, version and label."""
        if method == "POST":
            match = _RUN.fullmatch(path)
            if match is not None:
                name, version, label, verb = match.groups()
                return self._run[_which(version, label), verb.lower()], (name, version, label)
        elif method == "GET":
            match = _ASK.fullmatch(path)
            if match is not None:
                name, version, label, part = match.groups()
                return self._ask[_which(version, label), part.lower() if part else ""], (name, version, label)
        else:
            allow = "POST" if _RUN.fullmatch(path) else "GET, HEAD" if _ASK.fullmatch(path) else None
            if allow is not None:
                raise Fault(405, f"The method here is {allow}, not {method:.20}", {"allow": allow})
        raise Fault(400, f"Malformed request: {method} {path:.200}")

    async def _infer(self, verb: str, call: Call) -> Answer:
        name, version = _read(call)
        try:
            return await self._models.infer(call, name, "v1", verb, version)
        except Unknown:
            raise _not_found(name, version) from None

    async def _status(self, call: Call) -> Answer:
        name, version = _read(call)
        described: dict[str, Any] | None
        try:
            described = await self._models.describe(call, name)
        except Unknown:
            described = None
        try:
            return json_answer(model_metadata.serving_status(name, described, version))
        except ModelNotFoundError as error:
            raise Unknown(str(error)) from None

    async def _metadata(self, call: Call) -> Answer:
        name, version = _read(call)
        try:
            described = await self._models.describe(call, name, version)
        except Unknown:
            raise _not_found(name, version) from None
        return json_answer(model_metadata.serving_metadata(described))


def _which(version: str | None, label: str | None) -> str:
    return _WHICH[0] if version is label is None else _WHICH[1] if label is None else _WHICH[2]


def _read(call: Call) -> tuple[str, str | None]:
    """Return the name and the version that a path says."""
    name, version, label = call.arguments
    if name is None:
        raise Fault(400, "Missing model name in request.")
    if label is not None:  # nobody can give one here
        raise Fault(400, f"Unrecognized servable version label: {decode(label):.200}")
    if version is not None and len(version) > _MAX_DIGITS:
        raise Fault(400, f"Failed to convert version: {version:.50} to numeric.")
    return decode(name), version


def _not_found(name: str, version: str | None) -> Unknown:
    which = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return Unknown(f"Servable not found for request: {which}")
