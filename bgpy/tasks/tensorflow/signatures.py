"""
What a model takes and gives, and whether given values fit.

A value is cast to the model's dtype where nothing is lost:

===========  =========================================================================================================
for          are taken
===========  =========================================================================================================
bool         bools
integers     integers and bools that fit the range, and floats that are whole numbers
floats       integers that stay exactly what they are; float64, which is what Python's floats are, rounded to the width of the
             model's; narrower floats that stay what they are. No finite number becomes an infinity
complex      as floats, and complex numbers
string       texts, as UTF-8; bytes; and ``{"b64": TEXT}``, which is what JSON has for bytes that are no text
===========  =========================================================================================================
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bgpy.errors import ModelInputError

#: What TensorFlow calls a signature when nobody names it.
DEFAULT_SIGNATURE = "serving_default"
PREDICT_METHOD = "tensorflow/serving/predict"

_NUMPY = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128".split(),
)
#: To ask a dtype for its name takes as long as to read a hundred numbers.
_NAMES = {np.dtype(name): name for name in _NUMPY}
#: Of `ml_dtypes`, which TensorFlow brings along.
_EXTENDED = frozenset(("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"))
#: From here on float64 has not every integer.
_EXACT = 1 << 53


class TensorInfo(NamedTuple):
    """
    One input or output.

    Attributes
    ----------
    name
        What callers call it.
    dtype
        As TensorFlow calls it: "float32", "string", "bool".
    shape
        The length of each axis, None where any will do; None alone where even the number of axes is free.
    tensor
        The name of the tensor in the graph, where it has one.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    tensor: str = ""


class Signature(NamedTuple):
    """
    One thing that a model can be asked for.

    Attributes
    ----------
    name
        Such as "serving_default".
    inputs, outputs
        By name, in the model's own order.
    method
        What TensorFlow Serving calls the kind of the signature.
    """

    name: str
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    method: str = PREDICT_METHOD


def shape_text(shape: tuple[int | None, ...] | None) -> str:
    """Return a shape as errors show it: ``[?, 784]``, and ``[...]`` where the number of axes is free."""
    return "[...]" if shape is None else f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def tensor_text(info: TensorInfo) -> str:
    """Return an input or output as errors show it: ``x: float32 [?, 784]``."""
    return f"{info.name}: {info.dtype} {shape_text(info.shape)}"


def inputs_text(signature: Signature) -> str:
    """Return the sentence that ends an error about inputs."""
    if not signature.inputs:
        return "The model takes no inputs."
    return f"The model's inputs are {'; '.join(tensor_text(info) for info in signature.inputs.values())}."


def describe_signature(signature: Signature) -> dict[str, Any]:
    """Return a signature as plain JSON data."""
    return {
        "inputs": {name: _describe(info) for name, info in signature.inputs.items()},
        "outputs": {name: _describe(info) for name, info in signature.outputs.items()},
        "method": signature.method,
    }


def _describe(info: TensorInfo) -> dict[str, Any]:
    return {"dtype": info.dtype, "shape": None if info.shape is None else list(info.shape), "tensor": info.tensor}


def numpy_dtype(name: str) -> Any:
    """Return the numpy dtype of a dtype's name: that of objects for "string". Raises ModelInputError where numpy has none."""
    if name in _NUMPY:
        return np.dtype(name)
    if name == "string":
        return np.dtype(object)
    if name in _EXTENDED:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    raise ModelInputError(f"No value can be given for a tensor of dtype {name}.")


def dtype_name(dtype: Any) -> str:
    """Return what TensorFlow calls a numpy dtype: "string" for texts, bytes and objects."""
    name = _NAMES.get(dtype)
    if name is None:
        return "string" if dtype.kind in "OSUT" else str(dtype.name)
    return name


def check_feeds(signature: Signature, feeds: Mapping[str, Any] | None) -> dict[str, Any]:
    """
    Return the values as arrays of the signature's dtypes, in the order of its inputs.

    Parameters
    ----------
    signature
        What the model takes.
    feeds
        By the name of the input a number, text, bytes, nested list or array. An array that fits already is passed on as it is.

    Raises
    ------
    ModelInputError
        A name is wrong or missing, or a value has the wrong dtype or shape: says which, and what the model takes.
    """
    if feeds is None:
        feeds = {}
    elif type(feeds) is not dict and not isinstance(feeds, Mapping):
        raise ModelInputError(
            f"feed_dict maps names of inputs to values; it is a {type(feeds).__name__}. {inputs_text(signature)}"
        )
    if feeds.keys() != signature.inputs.keys():
        _refuse_names(signature, feeds)
    return {name: check_feed(signature, info, feeds[name]) for name, info in signature.inputs.items()}


