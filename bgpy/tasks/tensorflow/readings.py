"""
What the host of a model is asked, and what its answers tell of replicas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bgpy.tasks.tensorflow.changes import Bounds
from bgpy.tasks.tensorflow.replicas import IDLE_TIME, Load
from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.jobs import JobRecord, JobState
from bgpy.tasks.workspace.values import Packed
from bgpy.tasks.workspace.workspace import Workspace

#: What runs models, in the worker.
HOST = "bgpy.tasks.tensorflow.worker:make_host"
#: What a deploy is asked for again with, for another replica.
_BASE = ("path", "device", "max_batch", "safe_mode", "min_replicas", "max_replicas", "idle_time")
# What a prediction fails with where there is no model; where there is none of a version, the message is another.
_NO_MODEL = "bgpy.errors.ModelNotFoundError"
_NONE_DEPLOYED = "No model is deployed"


def recall() -> Call:
    """Return the call that asks an interpreter what it has deployed."""
    return Call(HOST, "recall", Packed.of({}), kept=False)


def with_node(row: dict[str, Any], home: object) -> dict[str, Any]:
    """Return what is told of a replica, with the node where it runs and that one's address, where they are known."""
    status = home.status() if isinstance(home, Workspace) and home.options.type == "ray" else {"node": None}
    return row if status["node"] is None else {**row, "node": status["node"], "address": status["address"]}


def misses_model(record: JobRecord | None) -> bool:
    """Tell whether a prediction found no model at all, though its replica was believed to have one."""
    error = None if record is None else record.error
    return error is not None and error["type"] == _NO_MODEL and error["message"].startswith(_NONE_DEPLOYED)


def has_not_run(record: JobRecord) -> bool:
    """Tell whether a prediction can go to another replica: its worker died before its turn, or was a new one without a model."""
    return (record.state is JobState.ABORTED and record.started is None) or misses_model(record)


def description_in(record: JobRecord) -> dict[str, Any] | None:
    """Return what the end of a job tells of the model, None where it tells of none."""
    known = record.value.json if record.state is JobState.DONE and record.value is not None else None
    return known if isinstance(known, dict) else None


def load_in(name: str, description: Mapping[str, Any], before: Load | None) -> Load:
    """Return what an interpreter has that tells this of its model."""
    base = {
        "name": name,
        "warmup": "warmup" in description,
        **{field: description[field] for field in _BASE if field in description},
    }
    version, weights = description["version"], description.get("weights")
    if weights is None:
        return Load(version, base, None, version)
    return Load(version, base, weights, None if before is None or before.base != base else before.deployed)


def bounds_in(description: Mapping[str, Any], count: int) -> Bounds:
    """Return what the deploy said of replicas, with that description; else that there are as many as there are."""
    low, high = description.get("min_replicas", count), description.get("max_replicas", count)
    return low, high, description.get("idle_time", IDLE_TIME)


def why(record: JobRecord) -> str:
    """Return why a load did not succeed."""
    error = record.error or {"type": record.state.value, "message": ""}
    return f"{error['type']}: {error['message']}"
