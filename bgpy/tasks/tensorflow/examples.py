"""
What TensorFlow Serving's classify and regress work on: serialized ``tf.train.Example`` in, classes and scores or values out.

The serialized form is that of Protocol Buffers: a message is a sequence of fields, each a key, which is the field's number and
how it is laid out, a length, and so many bytes. An Example has Features (1), those have a map (1) of names (1) to Feature (2),
and a Feature has one of three lists: of bytes (1), of floats (2), of int64 (3), whose values (1) are the innermost.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

from bgpy.errors import ModelInputError
from bgpy.tasks.tensorflow.bodies import Constant, object_array, read_text, shown, tensor_json
from bgpy.tasks.tensorflow.signatures import Signature

#: The one input of a signature to classify or regress.
INPUT = "inputs"
CLASSES = "classes"
SCORES = "scores"
#: The one output of a signature to regress.
VALUES = "outputs"

_BYTES, _FLOATS, _INTEGERS = 1, 2, 3
_KIND_NAMES = {_BYTES: "bytes", _FLOATS: "float", _INTEGERS: "int64"}
_LARGEST_FLOAT = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]


def check_classify(signature: Signature) -> None:
    """Refuse a signature that does not classify. What it calls its method does not matter: TensorFlow 2 writes but one."""
    _check_input(signature, "classification")
    found = len(signature.outputs)
    if found not in (1, 2):
        raise ModelInputError(f"Expected one or two output Tensors, found {found}")
    if not {CLASSES, SCORES} & signature.outputs.keys():
        raise ModelInputError(
            f'Expected classification signature outputs to contain at least one of "{CLASSES}" or "{SCORES}".'
            f" Its outputs are {', '.join(signature.outputs)}"
        )


def check_regress(signature: Signature) -> None:
    """Refuse a signature that does not regress; see `check_classify`."""
    _check_input(signature, "regression")
    if len(signature.outputs) != 1:
        raise ModelInputError("Expected one output Tensor.")
    if VALUES not in signature.outputs:
        raise ModelInputError(f"No regression outputs found in SignatureDef: its output is {', '.join(signature.outputs)}")


def _check_input(signature: Signature, what: str) -> None:
    if len(signature.inputs) != 1:
        raise ModelInputError("Expected one input Tensor.")
    if INPUT not in signature.inputs:
        raise ModelInputError(f"No {what} inputs found in SignatureDef: its input is {', '.join(signature.inputs)}")


def serialize_all(items: list[dict[str, list[Any]]]) -> Any:
    """Return an array of serialized examples."""
    return object_array([serialize(features) for features in items], (len(items),))


def serialize(features: Mapping[str, list[Any]]) -> bytes:
    """
    Return a serialized ``tf.train.Example``.

    Parameters
    ----------
    features
        By name a list of texts and bytes, of floats, or of integers and bools.

    Raises
    ------
    ModelInputError
        A list has values of two kinds, or a number is out of range.
    """
    entries = (_field(1, _field(1, read_text(name)) + _field(2, _feature(name, values))) for name, values in features.items())
    return _field(1, b"".join(entries))


def _feature(name: str, values: list[Any]) -> bytes:
    if not values:
        return b""
    kind = _kind(values[0])
    if any(_kind(value) != kind for value in values):
        raise ModelInputError(f"Unexpected element type in feature: {name} expecting type: {_KIND_NAMES[kind]}")
    if kind == _BYTES:
        packed = b"".join(_field(1, read_text(value) if isinstance(value, str) else value) for value in values)
    elif kind == _FLOATS:
        packed = _field(1, struct.pack(f"<{len(values)}f", *map(_float, values)))
    else:
        packed = _field(1, b"".join(_varint(_int64(name, value)) for value in values))
    return _field(kind, packed)


def _kind(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return _BYTES
    return _FLOATS if isinstance(value, float) else _INTEGERS


def _float(value: float) -> float:
    if type(value) is not Constant and not (math.isfinite(value) and abs(value) <= _LARGEST_FLOAT):
        raise ModelInputError(f"Cannot convert JSON value: {shown(value)} to float without loss of precision.")
    return value


def _int64(name: str, value: int) -> int:
    if not -(1 << 63) <= value < 1 << 63:
        raise ModelInputError(f"Feature: {name} has uint64 element. Only int64 is supported.")
    return value % (1 << 64)


def _field(number: int, content: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Return a number in groups of seven bits, the lowest first, all but the last with the highest bit set."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def classifications(outputs: Mapping[str, Any], count: int) -> list[Any]:
    """Return for each example a list of pairs of class and score, as JSON; without classes they are "", without scores 0."""
    classes, scores = outputs.get(CLASSES), outputs.get(SCORES)
    for name, tensor, dtype in ((CLASSES, classes, "O"), (SCORES, scores, "f")):
        if tensor is None:
            continue
        if tensor.ndim != 2:
            raise ModelInputError(f"Expected Tensor shape: [batch_size num_classes] but got {list(tensor.shape)}")
        if tensor.dtype.kind != dtype:
            raise ModelInputError(f"Expected {name} Tensor of {'DT_STRING' if dtype == 'O' else 'DT_FLOAT'}. Got: {tensor.dtype}")
        if len(tensor) != count:
            raise ModelInputError(f"Expected {name} output batch size of {count}. Got: {len(tensor)}")
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise ModelInputError(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    if scores is None:
        return [[[label, 0.0] for label in row] for row in tensor_json(classes, CLASSES)]
    rows = tensor_json(scores, SCORES)
    labels = [[""] * scores.shape[1]] * count if classes is None else tensor_json(classes, CLASSES)
    return [list(map(list, zip(names, row, strict=True))) for names, row in zip(labels, rows, strict=True)]


def regressions(outputs: Mapping[str, Any], count: int) -> Any:
    """Return a value for each example, as JSON."""
    values = outputs[VALUES]
    if values.ndim != 1 and not (values.ndim == 2 and values.shape[1] == 1):
        raise ModelInputError(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {list(values.shape)}"
        )
    if len(values) != count:
        raise ModelInputError(f"Input batch size did not match output batch size: {count} vs. {len(values)}")
    if values.dtype.kind != "f":
        raise ModelInputError(f"Expected output Tensor of DT_FLOAT. Got: {values.dtype}")
    return tensor_json(values.reshape(-1), VALUES)
