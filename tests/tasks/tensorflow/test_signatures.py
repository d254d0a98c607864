"""What fits a signature: names, dtypes cast where nothing is lost, shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.errors import ModelInputError
from bgpy.tasks.tensorflow.signatures import Signature, TensorInfo, check_feeds, describe_signature, dtype_name, fits, numpy_dtype


def signature(dtype: str = "float32", shape: tuple[int | None, ...] | None = (None,)) -> Signature:
    return Signature("serving_default", {"x": TensorInfo("x", dtype, shape, "x:0")}, {"y": TensorInfo("y", "int64", None)})


def feed(dtype: str, value: Any, shape: tuple[int | None, ...] | None = (None,)) -> Any:
    return check_feeds(signature(dtype, shape), {"x": value})["x"]


def refusal(dtype: str, value: Any, shape: tuple[int | None, ...] | None = (None,)) -> str:
    with pytest.raises(ModelInputError) as refused:
        feed(dtype, value, shape)
    return str(refused.value)


@pytest.mark.parametrize(
    ("dtype", "value", "result"),
    [
        ("float32", [1, 2.5], [1.0, 2.5]),
        ("float32", [0.1], [np.float32(0.1)]),
        ("float32", [True], [1.0]),
        ("float32", np.array([np.nan, -np.inf]), [np.nan, -np.inf]),
        ("float64", np.array([0.1], np.float32), [np.float64(np.float32(0.1))]),
        ("float16", np.array([0.5], np.float32), [0.5]),
        ("float32", [2**24, -(2**24)], [2.0**24, -(2.0**24)]),
        ("float32", [2**24 + 2], [2.0**24 + 2]),
        ("int64", [3.0, -2.0], [3, -2]),
        ("int64", np.array([7], np.uint8), [7]),
        ("int64", [2**53 + 1, 2.0], [2**53 + 1, 2]),
        ("int64", [-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]),
        ("int8", [-128, 127], [-128, 127]),
        ("uint64", [2**64 - 1, 0], [2**64 - 1, 0]),
        ("int32", [True, False], [1, 0]),
        ("bool", [True, False], [True, False]),
        ("complex64", [1, 2.5], [1 + 0j, 2.5 + 0j]),
        ("complex128", [1j], [1j]),
        ("string", ["ä", b"\xff\x00", np.str_("c")], ["ä".encode(), b"\xff\x00", b"c"]),
        ("string", np.array(["a", "bc"]), [b"a", b"bc"]),
        ("string", [], []),
        ("string", [{"b64": "/wA="}, "a", {"b64": "YQ"}], [b"\xff\x00", b"a", b"a"]),
        ("bool", [], []),
    ],
)
def test_values_are_cast_where_nothing_is_lost(dtype: str, value: Any, result: Any) -> None:
    array = feed(dtype, value)
    assert array.dtype == numpy_dtype(dtype)
    np.testing.assert_array_equal(array, np.array(result, numpy_dtype(dtype)))


@pytest.mark.parametrize(
    ("dtype", "value", "reason"),
    [
        ("float32", [1e300], "1e+300 is out of the range of float32"),
        ("float32", [2**24 + 1], "float32 has no 16777217"),
        ("float32", [10**400], "out of the range of float32"),
        ("float32", [1j], "the value is complex128"),
        ("float32", ["1"], "the value is string"),
        ("float32", [None], "the value holds None"),
        ("float32", [{}], "the value holds a dict"),
        ("float32", [[1], [1, 2]], "the lists of the value have different lengths"),
        ("float16", np.array([0.1], np.float32), "the value is float32, whose digits float16 has not all"),
        ("float64", [2**53 + 1], "float64 has no 9007199254740993"),
        ("int64", [1.5], "1.5 is no whole number"),
        ("int64", [np.nan], "nan is no whole number"),
        ("int64", np.array([2.0**63]), "is out of the range of int64"),
        ("int8", [128], "128 is out of the range of int8"),
        ("uint8", [-1], "-1 is out of the range of uint8"),
        ("int64", [2**70], "1180591620717411303424 is out of the range of int64"),
        ("int64", ["1"], "the value is string"),
        ("bool", [1, 0], "the value is int64"),
        ("bool", [1.0], "the value is float64"),
        ("bool", [None], "the value holds None"),
        ("string", [1], "the value holds a int"),
        ("string", [{"b64": "ä"}], "the value holds a b64 that is no base64"),
        ("string", [{"b64": "YQ", "x": 1}], "the value holds a dict"),
        ("string", np.array([1.0]), "the value is float64"),
        ("string", [["a"], ["b", "c"]], "the lists of the value have different lengths"),
        ("float32", np.array(["2026-01-01"], "datetime64[D]"), "the value is datetime64[D]"),
        ("float32", np.ma.masked_array([1, 2], [True, False], np.float32), "some of the value is masked"),
    ],
)
def test_a_value_that_would_lose_something_is_refused(dtype: str, value: Any, reason: str) -> None:
    text = refusal(dtype, value)
    assert text.startswith(f"Input 'x' takes {dtype} [?]: ")
    assert reason in text
    assert text.endswith(f"The model's inputs are x: {dtype} [?].")


@given(st.lists(st.integers() | st.floats() | st.booleans(), min_size=1), st.sampled_from(["int8", "uint64", "int64", "float64"]))
def test_property_a_cast_value_is_the_value(values: list[Any], dtype: str) -> None:
    try:
        array = feed(dtype, values)
    except ModelInputError:
        return
    for made, given_value in zip(array.tolist(), values, strict=True):
        assert made == given_value or made != made


def test_an_array_that_fits_is_passed_on_as_it_is() -> None:
    array = np.zeros((2, 3), np.float32)
    assert feed("float32", array, (None, 3)) is array
    texts = np.array([b"a"], object)
    assert feed("string", texts) is texts


def test_a_masked_array_without_a_mask_is_an_array() -> None:
    assert feed("float32", np.ma.masked_array([1, 2], None, np.float32)).tolist() == [1.0, 2.0]


def test_bytes_of_another_order_are_turned() -> None:
    array = feed("float32", np.array([1.5], ">f4"))
    assert array.dtype == np.dtype("float32")
    assert array.tolist() == [1.5]


@pytest.mark.parametrize(
    ("shape", "given_shape", "right"),
    [
        ((None, 3), (2, 3), True),
        ((None, 3), (0, 3), True),
        ((None, 3), (2, 4), False),
        ((None, 3), (3,), False),
        ((), (), True),
        ((), (1,), False),
        (None, (1, 2, 3), True),
    ],
)
def test_a_shape_fits_where_its_fixed_sizes_do(shape: Any, given_shape: tuple[int, ...], right: bool) -> None:
    assert fits(shape, given_shape) is right
    value = np.zeros(given_shape, np.float32)
    if right:
        assert feed("float32", value, shape) is value
    else:
        own = "[]" if shape == () else "[?, 3]"
        shown = str(list(given_shape))
        assert refusal("float32", value, shape) == (
            f"Input 'x' takes float32 {own}: the value has the shape {shown}. The model's inputs are x: float32 {own}."
        )


def test_a_wrong_name_is_told_with_what_the_model_takes() -> None:
    two = Signature("sums", {"a": TensorInfo("a", "int64", (None,)), "b": TensorInfo("b", "string", None)}, {})
    listed = "The model's inputs are a: int64 [?]; b: string [...]."
    for feeds, reason in [
        ({"a": [1], "b": ["x"], "c": 1}, "There is no input 'c' in signature 'sums'."),
        ({"a": [1]}, "Input 'b' of signature 'sums' has no value."),
        (None, "Input 'a' of signature 'sums' has no value."),
        ([1], "feed_dict maps names of inputs to values; it is a list."),
    ]:
        with pytest.raises(ModelInputError) as refused:
            check_feeds(two, feeds)  # type: ignore[arg-type]
        assert str(refused.value) == f"{reason} {listed}"


def test_feeds_come_in_the_order_of_the_signature() -> None:
    two = Signature("s", {"b": TensorInfo("b", "int64", ()), "a": TensorInfo("a", "int64", ())}, {})
    assert list(check_feeds(two, {"a": 1, "b": 2}).items()) == [("b", 2), ("a", 1)]
    assert check_feeds(Signature("none", {}, {}), None) == {}


def test_dtypes_are_called_as_tensorflow_calls_them() -> None:
    for name in ("bool", "uint8", "float16", "complex128"):
        assert dtype_name(numpy_dtype(name)) == name
    assert dtype_name(numpy_dtype("string")) == dtype_name(np.dtype("U3")) == dtype_name(np.dtype("S3")) == "string"
    with pytest.raises(ModelInputError, match="dtype resource"):
        numpy_dtype("resource")


def test_bfloat16_is_cast_as_other_floats_are() -> None:
    pytest.importorskip("ml_dtypes")
    array = feed("bfloat16", [1, 2.5])
    assert dtype_name(array.dtype) == "bfloat16"
    assert array.astype(np.float32).tolist() == [1.0, 2.5]
    assert "bfloat16 has no 257" in refusal("bfloat16", [257])
    assert feed("float32", array).tolist() == [1.0, 2.5]


def test_a_signature_is_described_as_plain_data() -> None:
    assert describe_signature(signature("float32", (None, 2))) == {
        "inputs": {"x": {"dtype": "float32", "shape": [None, 2], "tensor": "x:0"}},
        "outputs": {"y": {"dtype": "int64", "shape": None, "tensor": ""}},
        "method": "tensorflow/serving/predict",
    }
