"""
JSON bodies with tensors, which both protocols of model servers have: read strictly, written with the fewest digits.

A number is what the JSON text says: an integer is no float and no bool, a float may be written as an integer. Nothing is lost
silently, but the digits of a float beyond those of its dtype. ``NaN``, ``Infinity`` and ``-Infinity`` are numbers, both ways.

orjson reads and writes where it is installed. What it refuses, such as those three words, or text behind the document, goes to
the standard library's json, which is some ten times slower; what both refuse is an error.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from bgpy.errors import ModelInputError
from bgpy.tasks.tensorflow.signatures import dtype_name, numpy_dtype

orjson: Any
try:
    import orjson
except ImportError:
    orjson = None

#: Values of a reply as JSON: of floats some 250 MB of text.
MAX_VALUES = 20_000_000
#: Levels of arrays and objects within one another.
MAX_DEPTH = 100
#: Characters of a value that an error shows.
MAX_SHOWN = 100

#: Where integers of a float dtype begin to have gaps.
_EXACT = {"bfloat16": 1 << 8, "float16": 1 << 11, "float32": 1 << 24, "float64": 1 << 53}
_INTEGERS = frozenset("int8 int16 int32 int64 uint8 uint16 uint32 uint64".split())
#: What TensorFlow's errors call a dtype that has another name there.
_ERROR_NAMES = {"float16": "half", "float32": "float", "float64": "double"}
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BRACKETS_AT_ONCE = 1 << 16
_WHITESPACE = " \t\n\r"


class Encoded(NamedTuple):
    """
    The body of a reply.

    Attributes
    ----------
    content_type
        Its media type.
    header_length
        Bytes of JSON at its start where tensors follow it, else None.
    parts
        The body in pieces, in order: bytes and what else has bytes.
    """

    content_type: str
    header_length: int | None
    parts: list[Any]


class Document(NamedTuple):
    """
    A JSON text that was read.

    Attributes
    ----------
    value
        What it says.
    literals
        Whether it may have ``true`` or ``false`` somewhere, which are numbers to most of Python.
    """

    value: Any
    literals: bool


class Constant(float):
    """A NaN or an infinity that is in the text as such, not a number too large for a float."""

    __slots__ = ()


_DECODER = json.JSONDecoder(parse_constant=Constant)
_ENCODER = json.JSONEncoder()


def read_json(body: Any, *, trailing: bool = False) -> Document:
    """
    Read a JSON text.

    Parameters
    ----------
    body
        Bytes, or what else has bytes.
    trailing
        Whether anything may come behind the document.

    Raises
    ------
    ModelInputError
        It is no JSON, or nested more than `MAX_DEPTH` levels deep.
    """
    text = body if isinstance(body, (bytes, bytearray)) else bytes(body)
    if not text or text.isspace():
        raise ModelInputError("JSON Parse error: The document is empty")
    _check_depth(text)
    # One byte is looked for much faster than a word, and digits have none of them.
    literals = (b"r" in text and b"true" in text) or (b"l" in text and b"false" in text)
    if orjson is not None:
        try:
            return Document(orjson.loads(text), literals)
        except ValueError:
            pass  # the other reader knows more, or says what is wrong
    return Document(_read_slowly(text, trailing), literals)


def _read_slowly(body: bytes | bytearray, trailing: bool) -> Any:
    # Bytes that are no UTF-8 may be behind the document; within a string of it they are found when that is used.
    text = body.decode("utf-8", "surrogateescape").removeprefix("\ufeff").lstrip(_WHITESPACE)
    try:
        value, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise ModelInputError(f"JSON Parse error: {error.msg} at offset: {error.pos}") from None
    except ValueError:
        raise ModelInputError("JSON Parse error: Number too big to be stored in double.") from None
    if not trailing and text[end:].strip(_WHITESPACE):
        raise ModelInputError(f"JSON Parse error: The document root must not be followed by other values. at offset: {end}")
    return value


def _check_depth(body: bytes | bytearray) -> None:
    """Refuse depth before anything is built, at a cost that does not count where there are few brackets."""
    if _is_rare(body, b"[") and _is_rare(body, b"{"):
        return
    brackets = _STRING.sub(b"", body).translate(None, delete=_NOT_BRACKETS)
    depth = 0
    for start in range(0, len(brackets), _BRACKETS_AT_ONCE):
        codes = np.frombuffer(brackets[start : start + _BRACKETS_AT_ONCE], np.uint8)
        depths = depth + np.cumsum(np.where((codes == ord("[")) | (codes == ord("{")), 1, -1))
        if depths.max() > MAX_DEPTH:
            raise ModelInputError(f"JSON Parse error: The document is nested more than {MAX_DEPTH} levels deep")
        depth = int(depths[-1])


def _is_rare(body: bytes | bytearray, byte: bytes) -> bool:
    """Tell whether a byte occurs so seldom that two like it cannot make depth; to find it is ten times faster than to count."""
    position = -1
    for _ in range(MAX_DEPTH // 2 + 1):
        position = body.find(byte, position + 1)
        if position < 0:
            return True
    return False


def shown(value: object) -> str:
    """Return a JSON value as errors show it: as JSON in ASCII, long ones cut."""
    text = ""
    for piece in _ENCODER.iterencode(value):
        text += piece
        if len(text) > MAX_SHOWN:
            return f"{text[:MAX_SHOWN]}..."
    return text


def read_text(value: str) -> bytes:
    """Return a JSON string as UTF-8; raises ModelInputError for one that is no text, such as half a surrogate pair."""
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError:
        raise ModelInputError(f"JSON Parse error: The string {shown(value)} is not UTF-8") from None


def list_shape(value: Any) -> tuple[int, ...]:
    """Return the shape of nested lists, as their first elements say it."""
    shape = []
    while type(value) is list:
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def read_tensor(value: Any, dtype: str, *, literals: bool, decode: Callable[[Any], bytes] | None = None) -> Any:
    """
    Return a number, text or nested lists of them as an array of exactly that dtype and shape.

    Parameters
    ----------
    value
        What a JSON text says.
    dtype
        By its name; texts become bytes.
    literals
        As of the `Document`.
    decode
        Makes bytes of an object that stands for a string, or raises ModelInputError.

    Raises
    ------
    ModelInputError
        Lists of different lengths or depths, or a value that is none of that dtype.
    """
    shape = list_shape(value)
    return read_flat(_flatten(value, shape), dtype, literals=literals, decode=decode).reshape(shape)


def _flatten(value: Any, shape: tuple[int, ...]) -> list[Any]:
    if not shape:
        return [value]
    level: list[Any] = value
    for depth, size in enumerate(shape[1:], 1):
        for item in level:
            if type(item) is not list:
                raise ModelInputError(
                    f"JSON Value: {shown(item)} found at incorrect level: {depth + 1} in the JSON DOM."
                    f" Expected at level: {len(shape)}"
                )
            if len(item) != size:
                raise ModelInputError(f"Encountered list at unexpected size: {len(item)} at level: {depth} expected size: {size}")
        level = list(itertools.chain.from_iterable(level)) if len(level) != 1 else level[0]
    return level


def read_flat(flat: list[Any], dtype: str, *, literals: bool, decode: Callable[[Any], bytes] | None = None) -> Any:
    """Return a list of numbers or texts as an array of one axis; see `read_tensor`."""
    if not flat and dtype != "string":
        return np.empty(0, numpy_dtype(dtype))
    if dtype in _EXACT:
        return _read_floats(flat, dtype, literals)
    if dtype in _INTEGERS:
        return _read_integers(flat, dtype, literals)
    if dtype == "bool":
        if set(map(type, flat)) - {bool}:
            raise _wrong_type(next(value for value in flat if type(value) is not bool), dtype)
        return np.array(flat, np.bool_)
    if dtype == "string":
        return object_array([_read_string(value, decode) for value in flat], (len(flat),))
    raise ModelInputError(f"No JSON value can be converted to type: {dtype}")


def _read_floats(flat: list[Any], dtype: str, literals: bool) -> Any:
    target = numpy_dtype(dtype)
    if literals and bool in set(map(type, flat)):
        raise _wrong_type(next(value for value in flat if type(value) is bool), dtype)
    try:
        # The fastest way from a list to an array, and it takes nothing but numbers.
        wide = np.frombuffer(struct.pack(f"{len(flat)}d", *flat), np.float64)
    except struct.error:
        wrong = next((value for value in flat if not isinstance(value, (int, float))), flat)
        if wrong is not flat:
            raise _wrong_type(wrong, dtype) from None
        raise _lossy(next(value for value in flat if type(value) is int and abs(value) >> 1023), dtype) from None
    exact = _EXACT[dtype]
    if wide.min() > -exact and wide.max() < exact:
        return wide.astype(target)
    with np.errstate(all="ignore"):
        narrow = wide.astype(target)
    _check_lossless(flat, narrow.astype(np.float64), dtype)
    return narrow


def _check_lossless(flat: list[Any], kept: Any, dtype: str) -> None:
    """Refuse integers that a float does not have, and numbers beyond its range."""
    if int not in set(map(type, flat)) and np.isfinite(kept).all():
        return
    for given, number in zip(flat, kept.tolist(), strict=True):
        # An integer of more than 64 bits is a float to most readers of JSON.
        if (math.isinf(number) and type(given) is not Constant) or (
            type(given) is int and not abs(given) >> 64 and given != number
        ):
            raise _lossy(given, dtype)


def _read_integers(flat: list[Any], dtype: str, literals: bool) -> Any:
    target = np.dtype(dtype)
    limits = np.iinfo(target)
    code, widest = ("Q", np.uint64) if target.kind == "u" else ("q", np.int64)
    fits = not literals or bool not in set(map(type, flat))
    if fits:
        try:
            wide = np.frombuffer(struct.pack(f"{len(flat)}{code}", *flat), widest)
            fits = bool(wide.min() >= limits.min and wide.max() <= limits.max)
        except struct.error:
            fits = False
    if not fits:
        wrong = next(value for value in flat if type(value) is not int or not limits.min <= value <= limits.max)
        raise _wrong_type(wrong, dtype)
    return wide.astype(target)


def _read_string(value: Any, decode: Callable[[Any], bytes] | None) -> bytes:
    if type(value) is str:
        return read_text(value)
    if type(value) is dict and decode is not None:
        return decode(value)
    raise _wrong_type(value, "string")


def _wrong_type(value: Any, dtype: str) -> ModelInputError:
    if type(value) is list:
        return ModelInputError(f"JSON Value: {shown(value)} Type: Array: a list is here one level too deep")
    return ModelInputError(
        f"JSON Value: {shown(value)} Type: {json_type(value)} is not of expected type: {_ERROR_NAMES.get(dtype, dtype)}"
    )


def _lossy(value: Any, dtype: str) -> ModelInputError:
    name = _ERROR_NAMES.get(dtype, dtype)
    return ModelInputError(f"Cannot convert JSON value: {shown(value)} to {name} without loss of precision.")


def json_type(value: Any) -> str:
    """Return what errors call the type of a JSON value."""
    if value is None or type(value) is bool:
        return "Null" if value is None else str(value)
    if isinstance(value, (int, float)):
        return "Number"
    return "String" if isinstance(value, str) else "Array" if isinstance(value, list) else "Object"


def object_array(values: list[Any], shape: tuple[int, ...]) -> Any:
    """Return an array of objects; numpy would look into them for more axes."""
    result = np.empty(len(values), object)
    result[:] = values
    return result.reshape(shape)


def byte_strings(tensor: Any) -> list[bytes]:
    """Return the elements of an array of strings in order, as bytes."""
    return [
        value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass") for value in tensor.ravel().tolist()
    ]


def tensor_json(tensor: Any, name: str, *, wrap: Callable[[bytes], Any] | None = None) -> Any:
    """
    Return an array as `write_json` takes it: an array too, or lists, or where it has no axis a single value.

    Parameters
    ----------
    tensor
        Of any dtype of TensorFlow.
    name
        What errors call it.
    wrap
        What to make of each string; by default it is text.

    Raises
    ------
    ModelInputError
        JSON has nothing for it: complex numbers, strings that are no text.
    """
    dtype = dtype_name(tensor.dtype)
    if dtype == "string":
        make = wrap or (lambda value: value.decode("utf-8"))
        try:
            values = [make(value) for value in byte_strings(tensor)]
        except UnicodeDecodeError:
            raise ModelInputError(f"Output {name!r} has a string that is not UTF-8, which JSON has nothing for") from None
        return object_array(values, tensor.shape).tolist()
    if dtype in ("float16", "bfloat16"):
        tensor = tensor.astype(np.float32)
    elif dtype != "bool" and dtype not in _EXACT and dtype not in _INTEGERS:
        raise ModelInputError(f"Failed to write JSON value for tensor type: {dtype} (output {name!r})")
    if not tensor.ndim:
        return tensor[()]
    if tensor.flags.c_contiguous and tensor.dtype.isnative:
        return tensor
    return np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("="))


def check_json_size(arrays: Iterable[Any]) -> None:
    """Raise ModelInputError for outputs whose JSON would take memory without measure: what writes it ends the process then."""
    count = sum(array.size for array in arrays)
    if count > MAX_VALUES:
        raise ModelInputError(
            f"The outputs have {count:,} values, and as JSON no more than {MAX_VALUES:,} are sent: ask for fewer rows or outputs,"
            " or for binary data (/v2), or from Python."
        )


def write_json(value: Any) -> bytes:
    """
    Return the JSON text of plain data with arrays from `tensor_json` in it.

    Floats have the fewest digits that read back as the same number of their dtype, and whole ones a ``.0``.
    """
    if orjson is not None:
        text: bytes = orjson.dumps(value, _plain, orjson.OPT_SERIALIZE_NUMPY)
        # What is no finite number has become this word, which no reply has otherwise but within a string.
        if b"null" not in text:
            return text
    return json.dumps(value, default=_plain, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _plain(tensor: Any) -> Any:
    if tensor.dtype == np.float32:
        # As text it has the digits of its own width.
        tensor = tensor.astype("U32").astype(np.float64)
    return tensor.tolist()
