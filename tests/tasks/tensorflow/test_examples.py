"""Classify and regress: examples are serialized as Protocol Buffers has it, classes and scores become pairs."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.errors import ModelInputError
from bgpy.tasks.tensorflow import rest
from bgpy.tasks.tensorflow.bodies import Constant
from bgpy.tasks.tensorflow.examples import serialize
from bgpy.tasks.tensorflow.signatures import Signature, TensorInfo


def infos(**tensors: str) -> dict[str, TensorInfo]:
    return {name: TensorInfo(name, dtype, None) for name, dtype in tensors.items()}


SIGNATURES = {
    "serving_default": Signature("serving_default", infos(inputs="string"), infos(classes="string", scores="float32")),
    "scores": Signature("scores", infos(inputs="string"), infos(scores="float32")),
    "labels": Signature("labels", infos(inputs="string"), infos(classes="string")),
    "value": Signature("value", infos(inputs="string"), infos(outputs="float32")),
    "two": Signature("two", infos(inputs="string", more="string"), infos(outputs="float32")),
    "named": Signature("named", infos(x="string"), infos(outputs="float32")),
    "other": Signature("other", infos(inputs="string"), infos(y="float32")),
    "three": Signature("three", infos(inputs="string"), infos(classes="string", scores="float32", y="float32")),
}
ONE = [{"a": 1}]


def parse(verb: str, **fields: Any) -> rest.Request:
    return rest.parse(verb, json.dumps(fields).encode(), SIGNATURES, "serving_default")


def refused(verb: str, **fields: Any) -> str:
    with pytest.raises(ModelInputError) as error:
        parse(verb, **fields)
    return error.value.reason


def reply(request: rest.Request, **outputs: Any) -> bytes:
    return b"".join(request.encode(outputs).parts)


@pytest.fixture(scope="session")
def example_class() -> Any:
    """Return TensorFlow's own reader of examples; to import it is left out of what single tests do."""
    return pytest.importorskip("tensorflow.core.example.example_pb2").Example


def features(example: Any) -> dict[str, Any]:
    """Return the features of an example, each as its kind and values."""
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = (kind, list(getattr(feature, kind).value)) if kind else (None, [])
    return found


def test_an_example_is_serialized_as_protocol_buffers_has_it() -> None:
    assert serialize({}) == bytes.fromhex("0a 00")
    assert serialize({"a": [1, True]}) == bytes.fromhex("0a0d 0a0b 0a0161 1206 1a04 0a02 0101".replace(" ", ""))
    assert serialize({"f": [0.5]}) == bytes.fromhex("0a0f0a0d0a01661208120 60a04 0000003f".replace(" ", ""))
    assert serialize({"s": ["é"]}) == bytes.fromhex("0a0d0a0b0a017312060a040a02c3a9")
    minus_one = "0a 15 0a 13 0a0161 120e 1a0c 0a0a ffffffffffffffffff01"
    assert serialize({"a": [-1]}) == bytes.fromhex(minus_one)


def test_features_are_of_the_kind_of_their_values(example_class: Any) -> None:
    request = parse(
        "classify",
        examples=[
            {"n": 3, "big": [-(2**63), 2**63 - 1, 300], "f": [0.5, -1.0], "b": [True, 0], "s": "text", "none": []},
            {"s": [{"b64": "/wA="}, "x"]},
        ],
    )
    assert list(request.feeds) == ["inputs"]
    assert request.outputs == ["classes", "scores"]
    first, second = request.feeds["inputs"].tolist()
    assert features(example_class.FromString(first)) == {
        "n": ("int64_list", [3]),
        "big": ("int64_list", [-(2**63), 2**63 - 1, 300]),
        "f": ("float_list", [0.5, -1.0]),
        "b": ("int64_list", [1, 0]),
        "s": ("bytes_list", [b"text"]),
        "none": (None, []),
    }
    assert features(example_class.FromString(second)) == {"s": ("bytes_list", [b"\xff\0", b"x"])}


def test_the_context_is_in_every_example_that_does_not_say_otherwise(example_class: Any) -> None:
    request = parse("regress", signature_name="value", context={"c": 1, "d": "x"}, examples=[{"a": 1.5}, {"d": "y"}])
    assert [features(example_class.FromString(example)) for example in request.feeds["inputs"].tolist()] == [
        {"c": ("int64_list", [1]), "d": ("bytes_list", [b"x"]), "a": ("float_list", [1.5])},
        {"c": ("int64_list", [1]), "d": ("bytes_list", [b"y"])},
    ]


