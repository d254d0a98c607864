"""
The Open Inference Protocol (KServe v2), below ``/v2``: its paths and its statuses, and its extensions for binary tensors, the
model repository and statistics. What is in the bodies of inferences the worker knows.
"""

from __future__ import annotations

import re
from typing import Any

from bgpy._version import __version__
from bgpy.errors import RefusedError
from bgpy.gateway.answers import Answer, Fault, json_answer
from bgpy.gateway.doors import Call, Door, decode
from bgpy.gateway.limits import parse_object
from bgpy.gateway.model_metadata import inference_metadata
from bgpy.gateway.models import Models, Unknown
from bgpy.gateway.upstream import OWN_TIMEOUT
from bgpy.tasks.schema import is_type
from bgpy.tasks.tensorflow.commands import DEPLOY

_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([0-9]{1,19}))?(/infer|/ready|/stats)?")
_REPOSITORY = re.compile(r"/v2/repository(?:/([^/]+))?/(?:index|models/([^/]+)/(load|unload))")
_EXTENSIONS = ("binary_tensor_data", "model_repository", "statistics")
_VERSION = "/versions/{version}"
#: What a load's config may say: all that a deploy takes, but for what the gateway says itself.
_CONFIG = tuple(field.name for field in DEPLOY.fields if field.name not in ("name", "timeout", "time_interval"))
_CONFIG_HELP = f"A JSON text; its fields are {', '.join(_CONFIG)}, as deploy has them; and update, true for an update."
_HEADER_LENGTH = re.compile(r"[0-9]{1,18}")


