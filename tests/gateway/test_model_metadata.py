"""What clients of model servers are told of a model, made of its description."""

from __future__ import annotations

from typing import Any

import pytest

from bgpy.errors import ModelNotFoundError
from bgpy.gateway.model_metadata import datatype, inference_metadata, serving_metadata, serving_status, serving_type

SIGNATURE = {
    "inputs": {
        "x": {"dtype": "float32", "shape": [None, 784], "tensor": "serving_default_x:0"},
        "names": {"dtype": "string", "shape": None, "tensor": "serving_default_names:0"},
    },
    "outputs": {"y": {"dtype": "int64", "shape": [], "tensor": "StatefulPartitionedCall:0"}},
    "method": "tensorflow/serving/predict",
}
DESCRIPTION: dict[str, Any] = {
    "name": "half",
    "platform": "tensorflow_savedmodel",
    "version": 10,
    "versions": {"8": "END", "9": "END", "10": "AVAILABLE"},
    "default_signature": "serving_default",
    "signatures": {"serving_default": SIGNATURE, "other": {"inputs": {}, "outputs": {}, "method": "m"}},
}


def state(version: str, state: str) -> dict[str, Any]:
    return {"version": version, "state": state, "status": {"error_code": "OK", "error_message": ""}}


def test_the_status_tells_all_versions_newest_first() -> None:
    assert serving_status("half", DESCRIPTION) == {
        "model_version_status": [state("10", "AVAILABLE"), state("9", "END"), state("8", "END")]
    }


@pytest.mark.parametrize("version", ["9", "009"])
def test_the_status_of_one_version(version: str) -> None:
    assert serving_status("half", DESCRIPTION, version) == {"model_version_status": [state("9", "END")]}


@pytest.mark.parametrize(
    ("description", "version", "reason"),
    [
        (None, None, "Could not find any versions of model half"),
        (None, "1", "Could not find any versions of model half"),
        (DESCRIPTION, "11", "Could not find version 11 of model half"),
        (DESCRIPTION, "0", "Could not find version 0 of model half"),
        (DESCRIPTION, "1" * 5000, f"Could not find version {'1' * 5000} of model half"),
    ],
)
def test_what_is_not_there_has_no_status(description: Any, version: str | None, reason: str) -> None:
    with pytest.raises(ModelNotFoundError) as error:
        serving_status("half", description, version)
    assert str(error.value) == reason


def test_tensorflow_servings_metadata() -> None:
    inputs = {
        "x": {
            "dtype": "DT_FLOAT",
            "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "784", "name": ""}], "unknown_rank": False},
            "name": "serving_default_x:0",
        },
        "names": {
            "dtype": "DT_STRING",
            "tensor_shape": {"dim": [], "unknown_rank": True},
            "name": "serving_default_names:0",
        },
    }
    outputs = {
        "y": {
            "dtype": "DT_INT64",
            "tensor_shape": {"dim": [], "unknown_rank": False},
            "name": "StatefulPartitionedCall:0",
        }
    }
    signatures = {
        "serving_default": {"inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict"},
        "other": {"inputs": {}, "outputs": {}, "method_name": "m"},
    }
    assert serving_metadata(DESCRIPTION) == {
        "model_spec": {"name": "half", "signature_name": "", "version": "10"},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def test_the_open_inference_protocols_metadata() -> None:
    assert inference_metadata(DESCRIPTION) == {
        "name": "half",
        "versions": ["10"],
        "platform": "tensorflow_savedmodel",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 784]},
            {"name": "names", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": "y", "datatype": "INT64", "shape": []}],
    }


def test_a_model_without_its_default_signature_has_no_inputs() -> None:
    told = inference_metadata({**DESCRIPTION, "signatures": {}})
    assert (told["inputs"], told["outputs"]) == ([], [])


@pytest.mark.parametrize(
    ("dtype", "serving", "inference"),
    [
        ("float16", "DT_HALF", "FP16"),
        ("float32", "DT_FLOAT", "FP32"),
        ("float64", "DT_DOUBLE", "FP64"),
        ("bfloat16", "DT_BFLOAT16", "BF16"),
        ("int8", "DT_INT8", "INT8"),
        ("int64", "DT_INT64", "INT64"),
        ("uint16", "DT_UINT16", "UINT16"),
        ("bool", "DT_BOOL", "BOOL"),
        ("string", "DT_STRING", "BYTES"),
        ("complex64", "DT_COMPLEX64", "COMPLEX64"),
    ],
)
def test_dtypes_have_the_names_of_each_protocol(dtype: str, serving: str, inference: str) -> None:
    assert serving_type(dtype) == serving
    assert datatype(dtype) == inference


def test_a_worker_reads_the_datatypes_that_are_told() -> None:
    """The table stands twice: the gateway may not import what has numpy."""
    datatypes = pytest.importorskip("bgpy.tasks.tensorflow.datatypes")
    assert {dtype: datatype(dtype) for dtype in datatypes.DATATYPES} == datatypes.DATATYPES
