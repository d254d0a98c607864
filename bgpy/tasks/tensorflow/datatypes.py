"""
Datatypes of the Open Inference Protocol, and their tensors as raw bytes: little-endian, in C order, without padding.

Each string of a tensor of BYTES has its length before it, in four bytes.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from bgpy.errors import ModelInputError
from bgpy.tasks.tensorflow.bodies import byte_strings, object_array
from bgpy.tasks.tensorflow.signatures import dtype_name, shape_text

#: What the package calls each datatype.
DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BF16": "bfloat16",
    "BYTES": "string",
}
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}


def datatype_of(tensor: Any, name: str) -> str:
    """Return the datatype of an array; raises ModelInputError, which names the output, where the protocol has none."""
    dtype = dtype_name(tensor.dtype)
    if dtype not in DATATYPES:
        raise ModelInputError(f"Output {name!r} is {dtype}, which the protocol has no datatype for")
    return DATATYPES[dtype]


def shaped(tensor: Any, shape: tuple[int, ...], name: str) -> Any:
    """Return an array in the shape that an input says it has; raises ModelInputError."""
    count = math.prod(shape)
    if tensor.size != count:
        raise ModelInputError(f"Input {name!r} got {tensor.size} elements; its shape {shape_text(shape)} has {count}")
    try:
        return tensor.reshape(shape)
    except ValueError:  # an axis of more than an index can say beside one of 0, or too many axes
        raise ModelInputError(f"Input {name!r} has a shape that no array has") from None


def read_raw(raw: memoryview, datatype: str, name: str) -> Any:
    """
    Return the elements of a raw tensor, as an array of one axis which may share its memory.

    BF16 comes as float32, which has all of its numbers.

    Raises
    ------
    ModelInputError
        The bytes are not whole elements; says so of the input.
    """
    if datatype == "BYTES":
        return _read_strings(raw, name)
    dtype = np.dtype(np.uint16 if datatype == "BF16" else DTYPES[datatype]).newbyteorder("<")
    if len(raw) % dtype.itemsize:
        raise ModelInputError(f"Input {name!r} has {len(raw)} bytes, which is no multiple of {dtype.itemsize}, as {datatype} has")
    if datatype == "BOOL":
        return np.frombuffer(raw, np.uint8) != 0
    elements = np.frombuffer(raw, dtype)
    if datatype == "BF16":
        return (elements.astype(np.uint32) << 16).view(np.float32)
    return elements.astype(dtype.newbyteorder("="), copy=False)


def _read_strings(raw: memoryview, name: str) -> Any:
    strings: list[bytes] = []
    position, end = 0, len(raw)
    while position < end:
        if end - position < 4:
            raise ModelInputError(f"Input {name!r} of BYTES ends within the length of element {len(strings)}")
        (length,) = struct.unpack_from("<I", raw, position)
        position += 4
        if length > end - position:
            raise ModelInputError(
                f"Input {name!r} of BYTES ends within element {len(strings)}: {length} bytes are said, {end - position} are there"
            )
        strings.append(bytes(raw[position : position + length]))
        position += length
    return object_array(strings, (len(strings),))


def write_raw(tensor: Any, datatype: str) -> Any:
    """Return the bytes of an array; they share its memory where they can."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in byte_strings(tensor))
    if datatype == "BF16":
        tensor = np.ascontiguousarray(tensor).view(np.uint16)
    return np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
