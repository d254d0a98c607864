"""JSON with tensors: what is a number of which dtype, and how few digits tell it."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bgpy.errors import ModelInputError
from bgpy.tasks.tensorflow import bodies
from bgpy.tasks.tensorflow.bodies import MAX_DEPTH, read_json, read_tensor, tensor_json, write_json

pytestmark = pytest.mark.usefixtures("reader")
FLOATS = ("float16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
NUMBERS = (*FLOATS, *INTEGERS, "bool")


def read(text: bytes, dtype: str) -> Any:
    document = read_json(text)
    return read_tensor(document.value, dtype, literals=document.literals)


def written(tensor: Any) -> bytes:
    return write_json(tensor_json(tensor, "y"))


def refused(text: bytes, dtype: str = "float32") -> str:
    with pytest.raises(ModelInputError) as error:
        read(text, dtype)
    return error.value.reason


@pytest.mark.parametrize(
    ("text", "dtype", "value"),
    [
        (b"[1, 2.5, -0.0, 1e-7, 1E22]", "float32", [1.0, 2.5, -0.0, 1e-7, 1e22]),
        (b"[[1, 2], [3, 4]]", "float64", [[1.0, 2.0], [3.0, 4.0]]),
        (b"2", "float32", 2.0),
        (b"[0.1]", "float16", [0.1]),
        (b"[65504]", "float16", [65504.0]),
        (b"[16777216, -16777216, 33554432]", "float32", [16777216.0, -16777216.0, 33554432.0]),
        (b"[9007199254740992]", "float64", [9007199254740992.0]),
        (b"[16777217.0]", "float32", [16777216.0]),
        (b"[123456789012345678901234567890]", "float32", [123456789012345678901234567890.0]),
        (b"[127, -128]", "int8", [127, -128]),
        (b"[9223372036854775807, -9223372036854775808]", "int64", [2**63 - 1, -(2**63)]),
        (b"[18446744073709551615, 0]", "uint64", [2**64 - 1, 0]),
        (b"[true, false]", "bool", [True, False]),
        (b"true", "bool", True),
        (b'["a", "\xc3\xa9", "\\u00e9", "", "\\u0000"]', "string", [b"a", b"\xc3\xa9", b"\xc3\xa9", b"", b"\0"]),
        (b"[[[1]], [[2]]]", "int32", [[[1]], [[2]]]),
    ],
)
def test_what_fits_a_dtype_becomes_an_array_of_exactly_that(text: bytes, dtype: str, value: Any) -> None:
    expected = np.array(value, object if dtype == "string" else dtype)
    result = read(text, dtype)
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    assert result.tolist() == expected.tolist()
    assert np.signbit(result).tolist() == np.signbit(expected).tolist() if result.dtype.kind == "f" else True


@pytest.mark.parametrize(
    ("text", "dtype", "reason"),
    [
        (b'["1"]', "float32", 'JSON Value: "1" Type: String is not of expected type: float'),
        (b"[1.5, true]", "float32", "JSON Value: true Type: True is not of expected type: float"),
        (b"[1, false]", "float64", "JSON Value: false Type: False is not of expected type: double"),
        (b"[null]", "float32", "JSON Value: null Type: Null is not of expected type: float"),
        (b'[{"a": 1}]', "float32", 'JSON Value: {"a": 1} Type: Object is not of expected type: float'),
        (b"[1.0]", "int32", "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        (b'["1"]', "int64", 'JSON Value: "1" Type: String is not of expected type: int64'),
        (b"[true]", "int64", "JSON Value: true Type: True is not of expected type: int64"),
        (b"[2147483648]", "int32", "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        (b"[-1]", "uint8", "JSON Value: -1 Type: Number is not of expected type: uint8"),
        (b"[-1]", "uint64", "JSON Value: -1 Type: Number is not of expected type: uint64"),
        (b"[256]", "uint8", "JSON Value: 256 Type: Number is not of expected type: uint8"),
        (b"[1]", "bool", "JSON Value: 1 Type: Number is not of expected type: bool"),
        (b"[1]", "string", "JSON Value: 1 Type: Number is not of expected type: string"),
        (b'[{"b64": "YQ=="}]', "string", 'JSON Value: {"b64": "YQ=="} Type: Object is not of expected type: string'),
        (b"[1e39]", "float32", "Cannot convert JSON value: 1e+39 to float without loss of precision."),
        (b"[16777217]", "float32", "Cannot convert JSON value: 16777217 to float without loss of precision."),
        (b"[9007199254740993]", "float64", "Cannot convert JSON value: 9007199254740993 to double without loss of precision."),
        (b"[65520.0]", "float16", "Cannot convert JSON value: 65520.0 to half without loss of precision."),
        (b"[[1], [2, 3]]", "float32", "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        (b"[[1], 2]", "float32", "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        (b"[1, [2]]", "float32", "JSON Value: [2] Type: Array: a list is here one level too deep"),
        (b"[1]", "complex64", "No JSON value can be converted to type: complex64"),
    ],
)
def test_what_does_not_fit_is_told(text: bytes, dtype: str, reason: str) -> None:
    assert refused(text, dtype) == reason


def test_an_integer_of_more_than_64_bits_is_none_for_an_integer_dtype() -> None:
    assert "is not of expected type: int64" in refused(b"[18446744073709551616]", "int64")
    assert "is not of expected type: uint64" in refused(b"[18446744073709551616]", "uint64")


@pytest.mark.parametrize("text", [b"[1e400]", b"[-1e400]", b"[1" + b"0" * 400 + b"]", b"[1" + b"0" * 400 + b".0]"])
def test_a_number_that_no_float_holds_is_no_infinity(text: bytes) -> None:
    assert refused(text, "float64").startswith("Cannot convert JSON value: ")


def test_digits_without_end_are_an_error_like_any_other() -> None:
    assert refused(b"[" + b"1" * 5000 + b"]") in (
        "JSON Parse error: Number too big to be stored in double.",
        # where Python has no limit of digits
        f"Cannot convert JSON value: {'1' * bodies.MAX_SHOWN}... to float without loss of precision.",
    )


def test_nan_and_infinities_are_numbers() -> None:
    result = read(b"[NaN, Infinity, -Infinity, 1]", "float32")
    assert math.isnan(result[0])
    assert result[1:].tolist() == [math.inf, -math.inf, 1.0]


@pytest.mark.parametrize("dtype", FLOATS)
def test_an_infinity_beside_a_large_integer_does_not_hide_what_is_lost(dtype: str) -> None:
    assert "without loss" in refused(b"[Infinity, 9007199254740993]", dtype)


@pytest.mark.parametrize(("text", "shape"), [(b"[]", (0,)), (b"[[], []]", (2, 0)), (b"[[[]]]", (1, 1, 0)), (b"[[]]", (1, 0))])
@pytest.mark.parametrize("dtype", [*NUMBERS, "string"])
def test_no_values_at_all_have_a_shape(text: bytes, shape: tuple[int, ...], dtype: str) -> None:
    result = read(text, dtype)
    assert result.shape == shape
    assert result.dtype == (object if dtype == "string" else dtype)


def test_bfloat16_is_read_and_written() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    result = read(b"[1, 0.5]", "bfloat16")
    assert result.dtype == ml_dtypes.bfloat16
    assert written(result) == b"[1.0,0.5]"


@pytest.mark.parametrize("body", [b"", b" \r\n\t"])
def test_an_empty_document_is_told_as_such(body: bytes) -> None:
    with pytest.raises(ModelInputError) as error:
        read_json(body)
    assert error.value.reason == "JSON Parse error: The document is empty"


@pytest.mark.parametrize("body", [b"{", b"[1,]", b"[01]", b"nul", b"{'a': 1}", b'["a\nb"]', b"\xff", b"[1.]", b'["\\x"]'])
@pytest.mark.parametrize("trailing", [False, True])
def test_what_is_no_json_is_told_as_such(body: bytes, trailing: bool) -> None:
    with pytest.raises(ModelInputError, match=r"^JSON Parse error: .* at offset: "):
        read_json(body, trailing=trailing)


@pytest.mark.parametrize(
    "body", [b'{"a": 1} xx', b'{"a": 1}{"a": 2}', b'{"a": 1}\0', b'{"a": 1}\xff\xfe', b'\xef\xbb\xbf{"a": 1}]']
)
def test_text_behind_a_document_is_left_alone_where_it_may_be(body: bytes) -> None:
    assert read_json(body, trailing=True).value == {"a": 1}
    with pytest.raises(ModelInputError, match="must not be followed"):
        read_json(body)


@pytest.mark.parametrize(
    "body", [bytearray(b"[1]"), memoryview(b"[1]"), memoryview(b"x[1]x")[1:4], np.frombuffer(b"[1]", np.uint8).data]
)
def test_a_body_is_whatever_has_bytes(body: Any) -> None:
    assert read_json(body).value == [1]


@pytest.mark.parametrize("text", [b'["\\ud800"]', b'["\xed\xa0\x80"]', b'["\xff"]'])
def test_a_string_that_is_no_text_is_refused(text: bytes) -> None:
    assert "is not UTF-8" in refused(text, "string")


def test_depth_has_a_limit() -> None:
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert read_json(deepest).value
    # The last one is as deep only with the bracket that comes long before.
    late = b"[" + b"[]," * 70_000 + deepest + b"]"
    for body in (b"[" + deepest + b"]", b'{"a":' * 101 + b"1" + b"}" * 101, b"[" * 5_000_000, b"[[]," * 100_000, late):
        with pytest.raises(ModelInputError, match="nested more than 100 levels deep"):
            read_json(body)


def test_brackets_side_by_side_are_not_deep() -> None:
    many = b"[" + b",".join([b"[[]]"] * 70_000) + b"]"
    assert len(read_json(many).value) == 70_000
    assert read_json(json.dumps(["[" * 300, '"\\[{' * 300]).encode()).value == ["[" * 300, '"\\[{' * 300]


def test_an_error_shows_only_the_beginning_of_a_large_value() -> None:
    reason = refused(json.dumps([{"a": list(range(100_000))}]).encode())
    assert len(reason) < 300
    assert "..." in reason


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (np.array([0.1, 1 / 3, 16777216, 1], np.float32), [b"0.1", b"0.33333334", b"16777216.0", b"1.0"]),
        (np.array([0.1, 1 / 3, 3], np.float64), [b"0.1", b"0.3333333333333333", b"3.0"]),
        (np.array([-0.0, 100000.0], np.float32), [b"-0.0", b"100000.0"]),
        (np.array([True, False]), [b"true", b"false"]),
        (np.array([2**64 - 1], np.uint64), [b"18446744073709551615"]),
        (np.array([-128], np.int8), [b"-128"]),
        (np.array([np.nan, np.inf, -np.inf, 0.1], np.float32), [b"NaN", b"Infinity", b"-Infinity", b"0.1"]),
        (np.array([np.nan, 0.1], np.float64), [b"NaN", b"0.1"]),
        (np.array([np.nan, 1], np.float16), [b"NaN", b"1.0"]),
        (np.array([b"a", "é".encode(), b"null"], object), [b'"a"', '"é"'.encode(), b'"null"']),
    ],
)
def test_what_is_written(tensor: Any, text: list[bytes]) -> None:
    assert written(tensor) == b"[" + b",".join(text) + b"]"


@pytest.mark.parametrize("value", [1e-7, 1e22, 1e16, 3.4e38, 1e-45, 123456789.0, 1e15, 1e-5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_and_small_floats_keep_a_sign_of_being_floats(value: float, dtype: str) -> None:
    tensor = np.array([value], dtype)
    text = written(tensor)[1:-1]
    assert b"." in text or b"e" in text.lower()
    assert np.array(json.loads(text), dtype) == tensor[0]
    assert len(text.lower().split(b"e")[0].replace(b".", b"").strip(b"0")) <= 9


@pytest.mark.parametrize(
    "value", [np.float32(0.1), np.float64(0.1), np.bool_(True), np.int64(3), np.uint8(3), np.float32(np.nan)]
)
def test_a_tensor_without_axes_is_a_value(value: Any) -> None:
    text = written(np.asarray(value))
    assert text == (b"NaN" if value != value else {"f": b"0.1", "b": b"true"}.get(value.dtype.kind, b"3"))
    assert written(np.array(b"a", object)) == b'"a"'


@pytest.mark.parametrize("tensor", [np.zeros((2, 0), np.float32), np.zeros((0, 2), np.float32), np.zeros((2, 0), object)])
def test_a_tensor_without_values_keeps_its_first_axes(tensor: Any) -> None:
    assert written(tensor) == (b"[[],[]]" if tensor.shape[0] else b"[]")


def test_the_layout_of_a_tensor_in_memory_does_not_matter() -> None:
    tensor = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert written(tensor.T) == b"[[0.0,3.0],[1.0,4.0],[2.0,5.0]]"
    assert written(tensor[:, ::2]) == b"[[0.0,2.0],[3.0,5.0]]"
    assert written(tensor.astype(">f4")) == written(tensor)


def test_what_json_has_nothing_for_is_told_with_the_output() -> None:
    with pytest.raises(ModelInputError) as error:
        tensor_json(np.array([1j]), "y")
    assert error.value.reason == "Failed to write JSON value for tensor type: complex128 (output 'y')"
    with pytest.raises(ModelInputError) as error:
        tensor_json(np.array([b"\xff"], object), "y")
    assert error.value.reason == "Output 'y' has a string that is not UTF-8, which JSON has nothing for"


@given(data=st.data(), dtype=st.sampled_from(NUMBERS))
def test_property_what_is_written_reads_back(data: st.DataObject, dtype: str) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=4))
    tensor = data.draw(arrays.arrays(dtype, shape))
    again = read(written(tensor), dtype)
    assert again.dtype == tensor.dtype
    np.testing.assert_array_equal(again, tensor)
    if tensor.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(again[tensor == tensor]), np.signbit(tensor[tensor == tensor]))


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=4))
)
def test_property_any_json_is_an_array_or_an_error(value: Any) -> None:
    text = json.dumps(value).encode()
    for dtype in (*NUMBERS, "string"):
        with contextlib.suppress(ModelInputError):
            assert read(text, dtype).size <= text.count(b",") + 1


@given(st.binary(max_size=60))
def test_property_any_bytes_are_a_document_or_an_error(body: bytes) -> None:
    with contextlib.suppress(ModelInputError):
        value = read_json(body, trailing=True).value
        text = body.decode("utf-8", "surrogateescape").removeprefix("\ufeff").lstrip(" \t\r\n")
        assert str(value) == str(json.JSONDecoder(parse_int=float).raw_decode(text)[0]) or isinstance(value, int)
