"""A server that answers for models as a test tells it, with none behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bgpy.tasks.workspace.values import Packed
from support.gateways import Workspaces

TENSORS: dict[str, Any] = {
    "x": {"dtype": "float32", "shape": [None, 3], "tensor": "serving_default_x:0"},
    "y": {"dtype": "string", "shape": None, "tensor": "StatefulPartitionedCall:0"},
}


def description(name: str, version: int = 2) -> dict[str, Any]:
    """Return what is told of a model with one signature, x -> y."""
    signature = {"inputs": {"x": TENSORS["x"]}, "outputs": {"y": TENSORS["y"]}, "method": "tensorflow/serving/predict"}
    return {
        "name": name,
        "path": f"/models/{name}",
        "format": "saved_model",
        "platform": "tensorflow_savedmodel",
        "device": "/gpu:0",
        "version": version,
        "versions": {**{str(number): "END" for number in range(1, version)}, str(version): "AVAILABLE"},
        "load_time": 0.5,
        "max_batch": 7,
        "safe_mode": False,
        "predictions": 5,
        "executions": 3,
        "failed_predictions": 1,
        "last_prediction": 1700000000.25,
        "default_signature": "serving_default",
        "signatures": {"serving_default": signature},
    }


def job(state: str = "done", kind: str = "", message: str = "", **more: Any) -> dict[str, Any]:
    """Return what a job is answered with."""
    error = {"type": kind, "message": message, "traceback": "..."} if kind or message else None
    finish = state not in ("queued", "running", "held")
    return {
        "job": 9,
        "finish": finish,
        "result": state == "done" if finish else None,
        "time": 0.25,
        "state": state,
        "error": error,
        "value": None,
        **more,
    }


def inferred(*parts: bytes, content_type: str = "application/json", header_length: int | None = None) -> dict[str, Any]:
    """Return what an inference is answered with."""
    return job(result=Packed(b"", parts), value={"content_type": content_type, "header_length": header_length})


class AnyModel:
    """Has every model that is asked for, given to the tasks of a gateway's test."""

    def __init__(self, workspaces: Workspaces) -> None:
        workspaces.answers |= {
            "describe": lambda message: {"request_result": True, "result": description(message["name"])},
            "infer": lambda message: {"request_result": True, "result": inferred(b"{}")},
            "get_workspace": lambda message: {"request_result": True, "result": ["half"]},
            **{
                command: lambda message: {"request_result": True, "result": job()} for command in ("deploy", "update", "undeploy")
            },
        }


class ScriptedModels:
    """
    Answers to the commands of models, given to the tasks of a gateway's test.

    Attributes
    ----------
    deployed
        What is deployed, by workspace; None for a workspace without a model.
    asked
        Every message there was, in order; a body as its bytes.
    jobs
        What the next jobs are answered with; without them each runs through, and an inference answers ``{}``.
    """

    def __init__(self, workspaces: Workspaces, **deployed: dict[str, Any] | None) -> None:
        self.deployed = deployed
        self.asked: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []
        workspaces.answers |= {
            "describe": self._describe,
            "infer": self._run,
            "deploy": self._run,
            "update": self._run,
            "undeploy": self._run,
            "get_workspace": self._list,
            "create_workspace": self._create,
            "destroy_workspace": self._destroy,
        }

    def asked_for(self, command: str) -> Iterator[dict[str, Any]]:
        """Return the fields of each message of a command."""
        return ({key: value for key, value in message.items() if key != "command"} for message in self._of(command))

    def _of(self, command: str) -> Iterator[dict[str, Any]]:
        return (message for message in self.asked if message["command"] == command)

    def _describe(self, message: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(message)
        return self._refuse(message) or {"request_result": True, "result": self.deployed[message["name"]]}

    def _run(self, message: dict[str, Any]) -> dict[str, Any]:
        body = message.get("body")
        self.asked.append({**message, "body": bytes(body.buffers[0])} if isinstance(body, Packed) else message)
        refused = self._refuse(message)
        if refused is not None:
            return refused
        done = inferred(b"{}") if message["command"] == "infer" else job()
        return {"request_result": True, "result": self.jobs.pop(0) if self.jobs else done}

    def _list(self, message: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(message)
        return {"request_result": True, "result": list(self.deployed)}

    def _create(self, message: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(message)
        self.deployed[message["name"]] = None
        return {"request_result": True, "result": message["name"]}

    def _destroy(self, message: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(message)
        del self.deployed[message["name"]]
        return {"request_result": True, "result": True}

    def _refuse(self, message: dict[str, Any]) -> dict[str, Any] | None:
        name = message["name"]
        if name in self.deployed:
            return None
        reason = f"There is no workspace {name!r}; create_workspace makes one."
        return {"request_result": False, "result": reason, "field": "name", "error": "WorkspaceNotFoundError"}
