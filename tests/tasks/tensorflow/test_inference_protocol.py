"""The Open Inference Protocol's bodies, as bytes and as tritonclient makes and reads them."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.errors import ModelInputError
from bgpy.tasks.tensorflow import inference_protocol
from bgpy.tasks.tensorflow.datatypes import DATATYPES, DTYPES
from bgpy.tasks.tensorflow.signatures import Signature, TensorInfo

pytestmark = pytest.mark.usefixtures("reader")


def infos(**tensors: Any) -> dict[str, TensorInfo]:
    return {name: TensorInfo(name, *(info if isinstance(info, tuple) else (info, None))) for name, info in tensors.items()}


SIGNATURES = {
    "serving_default": Signature("serving_default", infos(x=("float32", (None, 2))), infos(y="float32")),
    "pair": Signature("pair", infos(a="float32", n="int64"), infos(total="float32", label="string", brain="bfloat16")),
    "text": Signature("text", infos(t=("string", (None, 1))), infos(s="string")),
    "free": Signature("free", infos(x=("float32", None)), infos(y="float32")),
    "square": Signature("square", infos(x=("float32", (None, None))), infos(y="float32")),
    "complex": Signature("complex", infos(x=("complex64", (None,))), infos(y="complex64")),
    "flags": Signature("flags", infos(f=("bool", (2, 2))), infos(f="bool")),
}


def parse(body: Any, header_length: int | None = None, default: str = "serving_default") -> inference_protocol.Request:
    return inference_protocol.parse(body, header_length, SIGNATURES, default, "model", 3)


def refused(body: Any, header_length: int | None = None, default: str = "serving_default") -> str:
    with pytest.raises(ModelInputError) as error:
        parse(body, header_length, default)
    return error.value.reason


def one(data: Any = (1.0, 2.0), datatype: Any = "FP32", shape: Any = (1, 2), **more: Any) -> bytes:
    """Return a request with one input as JSON."""
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "data": data}
    return json.dumps({"inputs": [tensor], **more}).encode()


def raw(*tensors: tuple[str, str, list[int], bytes], **more: Any) -> tuple[bytes, int]:
    """Return a request with raw tensors, and the length of its header."""
    inputs = [
        {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
        for name, datatype, shape, data in tensors
    ]
    header = json.dumps({"inputs": inputs, **more}).encode()
    return b"".join((header, *(data for *_, data in tensors))), len(header)


def reply(request: inference_protocol.Request, **outputs: Any) -> tuple[Any, bytes]:
    """Return what the JSON of a reply says and the bytes behind it."""
    encoded = request.encode(outputs)
    body = b"".join(encoded.parts)
    if encoded.header_length is None:
        assert encoded.content_type == "application/json"
        return json.loads(body), b""
    assert encoded.content_type == "application/octet-stream"
    return json.loads(body[: encoded.header_length]), body[encoded.header_length :]


Y = np.array([[0.1, 2]], np.float32)


@pytest.mark.parametrize("data", [[1.0, 2], [[1, 2.0]], [[[1], [2]]]])
def test_data_is_flat_or_nested(data: Any) -> None:
    request = parse(one(data))
    assert request.signature == "serving_default"
    assert request.outputs == ["y"]
    assert request.feeds["x"].dtype == np.float32
    assert request.feeds["x"].tolist() == [[1.0, 2.0]]


def test_a_json_request_gets_json() -> None:
    encoded = parse(one()).encode({"y": Y})
    assert encoded.content_type == "application/json"
    assert encoded.header_length is None
    assert b"".join(encoded.parts) == (
        b'{"model_name":"model","model_version":"3","outputs":[{"name":"y","shape":[1,2],"datatype":"FP32","data":[0.1,2.0]}]}'
    )


def test_the_bytes_of_tritonclients_default_request() -> None:
    header = (
        b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}],'
        b'"parameters":{"binary_data_output":true}}'
    )
    assert len(header) == 134
    request = parse(header + struct.pack("<2f", 1, 2), 134)
    assert request.feeds["x"].tolist() == [[1.0, 2.0]]
    encoded = request.encode({"y": Y})
    expected = (
        b'{"model_name":"model","model_version":"3",'
        b'"outputs":[{"name":"y","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}'
    )
    assert encoded.content_type == "application/octet-stream"
    assert encoded.header_length == len(expected)
    assert b"".join(encoded.parts) == expected + struct.pack("<2f", 0.1, 2)


def test_tensors_are_passed_on_without_a_copy() -> None:
    body, length = raw(("x", "FP32", [1, 2], bytes(8)))
    feed = parse(body, length).feeds["x"]
    assert np.shares_memory(feed, np.frombuffer(body, np.uint8))
    part = parse(body, length).encode({"y": Y}).parts
    assert len(part) == 1  # asked for as JSON
    body, length = raw(("x", "FP32", [1, 2], bytes(8)), parameters={"binary_data_output": True})
    _, part = parse(body, length).encode({"y": Y}).parts
    assert np.shares_memory(np.frombuffer(part, np.uint8), Y)


@pytest.mark.parametrize("wrap", [bytearray, memoryview, lambda body: memoryview(b"xyz" + body)[3:]])
def test_a_body_is_whatever_has_bytes(wrap: Any) -> None:
    body, length = raw(("x", "FP32", [1, 2], struct.pack("<2f", 1, 2)))
    assert parse(wrap(body), length).feeds["x"].tolist() == [[1.0, 2.0]]
    assert parse(wrap(one())).feeds["x"].tolist() == [[1.0, 2.0]]


RAW = [
    ("BOOL", b"\x00\x01\x02", [False, True, True]),
    ("UINT8", b"\x00\xff", [0, 255]),
    ("UINT16", b"\x01\x00\xff\xff", [1, 65535]),
    ("UINT32", b"\x01\x00\x00\x00\xff\xff\xff\xff", [1, 2**32 - 1]),
    ("UINT64", b"\x01" + bytes(7) + b"\xff" * 8, [1, 2**64 - 1]),
    ("INT8", b"\x80\x7f", [-128, 127]),
    ("INT16", b"\x00\x80", [-(2**15)]),
    ("INT32", b"\x00\x00\x00\x80", [-(2**31)]),
    ("INT64", bytes(7) + b"\x80", [-(2**63)]),
    ("FP16", b"\x00\x3c\x00\xc0", [1.0, -2.0]),
    ("FP32", b"\x00\x00\x80\x3f", [1.0]),
    ("FP64", bytes(6) + b"\xf0\x3f", [1.0]),
    ("BF16", b"\x80\x3f\x00\xc0", [1.0, -2.0]),
    ("BYTES", b"\x01\x00\x00\x00a\x00\x00\x00\x00\x02\x00\x00\x00\xff\x00", [b"a", b"", b"\xff\x00"]),
]


@pytest.mark.parametrize(("datatype", "data", "values"), RAW, ids=[datatype for datatype, *_ in RAW])
def test_raw_tensors_of_every_datatype(datatype: str, data: bytes, values: list[Any]) -> None:
    body, length = raw(("x", datatype, [len(values)], data), parameters={"binary_data_output": True})
    request = parse(body, length)
    feed = request.feeds["x"]
    assert feed.tolist() == values
    # BF16 has no array of numpy's own: it comes as the float32 that it is the upper half of.
    assert feed.dtype == {"BF16": np.float32, "BYTES": object}.get(datatype, DTYPES[datatype])
    output = feed.astype(pytest.importorskip("ml_dtypes").bfloat16) if datatype == "BF16" else feed
    answer, rest = reply(request, y=output)
    assert answer["outputs"] == [
        {"name": "y", "shape": [len(values)], "datatype": datatype, "parameters": {"binary_data_size": len(rest)}}
    ]
    assert rest == (b"\x00\x01\x01" if datatype == "BOOL" else data)


def test_there_is_a_datatype_for_each_dtype() -> None:
    assert len(RAW) == len(DTYPES) == len(DATATYPES) == 14


@pytest.mark.parametrize(
    ("datatype", "data", "dtype"),
    [
        ("BOOL", [True, False], np.bool_),
        ("UINT64", [2**64 - 1, 0], np.uint64),
        ("INT8", [-128, 127], np.int8),
        ("FP16", [1, 0.5], np.float16),
        ("FP64", [1, 0.1], np.float64),
        ("BYTES", ["a", "ü"], object),
    ],
)
def test_json_tensors_of_other_datatypes(datatype: str, data: list[Any], dtype: Any) -> None:
    request = parse(one(data, datatype, [2]))
    feed = request.feeds["x"]
    assert feed.dtype == dtype
    assert feed.tolist() == ([text.encode() for text in data] if datatype == "BYTES" else data)
    answer, rest = reply(request, y=feed)
    assert answer["outputs"] == [{"name": "y", "shape": [2], "datatype": datatype, "data": data}]
    assert rest == b""


def test_json_and_raw_inputs_stand_side_by_side_in_order() -> None:
    header = json.dumps(
        {
            "inputs": [
                {"name": "n", "shape": [1], "datatype": "INT64", "parameters": {"binary_data_size": 8}},
                {"name": "j", "shape": [1], "datatype": "INT64", "data": [7]},
                {"name": "a", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
            ],
        }
    ).encode()
    request = parse(header + struct.pack("<q2f", 5, 1, 2), len(header))
    assert {name: feed.tolist() for name, feed in request.feeds.items()} == {"n": [5], "j": [7], "a": [1.0, 2.0]}


def test_outputs_are_chosen_by_name_each_in_its_form() -> None:
    more = {"parameters": {"signature_name": "pair", "binary_data_output": True}}
    outputs = [{"name": "label"}, {"name": "total", "parameters": {"binary_data": False}}]
    request = parse(one(outputs=outputs, **more))
    assert request.signature == "pair"
    assert request.outputs == ["label", "total"]
    answer, rest = reply(request, total=np.array([1], np.float32), label=np.array([b"ab"], object))
    assert answer["outputs"] == [
        {"name": "label", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}},
        {"name": "total", "shape": [1], "datatype": "FP32", "data": [1.0]},
    ]
    assert rest == b"\x02\x00\x00\x00ab"
    own = [{"name": "total", "parameters": {"binary_data": True}}]
    assert reply(parse(one(outputs=own, parameters={"signature_name": "pair"})), total=Y)[1] == Y.tobytes()
    assert parse(one(outputs=[], **more)).outputs == ["total", "label", "brain"]


def test_the_id_is_given_back() -> None:
    answer, _ = reply(parse(one(id="é-1")), y=Y)
    assert list(answer) == ["model_name", "model_version", "id", "outputs"]
    assert answer["id"] == "é-1"


def test_empty_tensors_and_such_without_axes() -> None:
    request = parse(one([], shape=[0, 2]))
    assert request.feeds["x"].shape == (0, 2)
    answer, _ = reply(request, y=np.zeros((0, 2), np.float32))
    assert answer["outputs"][0]["data"] == []
    assert parse(one([5], shape=[])).feeds["x"].shape == ()
    body, length = raw(("x", "FP32", [0], b""), ("z", "BYTES", [0], b""), parameters={"binary_data_output": True})
    request = parse(body, length)
    assert request.feeds["x"].shape == request.feeds["z"].shape == (0,)
    answer, rest = reply(request, y=np.zeros((0, 2), np.float32))
    assert answer["outputs"][0]["parameters"] == {"binary_data_size": 0}
    assert rest == b""


def test_nan_and_infinities_go_both_ways() -> None:
    request = parse(one([float("nan"), float("inf")]))
    assert b'"data":[NaN,Infinity]' in b"".join(request.encode({"y": request.feeds["x"]}).parts)


def test_layouts_in_memory_do_not_matter() -> None:
    body, length = raw(("x", "FP32", [1, 2], bytes(8)), parameters={"binary_data_output": True})
    tensor = np.arange(6, dtype=np.float32).reshape(2, 3)
    for output in (tensor.T, tensor.T.astype(">f4")):
        assert reply(parse(body, length), y=output)[1] == tensor.T.tobytes()
    assert reply(parse(one()), y=tensor.T)[0]["outputs"][0]["data"] == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(
    ("signature", "body", "value"),
    [
        ("serving_default", struct.pack("<4f", 1, 2, 3, 4), [[1.0, 2.0], [3.0, 4.0]]),
        ("serving_default", b"", []),
        ("flags", b"\1\0\0\1", [[True, False], [False, True]]),
        ("text", b"\xff whole", [[b"\xff whole"]]),
    ],
)
def test_a_body_without_json_is_the_tensor(signature: str, body: bytes, value: Any) -> None:
    request = parse(body, 0, signature)
    (feed,) = request.feeds.values()
    assert feed.tolist() == value
    if signature == "serving_default":
        answer, rest = reply(request, y=Y)
        assert answer["outputs"][0]["parameters"] == {"binary_data_size": 8}
        assert rest == Y.tobytes()


@pytest.mark.parametrize(
    ("signature", "body", "reason"),
    [
        (
            "pair",
            b"",
            "Without a JSON header (Inference-Header-Content-Length: 0) a request needs a model of one input; this one has 2",
        ),
        ("free", b"", "the shape of input 'x' cannot be told: it is [...]"),
        ("square", b"", "the shape of input 'x' cannot be told: it is [?, ?]"),
        ("complex", b"", "Input 'x' is complex64, which the protocol has no datatype for"),
        ("serving_default", bytes(12), "Input 'x' got 3 elements; its shape [1, 2] has 2"),
        ("serving_default", bytes(3), "Input 'x' has 3 bytes, which is no multiple of 4, as FP32 has"),
    ],
)
def test_a_body_without_json_must_say_the_shape(signature: str, body: bytes, reason: str) -> None:
    assert reason in refused(body, 0, signature)


@pytest.mark.parametrize("length", [-1, 1_000_000])
def test_the_length_of_the_header_is_within_the_body(length: int) -> None:
    assert f"the length of the body; it is {length}" in refused(one(), length)
    assert refused(one(), len(one()) - 1).startswith("JSON Parse error")
    assert parse(one(), len(one())).outputs == ["y"]


BINARY = {"binary_data_size": 8}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"shape": [1, 3]}, "Input 'x' got 2 elements; its shape [1, 3] has 3"),
        ({"shape": [1, -2]}, "Input 'x' has the shape [1, -2]; it is to be a list of sizes"),
        ({"shape": [True, 2]}, "Input 'x' has the shape [true, 2]; it is to be a list of sizes"),
        ({"shape": [0, 2**63]}, "Input 'x' has the shape [0, 9223372036854775808]; it is to be a list of sizes"),
        ({"shape": 2}, "Input 'x' has the shape 2; it is to be a list of sizes"),
        ({"shape": [0, 2**62, 2**62], "data": []}, "Input 'x' has a shape that no array has"),
        ({"shape": [1] * 90, "data": [1]}, "Input 'x' has a shape that no array has"),
        ({"datatype": "STRING"}, "Input 'x' has the datatype \"STRING\". There are BOOL, UINT8"),
        ({"datatype": 1}, "'datatype' is to be a string, not 1"),
        ({"name": None}, "'name' is to be a string, not null"),
        ({"name": "\ud800"}, "'name' is to be a string"),
        ({"data": None}, "Input 'x' has neither a list of data nor binary_data_size"),
        ({"data": [1, "2"]}, "Input 'x': JSON Value: \"2\" Type: String is not of expected type: float"),
        ({"data": [[1], 2]}, "Input 'x' has lists beside values in its data"),
        ({"data": [1, [2]]}, "Input 'x': JSON Value: [2] Type: Array"),
        ({"data": [1, True]}, "Input 'x': JSON Value: true Type: True is not of expected type: float"),
        ({"data": [1.5, 2], "datatype": "INT32"}, "Input 'x': JSON Value: 1.5 Type: Number is not of expected type: int32"),
        ({"data": [1, 0], "datatype": "BOOL"}, "Input 'x': JSON Value: 1 Type: Number is not of expected type: bool"),
        ({"data": [1, 0], "datatype": "BF16"}, "Input 'x' is BF16, which goes as binary data only"),
        ({"data": [{"b64": ""}], "datatype": "BYTES"}, "is not of expected type: string"),
        ({"parameters": BINARY}, "Input 'x' has binary_data_size, but the request has no header Inference-Header-Content-Length"),
        ({"parameters": {"binary_data_size": -1}}, "Input 'x' has the binary_data_size -1; it is to be a number of bytes"),
        ({"parameters": {"binary_data_size": True}}, "Input 'x' has the binary_data_size true"),
        ({"parameters": []}, "'parameters' of input 'x' is to be a JSON object, not []"),
        ({"parameters": {"shared_memory_region": "r"}}, "The parameters of input 'x' name shared memory"),
    ],
)
def test_an_input_that_breaks_a_rule_is_told(fields: dict[str, Any], reason: str) -> None:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2], **fields}
    assert reason in refused(json.dumps({"inputs": [tensor]}).encode())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"inputs": None}, "The request's 'inputs' is to be a list, not null"),
        ({"inputs": [1]}, "Each of the request's 'inputs' is to be a JSON object, not 1"),
        ({"outputs": {}}, "The request's 'outputs' is to be a list, not {}"),
        ({"outputs": [{}]}, "'name' is to be a string, not null"),
        ({"outputs": [{"name": "z"}]}, "There is no output 'z'. The model's outputs are 'y'."),
        ({"outputs": [{"name": "y"}, {"name": "y"}]}, "Output 'y' is there twice"),
        (
            {"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
            "The parameter 'binary_data' is to be true or false, not 1",
        ),
        ({"outputs": [{"name": "y", "parameters": {"classification": 3}}]}, "Output 'y' is asked for as a classification"),
        ({"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]}, "of output 'y' name shared memory"),
        ({"parameters": {"binary_data_output": "yes"}}, "The parameter 'binary_data_output' is to be true or false"),
        ({"parameters": {"signature_name": 1}}, "'signature_name' is to be a string, not 1"),
        ({"parameters": 1}, "'parameters' of the request is to be a JSON object, not 1"),
        ({"parameters": {"signature_name": "complex"}}, "Output 'y' is complex64, which the protocol has no datatype for"),
        ({"parameters": {"signature_name": "pair"}}, "Output 'brain' is BF16, which goes as binary data only"),
        ({"id": 7}, "'id' is to be a string, not 7"),
        ({"id": "\ud800"}, "'id' is to be a string"),
    ],
)
def test_a_request_that_breaks_a_rule_is_told(fields: dict[str, Any], reason: str) -> None:
    assert reason in refused(one(**fields))


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", one() + b"x"])
def test_a_body_is_one_json_object(body: bytes) -> None:
    refused(body)


def test_an_unknown_signature_is_told() -> None:
    with pytest.raises(ModelInputError, match=r"The model has no signature 'z'\. It has 'serving_default', 'pair'"):
        parse(one(parameters={"signature_name": "z"}))


def test_an_input_given_twice_is_told() -> None:
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
    assert refused(json.dumps({"inputs": [tensor, tensor]}).encode()) == "Input 'x' is there twice"


def test_the_sizes_of_raw_tensors_are_those_of_the_body() -> None:
    body, length = raw(("x", "FP32", [1, 2], bytes(8)))
    assert refused(body[:-1], length) == "unexpected size for input 'x', expecting 1 additional bytes for model 'model'"
    assert refused(body + b"x", length) == "unexpected additional input data for model 'model': 1 bytes"
    assert "got 3 elements" in refused(*raw(("x", "FP32", [1, 2], bytes(12))))
    assert "no multiple of 4" in refused(*raw(("x", "FP32", [1, 2], bytes(9))))
    header = one(parameters={}).replace(b'"data"', b'"parameters": {"binary_data_size": 0}, "data"')
    assert refused(header, len(header)) == "Input 'x' has both data and binary_data_size"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\1\0\0", "Input 'x' of BYTES ends within the length of element 0"),
        (b"\1\0\0\0a\2\0\0\0b", "Input 'x' of BYTES ends within element 1: 2 bytes are said, 1 are there"),
        (b"\xff\xff\xff\xffa", "Input 'x' of BYTES ends within element 0: 4294967295 bytes are said, 1 are there"),
        (b"", "Input 'x' got 0 elements; its shape [1] has 1"),
    ],
)
def test_strings_that_end_too_early_are_told(data: bytes, reason: str) -> None:
    assert refused(*raw(("x", "BYTES", [1], data))) == reason


def test_an_output_that_cannot_be_told_is_named() -> None:
    request = parse(one())
    with pytest.raises(ModelInputError, match="Output 'y' has a string that is not UTF-8"):
        request.encode({"y": np.array([b"\xff"], object)})
    with pytest.raises(ModelInputError, match="Output 'y' is complex64, which the protocol has no datatype for"):
        request.encode({"y": np.array([1j], np.complex64)})


@given(st.binary(max_size=80), st.integers(-1, 90) | st.none())
def test_property_any_bytes_are_a_request_or_an_error(body: bytes, length: int | None) -> None:
    with contextlib.suppress(ModelInputError):
        request = parse(body, length)
        assert length == 0
        assert request.feeds["x"].nbytes == len(body)


@given(st.data())
def test_property_a_request_that_is_cut_or_changed_is_an_error_or_another(data: st.DataObject) -> None:
    body, length = raw(("x", "FP32", [1, 2], bytes(8)), ("t", "BYTES", [1], b"\1\0\0\0a"))
    place = data.draw(st.integers(0, len(body) - 1))
    changed = bytearray(body)
    changed[place] = data.draw(st.integers(0, 255))
    for other in (changed, body[:place]):
        with contextlib.suppress(ModelInputError):
            assert len(parse(bytes(other), length).feeds) == 2