def check_feed(signature: Signature, info: TensorInfo, value: Any) -> Any:
    """Return one value as an array of the input's dtype; see `check_feeds`."""
    try:
        array = cast(value, info.dtype)
    except _UnfitError as unfit:
        raise ModelInputError(
            f"Input {info.name!r} takes {info.dtype} {shape_text(info.shape)}: {unfit}. {inputs_text(signature)}"
        ) from None
    if not fits(info.shape, array.shape):
        raise ModelInputError(
            f"Input {info.name!r} takes {info.dtype} {shape_text(info.shape)}: the value has the shape {shape_text(array.shape)}."
            f" {inputs_text(signature)}"
        )
    return array


def fits(shape: tuple[int | None, ...] | None, given: tuple[int, ...]) -> bool:
    """Tell whether an array of the given shape may stand for a tensor of a shape that leaves some open."""
    if shape is None:
        return True
    if len(shape) != len(given):
        return False
    for size, own in zip(shape, given, strict=True):
        if size is not None and size != own:
            return False
    return True


def _refuse_names(signature: Signature, feeds: Mapping[str, Any]) -> None:
    where = f"signature {signature.name!r}"
    for name in feeds:
        if name not in signature.inputs:
            raise ModelInputError(f"There is no input {name!r} in {where}. {inputs_text(signature)}")
    missing = next(name for name in signature.inputs if name not in feeds)
    raise ModelInputError(f"Input {missing!r} of {where} has no value. {inputs_text(signature)}")


class _UnfitError(Exception):
    """Say, between these functions only, why a value cannot be cast."""


def cast(value: Any, dtype: str) -> Any:
    """Return a value as an array of a dtype, see the top of this page; raises `_UnfitError`."""
    if dtype == "string":
        return _strings(value)
    target = numpy_dtype(dtype)
    if type(value) is np.ndarray and value.dtype == target:
        return value
    array = _array(value)
    if array.dtype == target:
        return array
    if not array.size:
        return array.astype(target)  # of an empty list nobody knows what it would have held
    if target.kind in "iu" and array.dtype.kind == "f" and not isinstance(value, np.ndarray):
        array = _array(value, object)  # a list of floats and large integers: each is looked at as it was given
    if array.dtype.kind == "O":
        return _cast_objects(array, target)
    return _cast_numbers(array, target)


