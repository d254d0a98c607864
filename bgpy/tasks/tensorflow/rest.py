"""
TensorFlow Serving's REST bodies: of predict in row form (``instances``) and column form (``inputs``), of classify and regress.

A reply has the form of its request. Bytes in, arrays out, and back: nothing here knows of HTTP or of a model.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bgpy.errors import ModelInputError
from bgpy.tasks.tensorflow import examples
from bgpy.tasks.tensorflow.bodies import (
    Document,
    Encoded,
    check_json_size,
    json_type,
    list_shape,
    read_json,
    read_tensor,
    shown,
    tensor_json,
    write_json,
)
from bgpy.tasks.tensorflow.signatures import Signature, TensorInfo, decode_base64, is_base64

#: An output whose name ends so has bytes, not text.
BYTES_SUFFIX = "_bytes"


class Request:
    """
    What a body asks for.

    Attributes
    ----------
    signature
        The name of the signature.
    feeds
        Arrays by the name of the input.
    outputs
        The names of the outputs that the reply needs.
    """

    __slots__ = ("_result", "feeds", "outputs", "signature")

    def __init__(
        self, signature: Signature, feeds: dict[str, Any], result: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> None:
        self.signature = signature.name
        self.feeds = feeds
        self.outputs = list(signature.outputs)
        self._result = result

    def encode(self, outputs: Mapping[str, Any]) -> Encoded:
        """Return the reply's body; raises ModelInputError where the outputs have no place in its form."""
        check_json_size(outputs.values())
        return Encoded("application/json", None, [write_json(self._result(outputs))])


def parse(verb: str, body: Any, signatures: Mapping[str, Signature], default: str) -> Request:
    """
    Read a request.

    Parameters
    ----------
    verb
        "predict", "classify" or "regress".
    body
        Bytes, or what else has bytes.
    signatures
        Those of the model, by name.
    default
        Which of them is meant where the body names none.

    Raises
    ------
    ModelInputError
        The body breaks the rules, or does not fit the signature.
    """
    document = read_json(body, trailing=True)
    if type(document.value) is not dict:
        raise ModelInputError(f"JSON Value: {shown(document.value)} Is not object")
    name = document.value.get("signature_name", "")
    if type(name) is not str:
        raise ModelInputError(f"JSON Value: {shown(name)} not formatted correctly. 'signature_name' key must be a string value.")
    name = name or default
    if verb != "predict":
        return _parse_examples(verb, document, name, signatures)
    if name not in signatures:
        raise ModelInputError(f'Serving signature name: "{name}" not found in signature def')
    return _parse_predict(document, signatures[name])


def _parse_predict(document: Document, signature: Signature) -> Request:
    if not signature.inputs:
        raise ModelInputError(f"Failed to get input map for signature: {signature.name}")
    fields = document.value
    if "instances" in fields and "inputs" in fields:
        raise ModelInputError("Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")
    if "instances" in fields:
        return Request(signature, _read_rows(fields["instances"], signature, document.literals), _write_rows)
    if "inputs" in fields:
        return Request(signature, _read_columns(fields["inputs"], signature, document.literals), _write_columns)
    raise ModelInputError("Missing 'inputs' or 'instances' key")


def _read_columns(value: Any, signature: Signature, literals: bool) -> dict[str, Any]:
    infos = signature.inputs
    if type(value) is dict and not is_base64(value):
        for name in infos:
            if name not in value:
                raise ModelInputError(f"Missing named input: {name} in 'inputs' object.")
        return {name: _tensor(value[name], info, literals) for name, info in infos.items()}
    if len(infos) > 1:
        raise ModelInputError(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map"
        )
    (info,) = infos.values()
    return {info.name: _tensor(value, info, literals)}


def _read_rows(instances: Any, signature: Signature, literals: bool) -> dict[str, Any]:
    infos = signature.inputs
    if type(instances) is not list:
        raise ModelInputError("Expecting 'instances' to be an list/array")
    if not instances:
        raise ModelInputError("No values in 'instances' array")
    if _is_named(instances[0]):
        _check_named(instances, signature)
        return {name: _rows([item[name] for item in instances], info, literals) for name, info in infos.items()}
    if len(infos) > 1:
        raise ModelInputError(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map"
        )
    (info,) = infos.values()
    if info.dtype == "string":
        for number, item in enumerate(instances):
            if _is_named(item):
                raise ModelInputError(f"Expecting value/list but got object at item {number} of input list")
    return {info.name: _rows(instances, info, literals)}