class OpenInference:
    """The dialect of the Open Inference Protocol."""

    prefix = "/v2"

    def __init__(self, models: Models) -> None:
        self._models = models
        self._fixed = {
            path: Door(path, "GET", endpoint, summary, answers="model")
            for path, endpoint, summary in (
                ("/v2", self._server, "Tell name, version and extensions."),
                ("/v2/health/live", self._live, "Whether the gateway is alive."),
                ("/v2/health/ready", self._ready, "Whether the server answers."),
                ("/v2/models/stats", self._all_stats, "Count the inferences of all models."),
            )
        }
        self._of_models = {
            (version, part): Door(f"/v2/models/{{name}}{version}{part}", "GET", endpoint, summary, answers="model")
            for version in ("", _VERSION)
            for part, endpoint, summary in (
                ("", self._metadata, "Tell the inputs and outputs of a model."),
                ("/ready", self._model_ready, "Whether a model is deployed."),
                ("/stats", self._stats, "Count the inferences of a model."),
            )
        }
        for version in ("", _VERSION):
            path = f"/v2/models/{{name}}{version}/infer"
            self._of_models[version, "/infer"] = Door(path, "POST", self._infer, "Run a model.", answers="model")
        self._repository = {
            action: Door(path, "POST", endpoint, summary, request=_object(**fields), answers=answers)
            for action, path, endpoint, summary, fields, answers in (
                (
                    None, "/v2/repository/index", self._index, "List the workspaces, and the models in them.",
                    {"ready": {"type": "boolean", "description": "Whether to list only those with a model."}}, "model",
                ),
                (
                    "load", "/v2/repository/models/{name}/load", self._load, "Deploy a model, or update it.",
                    {"parameters": _object(config={"type": "string", "description": _CONFIG_HELP})}, "model nothing",
                ),
                (
                    "unload", "/v2/repository/models/{name}/unload", self._unload, "Undeploy a model.",
                    {"parameters": _object(unload_dependents={"type": "boolean"})}, "model nothing",
                ),
            )
        }  # fmt: skip
        self.doors = (*self._fixed.values(), *self._of_models.values(), *self._repository.values())

    def find(self, method: str, path: str) -> tuple[Door, tuple[str | None, ...]]:
        """Return the door and its arguments: of a model name and version."""
        arguments: tuple[str | None, ...] = ()
        door = self._fixed.get(path)
        if door is None:
            match = _MODEL.fullmatch(path)
            if match is not None:
                name, version, part = match.groups()
                door = self._of_models["" if version is None else _VERSION, part or ""]
                arguments = (name, version)
            else:
                match = _REPOSITORY.fullmatch(path)
                if match is None:
                    raise Fault(404, f"There is no {path:.200}")
                repository, name, action = match.groups()
                if repository is not None:
                    raise Fault(501, "There is one repository, which has no name")
                door, arguments = self._repository[action], (name,)
        if door.method != method:
            allow = "GET, HEAD" if door.method == "GET" else door.method
            raise Fault(405, f"The method here is {allow}, not {method:.20}", {"allow": allow})
        return door, arguments

    async def _infer(self, call: Call) -> Answer:
        name, version = call.arguments
        lengths = call.facts.headers.get("inference-header-content-length")
        length = None
        if lengths is not None:
            if len(lengths) != 1 or _HEADER_LENGTH.fullmatch(lengths[0]) is None:
                raise Fault(400, "Inference-Header-Content-Length is not one number of bytes")
            length = int(lengths[0])
        decoded = decode(name)
        try:
            return await self._models.infer(call, decoded, "v2", "infer", version, length)
        except Unknown as unknown:
            raise Unknown(f"{_unknown(decoded, version)}: {unknown.reason}") from None

    async def _server(self, call: Call) -> Answer:
        return json_answer({"name": "bgpy", "version": __version__, "extensions": list(_EXTENSIONS)})

    async def _live(self, call: Call) -> Answer:
        return json_answer({"live": True})

    async def _ready(self, call: Call) -> Answer:
        await self._models.ask(call, {"command": "get_workspace"}, OWN_TIMEOUT)
        return json_answer({"live": True, "ready": True})

    async def _describe(self, call: Call) -> dict[str, Any]:
        name, version = decode(call.arguments[0]), call.arguments[1]
        try:
            return await self._models.describe(call, name, version)
        except Unknown as unknown:
            raise Unknown(f"{_unknown(name, version)}: {unknown.reason}") from None

    async def _metadata(self, call: Call) -> Answer:
        return json_answer(inference_metadata(await self._describe(call)))

    async def _model_ready(self, call: Call) -> Answer:
        described = await self._describe(call)
        return json_answer({"name": described["name"], "ready": True})

    async def _stats(self, call: Call) -> Answer:
        return json_answer({"model_stats": [_count(await self._describe(call))]})

    async def _all_stats(self, call: Call) -> Answer:
        stats = [_count(described) for _, described in await self._all(call) if described is not None]
        return json_answer({"model_stats": stats})

    async def _index(self, call: Call) -> Answer:
        fields = await self._fields(call, "ready")
        only_ready = fields.get("ready", False)
        if not isinstance(only_ready, bool):
            raise Fault(400, "The field 'ready' is true or false")
        return json_answer(
            [
                _entry(name, described)
                for name, described in await self._all(call)
                if described is not None or not only_ready
            ]
        )  # fmt: skip

    async def _all(self, call: Call) -> list[tuple[str, dict[str, Any] | None]]:
        """Return each workspace's name and what is deployed there."""
        found = []
        for name in await self._models.ask(call, {"command": "get_workspace"}):
            try:
                found.append((name, await self._models.ask(call, {"command": "describe", "name": name})))
            except Unknown:
                continue  # destroyed since
        return found

    async def _load(self, call: Call) -> Answer:
        name = decode(call.arguments[0])
        config = _read_config((await self._fields(call, "parameters")).get("parameters", {}))
        update = config.pop("update", False)
        message = {"command": "update" if update else "deploy", "name": name, **config}
        if "path" not in config:
            message = {**await self._again(call, name, update), **message}
        try:
            await self._models.change(call, message)
        except Unknown:
            if update:
                raise
            made = await self._create(call, name)
            try:
                await self._models.change(call, message)
            except Fault as fault:
                if made and fault.status != 504:  # for this model alone; where that takes long, it may still come
                    await self._models.ask(call, {"command": "destroy_workspace", "name": name})
                raise
        return _nothing()

    async def _again(self, call: Call, name: str, update: bool) -> dict[str, Any]:
        """Return the fields with which what is deployed was deployed."""
        try:
            described = await self._models.describe(call, name)
        except Unknown as unknown:
            how = 'give one in parameters.config, a JSON text such as {"path": "/models/a"}'
            raise Fault(400, f"{unknown.reason.rstrip('.')}, so there is no path to load from: {how}") from None
        fields = ("path",) if update else ("path", "device", "max_batch", "safe_mode")
        return {field: described[field] for field in fields}

    async def _create(self, call: Call, name: str) -> bool:
        """Make a workspace; False where somebody else was faster."""
        try:
            await self._models.ask(call, {"command": "create_workspace", "name": name})
        except Fault as fault:
            if fault.status != 400 or name not in await self._models.ask(call, {"command": "get_workspace"}):
                raise
            return False
        return True

    async def _unload(self, call: Call) -> Answer:
        parameters = (await self._fields(call, "parameters")).get("parameters", {})
        # A model of ours has no dependents, so it makes no difference what is said of them.
        if not isinstance(parameters, dict) or not parameters.keys() <= {"unload_dependents"}:
            raise Fault(400, "The field 'parameters' is an object; it may have 'unload_dependents'")
        await self._models.change(call, {"command": "undeploy", "name": decode(call.arguments[0])})
        return _nothing()

    async def _fields(self, call: Call, known: str) -> dict[str, Any]:
        fields = parse_object(await self._models.read_body(call))
        for name in fields:
            if name != known:
                raise Fault(400, f"The body has a field {name!r:.100}; it may have {known!r}")
        return fields