def _array(value: Any, dtype: Any = None) -> Any:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise _UnfitError("some of the value is masked; give what stands for that, as with filled")
    try:
        return np.asarray(value, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        if "inhomogeneous" in str(error):
            raise _UnfitError("the lists of the value have different lengths") from None
        raise _UnfitError(f"the value, a {type(value).__name__}, cannot be made an array ({error})") from None


def _cast_numbers(array: Any, target: Any) -> Any:
    source = array.dtype
    have, want = _family(source), _family(target)
    if have is None or want is None or (want == "bool") != (have == "bool" and want == "bool"):
        raise _UnfitError(f"the value is {dtype_name(source)}")
    if want == "int":
        return _to_integers(array, target)
    if have == "complex" and want == "float":
        raise _UnfitError(f"the value is {dtype_name(source)}")
    if have == "int":
        return _integers_to_floats(array, target)
    with np.errstate(all="ignore"):
        result = array.astype(target)
        lost = np.isfinite(array) & ~np.isfinite(result)
        if lost.any():
            raise _UnfitError(f"{array[lost][0]} is out of the range of {target.name}")
        if have != "bool" and source.itemsize < _widest(source) and not _same(array, result):
            raise _UnfitError(f"the value is {dtype_name(source)}, whose digits {target.name} has not all; cast it yourself")
    return result


def _widest(dtype: Any) -> int:
    """Return the size of the floats that Python itself has, of which nobody chose the width."""
    return 16 if dtype.kind == "c" else 8


def _same(array: Any, result: Any) -> bool:
    back = result.astype(array.dtype)
    return bool(((back == array) | (array != array)).all())


def _family(dtype: Any) -> str | None:
    """Return what kind of number a dtype has, also of those that numpy itself does not know."""
    if dtype.kind in "biufc":
        return {"b": "bool", "i": "int", "u": "int", "f": "float", "c": "complex"}[str(dtype.kind)]
    if dtype.name in _EXTENDED:
        return "int" if "int" in dtype.name else "float"
    return None


def _to_integers(array: Any, target: Any) -> Any:
    if array.dtype.kind == "b":
        return array.astype(target)
    lowest, highest = _range(target)
    if _family(array.dtype) == "float":
        wide = array.astype(np.float64)
        whole = np.isfinite(wide) & (np.floor(wide) == wide)
        if not whole.all():
            raise _UnfitError(f"{array[~whole][0]} is no whole number")
        # The ends of the range of 64 bits are no floats: the first float above is a power of two.
        wrong = (wide < lowest) | (wide >= float(highest + 1))
    elif array.dtype.kind in "iu":
        least, most = int(array.min()), int(array.max())
        if lowest <= least and most <= highest:
            return array.astype(target)
        raise _UnfitError(f"{least if least < lowest else most} is out of the range of {target.name}")
    else:
        raise _UnfitError(f"the value is {dtype_name(array.dtype)}")
    if wrong.any():
        raise _UnfitError(f"{array[wrong][0]} is out of the range of {target.name}")
    return array.astype(target)


def _range(target: Any) -> tuple[int, int]:
    if target.kind in "iu":
        info = np.iinfo(target)
        return int(info.min), int(info.max)
    return (-8, 7) if target.name == "int4" else (0, 15)


def _integers_to_floats(array: Any, target: Any) -> Any:
    with np.errstate(all="ignore"):
        result = array.astype(target)
        least, most = int(array.min()), int(array.max())
        digits = 1 << {"float64": 53, "complex128": 53, "float32": 24, "complex64": 24, "float16": 11, "bfloat16": 8}.get(
            target.name, 3
        )
        if -digits <= least and most <= digits:
            return result
        real = result.real if result.dtype.kind == "c" else result
        for given, made in zip(array.flat, real.flat, strict=True):
            made = float(made)
            if not np.isfinite(made) or int(made) != int(given):
                raise _UnfitError(f"{target.name} has no {given}")
    return result


def _cast_objects(array: Any, target: Any) -> Any:
    """Cast numbers that have no common dtype of their own, such as integers of more than 64 bits."""
    kinds = (bool, np.bool_) if target.kind == "b" else (bool, int, float, complex, np.generic)
    for item in array.flat:
        if not isinstance(item, kinds):
            what = f"a {type(item).__name__}" if item is not None else "None"
            raise _UnfitError(f"the value holds {what}")
    flat = [_cast_single(item, target) for item in array.flat]
    return np.array(flat, target).reshape(array.shape)


def _cast_single(item: Any, target: Any) -> Any:
    single = np.asarray(item)
    if single.dtype.kind == "O":
        raise _UnfitError(f"{item} is out of the range of {target.name}")
    return _cast_numbers(single, target)[()]


def _strings(value: Any) -> Any:
    """Return texts and bytes as an array of bytes objects."""
    if isinstance(value, np.ndarray):
        array = value
    else:
        # As objects: numpy's own bytes lose the zeros at their end.
        array = _array(value, object)
    if array.dtype.kind in "SUT":
        array = array.astype(object)
    elif array.dtype.kind != "O":
        if not array.size:
            return array.astype(object)
        raise _UnfitError(f"the value is {dtype_name(array.dtype)}")
    if all(type(item) is bytes for item in array.flat):
        return array
    result = np.empty(array.shape, object)
    flat = result.reshape(-1)
    for index, item in enumerate(array.flat):
        flat[index] = _bytes(item)
    return result


def _bytes(item: Any) -> bytes:
    if isinstance(item, str):
        return str.encode(item, "utf-8", "surrogatepass")
    if isinstance(item, bytes):
        return bytes(item)
    if is_base64(item):
        try:
            return decode_base64(item)
        except ValueError:
            raise _UnfitError("the value holds a b64 that is no base64") from None
    if isinstance(item, (list, tuple)):
        raise _UnfitError("the lists of the value have different lengths")
    raise _UnfitError(f"the value holds {'None' if item is None else 'a ' + type(item).__name__}")


def is_base64(value: object) -> bool:
    """Tell whether a value is what JSON has for bytes here, as in TensorFlow Serving: ``{"b64": TEXT}``."""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def decode_base64(value: dict[str, str]) -> bytes:
    """Return the bytes of what is `is_base64`, with its padding or without; raises ValueError for what is no base64."""
    text = "".join(value["b64"].split())
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
