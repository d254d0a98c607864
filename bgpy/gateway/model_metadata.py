"""
What the protocols of model servers tell of a model, made of its description; see the command ``describe``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bgpy.errors import ModelNotFoundError

#: What TensorFlow Serving calls a dtype whose name there is not its own in capitals.
_SERVING_NAMES = {"float16": "HALF", "float32": "FLOAT", "float64": "DOUBLE"}
#: What the Open Inference Protocol calls a dtype whose name there is not its own in capitals.
_DATATYPES = {"bfloat16": "BF16", "float16": "FP16", "float32": "FP32", "float64": "FP64", "string": "BYTES"}


def serving_type(dtype: str) -> str:
    """Return TensorFlow Serving's name of a dtype: ``DT_FLOAT`` for "float32"."""
    return f"DT_{_SERVING_NAMES.get(dtype, dtype.upper())}"


def datatype(dtype: str) -> str:
    """
    Return the Open Inference Protocol's name of a dtype: ``FP32`` for "float32".

    A dtype that the protocol does not have gets its own name in capitals, which no request can use.
    """
    return _DATATYPES.get(dtype, dtype.upper())


def serving_status(name: str, description: Mapping[str, Any] | None, version: str | None = None) -> dict[str, Any]:
    """
    Return TensorFlow Serving's status of a model: of one version, or of all, the newest first.

    Parameters
    ----------
    name
        The model's name.
    description
        What is deployed there, None for nothing.
    version
        The version that is asked for, None for all.

    Raises
    ------
    ModelNotFoundError
        There is no such model, or no such version of it.
    """
    states: Mapping[str, str] = {} if description is None else description["versions"]
    if not states:
        raise ModelNotFoundError(f"Could not find any versions of model {name}")
    if version is None:
        return {"model_version_status": [_status(number, states[number]) for number in sorted(states, key=int, reverse=True)]}
    number = version.lstrip("0") or "0"
    if number not in states:
        raise ModelNotFoundError(f"Could not find version {number} of model {name}")
    return {"model_version_status": [_status(number, states[number])]}


def _status(number: str, state: str) -> dict[str, Any]:
    return {"version": number, "state": state, "status": {"error_code": "OK", "error_message": ""}}


def serving_metadata(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return TensorFlow Serving's metadata of a model: its signatures."""
    signatures = {name: _signature(signature) for name, signature in description["signatures"].items()}
    return {
        "model_spec": {"name": description["name"], "signature_name": "", "version": str(description["version"])},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def _signature(signature: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "inputs": {name: _tensor(tensor) for name, tensor in signature["inputs"].items()},
        "outputs": {name: _tensor(tensor) for name, tensor in signature["outputs"].items()},
        "method_name": signature["method"],
    }


def _tensor(tensor: Mapping[str, Any]) -> dict[str, Any]:
    shape = tensor["shape"]
    sizes = [{"size": str(size), "name": ""} for size in _sizes(shape or ())]
    return {
        "dtype": serving_type(tensor["dtype"]),
        "tensor_shape": {"dim": sizes, "unknown_rank": shape is None},
        "name": tensor["tensor"],
    }


def inference_metadata(description: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the Open Inference Protocol's metadata of a model: inputs and outputs of its default signature.

    A tensor with any number of axes is told as one with one axis of any length: the protocol has no other word for it.
    """
    signature = description["signatures"].get(description["default_signature"], {"inputs": {}, "outputs": {}})
    return {
        "name": description["name"],
        "versions": [str(description["version"])],
        "platform": description["platform"],
        "inputs": [_named(name, tensor) for name, tensor in signature["inputs"].items()],
        "outputs": [_named(name, tensor) for name, tensor in signature["outputs"].items()],
    }


def _named(name: str, tensor: Mapping[str, Any]) -> dict[str, Any]:
    shape = [-1] if tensor["shape"] is None else _sizes(tensor["shape"])
    return {"name": name, "datatype": datatype(tensor["dtype"]), "shape": shape}


def _sizes(shape: Any) -> list[int]:
    return [-1 if size is None else size for size in shape]