def _object(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "additionalProperties": False}


def _read_config(parameters: Any) -> dict[str, Any]:
    """Return the fields of a load's config."""
    if not isinstance(parameters, dict):
        raise Fault(400, "The field 'parameters' is an object")
    for name in parameters:
        if name.startswith("file:"):
            raise Fault(400, "A model is loaded from a path on the server; files in a request are not taken")
        if name != "config":
            raise Fault(400, f"A load has a parameter {name!r:.100}; it may have 'config'")
    text = parameters.get("config", "{}")
    if not isinstance(text, str):
        raise Fault(400, "The parameter 'config' is a JSON text")
    try:
        config = parse_object(text)
    except RefusedError as refused:
        raise Fault(400, f"The parameter 'config': {refused}") from None
    for name in config:
        if name != "update" and name not in _CONFIG:
            raise Fault(400, f"The config has a field {name!r:.100}; it may have {', '.join(_CONFIG)}, update")
    if not is_type(config.get("update", False), "boolean"):
        raise Fault(400, "The field 'update' of the config is true or false")
    return config


def _count(described: dict[str, Any]) -> dict[str, Any]:
    """Return the statistics of a model, as far as they are known: how long it took is not counted."""
    last = described["last_prediction"]
    return {
        "name": described["name"],
        "version": str(described["version"]),
        "last_inference": 0 if last is None else int(last * 1000),
        "inference_count": described["predictions"],
        "execution_count": described["executions"],
        "inference_stats": {
            "success": {"count": described["predictions"]},
            "fail": {"count": described["failed_predictions"]},
        },
    }


def _entry(name: str, described: dict[str, Any] | None) -> dict[str, Any]:
    if described is None:
        return {"name": name, "state": "UNAVAILABLE", "reason": "nothing is deployed"}
    return {"name": name, "version": str(described["version"]), "state": "READY", "reason": ""}


def _unknown(name: str, version: str | None) -> str:
    return f"Request for unknown {'model' if version is None else f'version {version} of model'} {name!r}"


def _nothing() -> Answer:
    return Answer(200, b"", [])
