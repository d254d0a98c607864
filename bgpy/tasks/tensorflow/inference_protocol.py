"""
Bodies of the Open Inference Protocol (KServe's v2): tensors as JSON, or with the binary tensor extension behind the JSON.

Bytes in, arrays out, and back: nothing here knows of HTTP or of a model.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

from bgpy.errors import ModelInputError
from bgpy.tasks.tensorflow.bodies import (
    Encoded,
    check_json_size,
    object_array,
    read_flat,
    read_json,
    shown,
    tensor_json,
    write_json,
)
from bgpy.tasks.tensorflow.datatypes import DATATYPES, DTYPES, datatype_of, read_raw, shaped, write_raw
from bgpy.tasks.tensorflow.signatures import Signature, TensorInfo, shape_text

HEADER = "Inference-Header-Content-Length"
#: A length of the header that says: there is none, the body is the tensor.
RAW = 0

_INT64 = 1 << 63


class _Wish(NamedTuple):
    """An output that is wanted, and how."""

    name: str
    binary: bool


class Request:
    """
    What a body asks for.

    Attributes
    ----------
    signature
        The name of the signature.
    feeds
        Arrays by the name of the input, as their datatypes say.
    outputs
        The names of the outputs that the reply needs.
    """

    __slots__ = ("_head", "_wishes", "feeds", "outputs", "signature")

    def __init__(self, signature: Signature, feeds: dict[str, Any], wishes: list[_Wish], head: dict[str, Any]) -> None:
        self.signature = signature.name
        self.feeds = feeds
        self.outputs = [wish.name for wish in wishes]
        self._wishes = wishes
        self._head = head

    def encode(self, outputs: Mapping[str, Any]) -> Encoded:
        """Return the reply's body; raises ModelInputError where an output cannot be told as it was asked for."""
        check_json_size(outputs[name] for name, binary in self._wishes if not binary)
        described = []
        parts = []
        for name, binary in self._wishes:
            tensor = outputs[name]
            datatype = datatype_of(tensor, name)
            entry: dict[str, Any] = {"name": name, "shape": list(tensor.shape), "datatype": datatype}
            if binary:
                part = write_raw(tensor, datatype)
                entry["parameters"] = {"binary_data_size": len(part)}
                parts.append(part)
            else:
                entry["data"] = tensor_json(tensor.reshape(-1), name)
            described.append(entry)
        header = write_json({**self._head, "outputs": described})
        if not parts:
            return Encoded("application/json", None, [header])
        return Encoded("application/octet-stream", len(header), [header, *(part for part in parts if len(part))])


def parse(
    body: Any, header_length: int | None, signatures: Mapping[str, Signature], default: str, name: str, version: int
) -> Request:
    """
    Read a request to infer.

    Parameters
    ----------
    body
        Bytes, or what else has bytes. Arrays of the request may share their memory.
    header_length
        What the header `HEADER` says, None where there is none.
    signatures
        Those of the model, by name.
    default
        Which of them is meant where the body names none.
    name, version
        The model's, for the reply.

    Raises
    ------
    ModelInputError
        The body breaks the rules, or the model has no such signature.
    """
    view = memoryview(body).cast("B")
    head = {"model_name": name, "model_version": str(version)}
    if header_length is not None and not 0 <= header_length <= len(view):
        raise ModelInputError(
            f"The header {HEADER} is to be from 0 to {len(view)}, the length of the body; it is {header_length}"
        )
    if header_length == RAW:
        return _parse_raw(view, _signature(signatures, default), head)
    document = read_json(body if header_length is None else view[:header_length])
    fields = _object(document.value, "The body")
    parameters = _parameters(fields, "the request")
    signature = _signature(signatures, _text(parameters, "signature_name", default))
    if "id" in fields:
        head["id"] = _text(fields, "id", "")
    raw = None if header_length is None else view[header_length:]
    feeds = _read_inputs(fields, raw, name, document.literals)
    return Request(signature, feeds, _read_wishes(fields, parameters, signature), head)


def _signature(signatures: Mapping[str, Signature], name: str) -> Signature:
    if name not in signatures:
        raise ModelInputError(f"The model has no signature {name!r}. It has {', '.join(map(repr, signatures))}.")
    return signatures[name]


def _parse_raw(view: memoryview, signature: Signature, head: dict[str, Any]) -> Request:
    """Read a body that is nothing but the elements of the one input; all outputs go back as raw bytes."""
    if len(signature.inputs) != 1:
        raise ModelInputError(
            f"Without a JSON header ({HEADER}: 0) a request needs a model of one input; this one has {len(signature.inputs)}"
        )
    (info,) = signature.inputs.values()
    datatype = DATATYPES.get(info.dtype)
    if datatype is None:
        raise ModelInputError(f"Input {info.name!r} is {info.dtype}, which the protocol has no datatype for")
    if datatype == "BYTES":
        # The body is the only element, without its length.
        tensor = object_array([bytes(view)], (1,))
    else:
        tensor = read_raw(view, datatype, info.name)
    wishes = [_wish(output, binary=True) for output in signature.outputs.values()]
    return Request(signature, {info.name: shaped(tensor, _deduce_shape(info, tensor.size), info.name)}, wishes, head)


def _deduce_shape(info: TensorInfo, count: int) -> tuple[int, ...]:
    """Return the shape of so many elements, of which at most one axis is free."""
    if info.shape is None or info.shape.count(None) > 1:
        raise ModelInputError(
            f"Without a JSON header ({HEADER}: 0) the shape of input {info.name!r} cannot be told: it is {shape_text(info.shape)}"
        )
    fixed = 1
    for size in info.shape:
        fixed *= 1 if size is None else size
    free = count // fixed if fixed else 0
    return tuple(free if size is None else size for size in info.shape)