def test_an_example_may_say_otherwise_than_the_context() -> None:
    request = parse("regress", signature_name="value", context={"c": 1, "d": "x"}, examples=[{"d": 2}])
    assert request.feeds["inputs"].tolist() == [serialize({"c": [1], "d": [2]})]


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5)
        | st.lists(st.floats(width=32), max_size=5)
        | st.lists(st.binary(max_size=300), max_size=5),
        max_size=4,
    )
)
def test_property_tensorflow_reads_what_is_serialized(example_class: Any, given_features: dict[str, list[Any]]) -> None:
    wrapped = {name: [Constant(v) if isinstance(v, float) else v for v in values] for name, values in given_features.items()}
    found = features(example_class.FromString(serialize(wrapped)))
    assert found.keys() == given_features.keys()
    for name, values in given_features.items():
        assert [str(value) for value in found[name][1]] == [str(value) for value in values]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "When method is classify, key 'examples' is expected and was not found"),
        ({"examples": 1}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": ONE, "context": []}, "Example must be JSON object but got JSON Array"),
        ({"examples": [{"a": None}]}, "Feature: a has element with unexpected JSON type: Null"),
        ({"examples": [{"a": [[1]]}]}, "Feature: a has element with unexpected JSON type: Array"),
        ({"examples": [{"a": {"b": 1}}]}, "Feature: a has element with unexpected JSON type: Object"),
        ({"examples": [{"a": [1, 2.5]}]}, "Unexpected element type in feature: a expecting type: int64"),
        ({"examples": [{"a": [1.5, 2]}]}, "Unexpected element type in feature: a expecting type: float"),
        ({"examples": [{"a": ["x", True]}]}, "Unexpected element type in feature: a expecting type: bytes"),
        ({"examples": [{"a": 2**63}]}, "Feature: a has uint64 element. Only int64 is supported."),
        ({"examples": [{"a": 1e39}]}, "Cannot convert JSON value: 1e+39 to float without loss of precision."),
        ({"examples": ONE, "signature_name": "z"}, "No signature was found with the name: z"),
        ({"examples": ONE, "signature_name": "two"}, "Expected one input Tensor."),
        (
            {"examples": ONE, "signature_name": "named"},
            "No classification inputs found in SignatureDef: its input is x",
        ),
        (
            {"examples": ONE, "signature_name": "other"},
            'Expected classification signature outputs to contain at least one of "classes" or "scores". Its outputs are y',
        ),
        ({"examples": ONE, "signature_name": "three"}, "Expected one or two output Tensors, found 3"),
    ],
)
def test_what_cannot_be_classified_is_told(fields: dict[str, Any], reason: str) -> None:
    assert refused("classify", **fields) == reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"signature_name": "value"}, "When method is regress, key 'examples' is expected and was not found"),
        ({"examples": ONE}, "Expected one output Tensor."),
        ({"examples": ONE, "signature_name": "named"}, "No regression inputs found in SignatureDef: its input is x"),
        ({"examples": ONE, "signature_name": "other"}, "No regression outputs found in SignatureDef: its output is y"),
    ],
)
def test_what_cannot_be_regressed_is_told(fields: dict[str, Any], reason: str) -> None:
    assert refused("regress", **fields) == reason


CLASSES = np.array([[b"cat", b"dog"], [b"cow", "ü".encode()]], object)
SCORES = np.array([[0.1, 2], [1 / 3, -0.0]], np.float32)
TWO = [{"a": 1}, {"a": 2}]


def test_classes_and_scores_come_in_pairs() -> None:
    both = parse("classify", examples=TWO)
    expected = '{"results":[[["cat",0.1],["dog",2.0]],[["cow",0.33333334],["ü",-0.0]]]}'
    assert reply(both, classes=CLASSES, scores=SCORES) == expected.encode()
    scores = parse("classify", examples=TWO, signature_name="scores")
    assert reply(scores, scores=SCORES) == b'{"results":[[["",0.1],["",2.0]],[["",0.33333334],["",-0.0]]]}'
    labels = parse("classify", examples=TWO, signature_name="labels")
    assert reply(labels, classes=CLASSES[:, :1]) == b'{"results":[[["cat",0.0]],[["cow",0.0]]]}'
    assert reply(both, classes=CLASSES, scores=SCORES + math.nan).count(b"NaN") == 4


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_values_come_as_one_list(shape: tuple[int, ...]) -> None:
    request = parse("regress", examples=TWO, signature_name="value")
    assert reply(request, outputs=np.array([0.1, math.inf], np.float32).reshape(shape)) == b'{"results":[0.1,Infinity]}'


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ({"classes": CLASSES[0], "scores": SCORES}, "Expected Tensor shape: [batch_size num_classes] but got [2]"),
        ({"classes": SCORES, "scores": SCORES}, "Expected classes Tensor of DT_STRING. Got: float32"),
        ({"classes": CLASSES, "scores": CLASSES}, "Expected scores Tensor of DT_FLOAT. Got: object"),
        ({"classes": CLASSES[:1], "scores": SCORES}, "Expected classes output batch size of 2. Got: 1"),
        ({"classes": CLASSES, "scores": SCORES[:, :1]}, "Tensors class and score should match in dim_size(1). Got 2 vs. 1"),
    ],
)
def test_outputs_that_are_no_classes_are_told(outputs: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelInputError) as error:
        parse("classify", examples=TWO).encode(outputs)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (SCORES, "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2, 2]"),
        (SCORES[:1, 0], "Input batch size did not match output batch size: 2 vs. 1"),
        (CLASSES[:, 0], "Expected output Tensor of DT_FLOAT. Got: object"),
    ],
)
def test_outputs_that_are_no_values_are_told(values: Any, reason: str) -> None:
    with pytest.raises(ModelInputError) as error:
        parse("regress", examples=TWO, signature_name="value").encode({"outputs": values})
    assert error.value.reason == reason