def _check_named(instances: list[Any], signature: Signature) -> None:
    names = signature.inputs.keys()
    for number, item in enumerate(instances):
        if not _is_named(item):
            raise ModelInputError(f"Expecting object but got list at item {number} of input list")
        if item.keys() != names:
            raise ModelInputError(
                f"Failed to process element: {number} of 'instances' list. JSON object: {shown(item)}"
                f" keys must be equal to: {','.join(sorted(names))}"
            )


def _rows(items: list[Any], info: TensorInfo, literals: bool) -> Any:
    """Return items of one shape as an array with one axis more."""
    try:
        return _tensor(items, info, literals)
    except ModelInputError as error:
        raise next(_row_errors(items, info), error) from None


def _row_errors(items: list[Any], info: TensorInfo) -> Iterator[ModelInputError]:
    """Read items again, one by one, for errors that say which."""
    shape = list_shape(items[0])
    for number, item in enumerate(items):
        where = f"Failed to process element: {number} key: {info.name} of 'instances' list. Error: "
        try:
            own = _tensor(item, info, literals=True).shape
        except ModelInputError as error:
            yield ModelInputError(where + error.reason)
        else:
            if own != shape:
                yield ModelInputError(f"{where}Expecting shape {_shape_text(shape)} but got: {_shape_text(own)}")


def _shape_text(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _tensor(value: Any, info: TensorInfo, literals: bool) -> Any:
    return read_tensor(value, info.dtype, literals=literals, decode=_decode_base64)


def _is_named(item: Any) -> bool:
    return type(item) is dict and not is_base64(item)


def _decode_base64(value: dict[str, Any]) -> bytes:
    if not is_base64(value):
        raise ModelInputError(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    try:
        return decode_base64(value)
    except ValueError:
        raise ModelInputError("Unable to base64 decode") from None


def _encode_base64(value: bytes) -> dict[str, str]:
    return {"b64": binascii.b2a_base64(value, newline=False).decode("ascii")}


def _output(name: str, tensor: Any) -> Any:
    return tensor_json(tensor, name, wrap=_encode_base64 if name.endswith(BYTES_SUFFIX) else None)


def _write_columns(outputs: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: _output(name, tensor) for name, tensor in outputs.items()}
    return {"outputs": next(iter(values.values())) if len(values) == 1 else values}


def _write_rows(outputs: Mapping[str, Any]) -> dict[str, Any]:
    count = None
    for name, tensor in outputs.items():
        if not tensor.ndim:
            raise ModelInputError(f"Tensor name: {name} has no shape information ")
        if count is not None and len(tensor) != count:
            raise ModelInputError(f"Tensor name: {name} has inconsistent batch size: {len(tensor)} expecting: {count}")
        count = len(tensor)
    columns = [_output(name, tensor) for name, tensor in outputs.items()]
    if len(columns) == 1:
        return {"predictions": columns[0]}
    return {"predictions": [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]}


def _parse_examples(verb: str, document: Document, name: str, signatures: Mapping[str, Signature]) -> Request:
    if name not in signatures:
        raise ModelInputError(f"No signature was found with the name: {name}")
    signature = signatures[name]
    (examples.check_classify if verb == "classify" else examples.check_regress)(signature)
    fields = document.value
    context = _features(fields["context"]) if "context" in fields else {}
    items = fields.get("examples")
    if type(items) is not list:
        missing = (
            "Expecting 'examples' value to be an list/array"
            if "examples" in fields
            else (f"When method is {verb}, key 'examples' is expected and was not found")
        )
        raise ModelInputError(missing)
    if not items:
        raise ModelInputError("'examples' value is an empty array")
    serialized = examples.serialize_all([{**context, **_features(item)} for item in items])
    count = len(items)

    def result(outputs: Mapping[str, Any]) -> dict[str, Any]:
        write = examples.classifications if verb == "classify" else examples.regressions
        return {"results": write(outputs, count)}

    return Request(signature, {examples.INPUT: serialized}, result)


def _features(item: Any) -> dict[str, list[Any]]:
    """Return the features of an example, each a list of values of one kind, with bytes for strings."""
    if type(item) is not dict:
        raise ModelInputError(f"Example must be JSON object but got JSON {json_type(item)}")
    return {
        name: [_feature_value(name, value) for value in (content if type(content) is list else [content])]
        for name, content in item.items()
    }


def _feature_value(name: str, value: Any) -> Any:
    if value is None or type(value) is list or (type(value) is dict and not is_base64(value)):
        raise ModelInputError(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")
    if type(value) is dict:
        return _decode_base64(value)
    return value
