"""TensorFlow Serving's bodies, as bytes: rows, columns, and what is wrong with them; classify and regress."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bgpy.errors import ModelInputError
from bgpy.tasks.tensorflow import rest
from bgpy.tasks.tensorflow.signatures import Signature, TensorInfo, dtype_name

pytestmark = pytest.mark.usefixtures("reader")


def infos(**tensors: str) -> dict[str, TensorInfo]:
    return {name: TensorInfo(name, dtype, None) for name, dtype in tensors.items()}


SIGNATURES = {
    "serving_default": Signature("serving_default", infos(x="float32"), infos(y="float32")),
    "pair": Signature("pair", infos(a="float32", n="int64"), infos(total="float32", label="string")),
    "text": Signature("text", infos(t="string"), infos(raw_bytes="string")),
    "flags": Signature("flags", infos(f="bool"), infos(f="bool")),
    "constant": Signature("constant", {}, infos(y="float32")),
    "classes": Signature("classes", infos(inputs="string"), infos(classes="string", scores="float32")),
    "scores": Signature("scores", infos(inputs="string"), infos(scores="float32")),
    "labels": Signature("labels", infos(inputs="string"), infos(classes="string")),
    "value": Signature("value", infos(inputs="string"), infos(outputs="float32")),
}


def parse(body: bytes, verb: str = "predict") -> rest.Request:
    return rest.parse(verb, body, SIGNATURES, "serving_default")


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def pair(**fields: Any) -> bytes:
    return body(signature_name="pair", **fields)


def refused(body: bytes, verb: str = "predict") -> str:
    with pytest.raises(ModelInputError) as error:
        parse(body, verb)
    return error.value.reason


def reply(request: rest.Request, **outputs: Any) -> bytes:
    encoded = request.encode(outputs)
    assert encoded.content_type == "application/json"
    assert encoded.header_length is None
    return b"".join(encoded.parts)


def test_rows_of_one_input_get_rows_of_one_output() -> None:
    request = parse(b'{"instances": [[1, 2.5], [3, 4]]}')
    assert request.signature == "serving_default"
    assert request.outputs == ["y"]
    assert list(request.feeds) == ["x"]
    assert request.feeds["x"].dtype == np.float32
    assert request.feeds["x"].tolist() == [[1.0, 2.5], [3.0, 4.0]]
    assert reply(request, y=np.array([[0.1], [2]], np.float32)) == b'{"predictions":[[0.1],[2.0]]}'
    assert reply(request, y=np.array([0.1, 2], np.float32)) == b'{"predictions":[0.1,2.0]}'


@pytest.mark.parametrize("instances", [b"[1.0, 2.0]", b'[{"x": 1}, {"x": 2}]', b"[1, 2]"])
def test_a_row_of_one_input_is_a_value_or_an_object_with_its_name(instances: bytes) -> None:
    assert parse(b'{"instances": ' + instances + b"}").feeds["x"].tolist() == [1.0, 2.0]


def test_rows_of_several_inputs_get_rows_with_the_names_of_the_outputs() -> None:
    request = parse(pair(instances=[{"a": [1, 2], "n": 3}, {"n": 4, "a": [5, 6]}]))
    assert request.outputs == ["total", "label"]
    assert {name: (feed.dtype, feed.tolist()) for name, feed in request.feeds.items()} == {
        "a": (np.float32, [[1.0, 2.0], [5.0, 6.0]]),
        "n": (np.int64, [3, 4]),
    }
    outputs = {"total": np.array([[1, 2], [3, 0.1]], np.float32), "label": np.array([b"p", "ü".encode()], object)}
    expected = '{"predictions":[{"total":[1.0,2.0],"label":"p"},{"total":[3.0,0.1],"label":"ü"}]}'
    assert reply(request, **outputs) == expected.encode()
    scalars = {"total": np.array([1, 0.1], np.float32), "label": np.array([b"p", b"q"], object)}
    assert reply(request, **scalars) == b'{"predictions":[{"total":1.0,"label":"p"},{"total":0.1,"label":"q"}]}'


@pytest.mark.parametrize(("inputs", "value"), [(b"5", 5.0), (b"[[5]]", [[5.0]]), (b'{"x": [5]}', [5.0]), (b"[]", [])])
def test_columns_of_one_input_get_the_output_bare(inputs: bytes, value: Any) -> None:
    request = parse(b'{"inputs": ' + inputs + b"}")
    assert request.feeds["x"].tolist() == value
    assert reply(request, y=np.array(0.1, np.float32)) == b'{"outputs":0.1}'
    assert reply(request, y=np.array([[1, 2]], np.float32)) == b'{"outputs":[[1.0,2.0]]}'


def test_columns_need_no_first_axis_in_common() -> None:
    request = parse(pair(inputs={"a": [1, 2, 3], "n": 7}))
    assert request.feeds["a"].tolist() == [1.0, 2.0, 3.0]
    assert request.feeds["n"].shape == ()
    outputs = {"total": np.array([1, 2], np.float32), "label": np.array(b"p", object)}
    assert reply(request, **outputs) == b'{"outputs":{"total":[1.0,2.0],"label":"p"}}'


@pytest.mark.parametrize("name", [{}, {"signature_name": ""}, {"signature_name": "serving_default"}])
def test_the_default_signature_needs_no_name(name: dict[str, str]) -> None:
    assert parse(body(instances=[1], **name)).signature == "serving_default"


def test_the_default_is_the_models_own() -> None:
    assert rest.parse("predict", b'{"instances":[true]}', SIGNATURES, "flags").signature == "flags"


@pytest.mark.parametrize(
    ("request_body", "reason"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"{}", "Missing 'inputs' or 'instances' key"),
        (b"[1]", "JSON Value: [1] Is not object"),
        (b'{"signature_name": "x", "instances": [1]}', 'Serving signature name: "x" not found in signature def'),
        (b'{"signature_name": 1}', "JSON Value: 1 not formatted correctly. 'signature_name' key must be a string value."),
        (
            b'{"instances": [1], "inputs": [1]}',
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist",
        ),
        (b'{"instances": 1}', "Expecting 'instances' to be an list/array"),
        (b'{"instances": []}', "No values in 'instances' array"),
        (body(signature_name="constant", inputs=1), "Failed to get input map for signature: constant"),
        (
            b'{"instances": [{"x": 1}, 2]}',
            "Expecting object but got list at item 1 of input list",
        ),
        (
            b'{"instances": [[1, 2], [3]]}',
            "Failed to process element: 1 key: x of 'instances' list. Error: Expecting shape [2] but got: [1]",
        ),
        (
            b'{"instances": [[1, 2], [3, "4"]]}',
            "Failed to process element: 1 key: x of 'instances' list. Error:"
            ' JSON Value: "4" Type: String is not of expected type: float',
        ),
        (
            b'{"instances": [1, {"x": 2}]}',
            "Failed to process element: 1 key: x of 'instances' list. Error:"
            ' JSON Value: {"x": 2} Type: Object is not of expected type: float',
        ),
        (
            b'{"instances": [{"b64": "AAAA"}]}',
            "Failed to process element: 0 key: x of 'instances' list. Error:"
            ' JSON Value: {"b64": "AAAA"} Type: Object is not of expected type: float',
        ),
        (b'{"inputs": {"z": 1}}', "Missing named input: x in 'inputs' object."),
        (b'{"inputs": [[1], [2, 3]]}', "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        (
            pair(instances=[{"a": 1}]),
            "Failed to process element: 0 of 'instances' list. JSON object: {\"a\": 1} keys must be equal to: a,n",
        ),
        (
            pair(instances=[{"a": 1, "n": 1, "z": 1}]),
            "Failed to process element: 0 of 'instances' list."
            ' JSON object: {"a": 1, "n": 1, "z": 1} keys must be equal to: a,n',
        ),
        (
            pair(instances=[[1]]),
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map",
        ),
        (
            pair(inputs=[1]),
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map",
        ),
        (
            pair(inputs={"a": 1, "n": 1.0}),
            "JSON Value: 1.0 Type: Number is not of expected type: int64",
        ),
        (
            body(signature_name="text", instances=["a", {"t": "b"}]),
            "Expecting value/list but got object at item 1 of input list",
        ),
    ],
)
def test_what_breaks_a_rule_is_told(request_body: bytes, reason: str) -> None:
    assert refused(request_body) == reason


def test_what_comes_behind_the_document_is_ignored() -> None:
    assert parse(b'{"instances": [1]} and more').feeds["x"].tolist() == [1.0]


def test_nan_and_infinities_go_both_ways() -> None:
    request = parse(b'{"instances": [NaN, Infinity, -Infinity, 0.5]}')
    assert str(request.feeds["x"].tolist()) == "[nan, inf, -inf, 0.5]"
    assert reply(request, y=request.feeds["x"]) == b'{"predictions":[NaN,Infinity,-Infinity,0.5]}'
    rows = parse(pair(instances=[{"a": 1, "n": 1}]))
    outputs = {"total": np.array([np.nan], np.float32), "label": np.array([b"x"], object)}
    assert reply(rows, **outputs) == b'{"predictions":[{"total":NaN,"label":"x"}]}'


TEXTS = b'{"signature_name": "text", %s}'


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        (b'"instances": ["a", {"b64": "/wA="}]', [b"a", b"\xff\0"]),
        (b'"instances": [{"t": {"b64": "/wA"}}]', [b"\xff\0"]),
        (b'"instances": [{"t": "a"}]', [b"a"]),
        (b'"instances": [["a", "b"], [{"b64": " YQ= =\\n"}, "c"]]', [[b"a", b"b"], [b"a", b"c"]]),
        (b'"inputs": {"b64": "YQ=="}', b"a"),
        (b'"inputs": {"t": {"b64": ""}}', b""),
        (b'"inputs": "a"', b"a"),
    ],
)
def test_strings_are_texts_or_base64(fields: bytes, value: Any) -> None:
    feed = parse(TEXTS % fields).feeds["t"]
    assert feed.dtype == object
    assert feed.tolist() == value


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (b'"inputs": [{"b64": 1}]', 'JSON Value: {"b64": 1} not formatted correctly for base64 data'),
        (b'"inputs": [{"b64": "", "a": 1}]', 'JSON Value: {"b64": "", "a": 1} not formatted correctly for base64 data'),
        (b'"inputs": {"b64": "Y"}', "Unable to base64 decode"),
        (b'"inputs": {"b64": "YQ-_"}', "Unable to base64 decode"),
        (b'"inputs": {"b64": "\xc3\xa9"}', "Unable to base64 decode"),
        (b'"inputs": 1', "JSON Value: 1 Type: Number is not of expected type: string"),
        (b'"inputs": null', "JSON Value: null Type: Null is not of expected type: string"),
    ],
)
def test_what_is_no_string_is_told(fields: bytes, reason: str) -> None:
    assert refused(TEXTS % fields) == reason


def test_only_strings_of_an_output_named_so_are_base64() -> None:
    request = parse(TEXTS % b'"instances": ["a"]')
    assert reply(request, raw_bytes=np.array([b"\xff\0"], object)) == b'{"predictions":[{"b64":"/wA="}]}'
    assert reply(request, raw=np.array([b"a"], object)) == b'{"predictions":["a"]}'
    assert reply(request, raw_bytes=np.array([1], np.int32)) == b'{"predictions":[1]}'
    with pytest.raises(ModelInputError, match="Output 'raw' has a string that is not UTF-8"):
        reply(request, raw=np.array([b"\xff"], object))


def test_rows_need_one_first_axis_for_all_outputs() -> None:
    request = parse(pair(instances=[{"a": 1, "n": 1}]))
    with pytest.raises(ModelInputError) as error:
        request.encode({"total": np.zeros(2, np.float32), "label": np.array([b"a"], object)})
    assert error.value.reason == "Tensor name: label has inconsistent batch size: 1 expecting: 2"
    with pytest.raises(ModelInputError) as error:
        request.encode({"total": np.float32(1).reshape(()), "label": np.array([b"a"], object)})
    assert error.value.reason == "Tensor name: total has no shape information "


@given(st.data())
def test_property_rows_and_columns_read_what_was_written(data: st.DataObject) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=1, max_dims=3, max_side=4))
    numbers = data.draw(arrays.arrays(np.float32, shape))
    counts = data.draw(arrays.arrays(np.int64, shape[:1]))
    written = {"a": numbers, "n": counts}
    rows, columns = parse(_as_rows(written)), parse(_as_columns(written))
    for request in (rows, columns):
        np.testing.assert_array_equal(request.feeds["a"], numbers)
        np.testing.assert_array_equal(request.feeds["n"], counts)


def _as_rows(tensors: dict[str, Any]) -> bytes:
    """Make a request of a reply: both have the same form but for the word."""
    request = parse(pair(instances=[{"a": 1, "n": 1}]))
    return reply(request, **tensors).replace(b'"predictions"', b'"signature_name":"pair","instances"', 1)


def _as_columns(tensors: dict[str, Any]) -> bytes:
    request = parse(pair(inputs={"a": 1, "n": 1}))
    return reply(request, **tensors).replace(b'"outputs"', b'"signature_name":"pair","inputs"', 1)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=4))
def test_property_bytes_survive_base64(values: list[bytes]) -> None:
    instances = [{"b64": base64.b64encode(value).decode()} for value in values]
    request = parse(body(signature_name="text", instances=instances))
    assert request.feeds["t"].tolist() == values
    assert json.loads(reply(request, raw_bytes=request.feeds["t"])) == {"predictions": instances}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "a", "n", "b64", "t"]), inner, max_size=3),
)


@given(
    st.dictionaries(st.sampled_from(["instances", "inputs", "examples", "context"]), JSON, max_size=2),
    st.sampled_from(sorted(SIGNATURES)),
    st.sampled_from(["predict", "classify", "regress"]),
)
def test_property_any_fields_are_a_request_or_an_error(fields: dict[str, Any], signature: str, verb: str) -> None:
    text = body(signature_name=signature, **fields)
    with contextlib.suppress(ModelInputError):
        request = parse(text, verb)
        assert {name: dtype_name(feed.dtype) for name, feed in request.feeds.items()} == {
            name: info.dtype for name, info in SIGNATURES[signature].inputs.items()
        }