def _read_inputs(fields: dict[str, Any], raw: memoryview | None, model: str, literals: bool) -> dict[str, Any]:
    feeds: dict[str, Any] = {}
    position = 0
    for item in _objects(fields, "inputs", required=True):
        name = _text(item, "name", None)
        if name in feeds:
            raise ModelInputError(f"Input {name!r} is there twice")
        datatype = _text(item, "datatype", None)
        if datatype not in DTYPES:
            raise ModelInputError(f"Input {name!r} has the datatype {shown(datatype)}. There are {', '.join(DTYPES)}")
        shape = _shape(item, name)
        parameters = _parameters(item, f"input {name!r}")
        size = _binary_size(parameters, name)
        if size is None:
            tensor = _read_data(item, datatype, name, literals)
        elif raw is None:
            raise ModelInputError(f"Input {name!r} has binary_data_size, but the request has no header {HEADER}")
        elif "data" in item:
            raise ModelInputError(f"Input {name!r} has both data and binary_data_size")
        else:
            missing = size - (len(raw) - position)
            if missing > 0:
                raise ModelInputError(
                    f"unexpected size for input {name!r}, expecting {missing} additional bytes for model {model!r}"
                )
            tensor = read_raw(raw[position : position + size], datatype, name)
            position += size
        feeds[name] = shaped(tensor, shape, name)
    if raw is not None and position != len(raw):
        raise ModelInputError(f"unexpected additional input data for model {model!r}: {len(raw) - position} bytes")
    return feeds


def _shape(item: dict[str, Any], name: str) -> tuple[int, ...]:
    shape = item.get("shape")
    if type(shape) is not list or not all(type(size) is int and 0 <= size < _INT64 for size in shape):
        raise ModelInputError(f"Input {name!r} has the shape {shown(shape)}; it is to be a list of sizes")
    return tuple(shape)


def _read_data(item: dict[str, Any], datatype: str, name: str, literals: bool) -> Any:
    data = item.get("data")
    if type(data) is not list:
        raise ModelInputError(f"Input {name!r} has neither a list of data nor binary_data_size")
    if datatype == "BF16":
        raise ModelInputError(f"Input {name!r} is BF16, which goes as binary data only")
    flat = data
    while flat and type(flat[0]) is list:
        if not all(type(part) is list for part in flat):
            raise ModelInputError(f"Input {name!r} has lists beside values in its data")
        flat = list(itertools.chain.from_iterable(flat))
    try:
        return read_flat(flat, DTYPES[datatype], literals=literals)
    except ModelInputError as error:
        raise ModelInputError(f"Input {name!r}: {error.reason}") from None


def _binary_size(parameters: dict[str, Any], name: str) -> int | None:
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise ModelInputError(f"Input {name!r} has the binary_data_size {shown(size)}; it is to be a number of bytes")
    return size


def _read_wishes(fields: dict[str, Any], parameters: dict[str, Any], signature: Signature) -> list[_Wish]:
    binary = _flag(parameters, "binary_data_output", default=False)
    wished = _objects(fields, "outputs", required=False)
    if not wished:
        return [_wish(info, binary) for info in signature.outputs.values()]
    wishes: dict[str, _Wish] = {}
    for item in wished:
        name = _text(item, "name", None)
        if name not in signature.outputs:
            raise ModelInputError(
                f"There is no output {name!r}. The model's outputs are {', '.join(map(repr, signature.outputs))}."
            )
        if name in wishes:
            raise ModelInputError(f"Output {name!r} is there twice")
        own = _parameters(item, f"output {name!r}")
        if own.get("classification"):
            raise ModelInputError(f"Output {name!r} is asked for as a classification, which this server does not make")
        wishes[name] = _wish(signature.outputs[name], _flag(own, "binary_data", default=binary))
    return list(wishes.values())


def _wish(info: TensorInfo, binary: bool) -> _Wish:
    if info.dtype not in DATATYPES:
        raise ModelInputError(f"Output {info.name!r} is {info.dtype}, which the protocol has no datatype for")
    if info.dtype == "bfloat16" and not binary:
        raise ModelInputError(f"Output {info.name!r} is BF16, which goes as binary data only: ask for it with binary_data")
    return _Wish(info.name, binary)


def _object(value: Any, what: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise ModelInputError(f"{what} is to be a JSON object, not {shown(value)}")
    return value


def _objects(fields: dict[str, Any], key: str, *, required: bool) -> list[dict[str, Any]]:
    value = fields.get(key, None if required else [])
    if type(value) is not list:
        raise ModelInputError(f"The request's {key!r} is to be a list, not {shown(value)}")
    return [_object(item, f"Each of the request's {key!r}") for item in value]


def _parameters(fields: dict[str, Any], whose: str) -> dict[str, Any]:
    if "parameters" not in fields:
        return {}
    parameters = _object(fields["parameters"], f"'parameters' of {whose}")
    if any(key.startswith("shared_memory_") for key in parameters):
        raise ModelInputError(f"The parameters of {whose} name shared memory, which this server does not have; send the data")
    return parameters


def _text(fields: dict[str, Any], key: str, default: str | None) -> str:
    value = fields.get(key, default)
    if type(value) is not str or not _is_unicode(value):
        raise ModelInputError(f"{key!r} is to be a string, not {shown(value)}")
    return value


def _is_unicode(text: str) -> bool:
    """Tell whether a text has no half of a surrogate pair, which JSON can say but UTF-8 cannot."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _flag(parameters: dict[str, Any], key: str, *, default: bool) -> bool:
    value = parameters.get(key, default)
    if type(value) is not bool:
        raise ModelInputError(f"The parameter {key!r} is to be true or false, not {shown(value)}")
    return value
