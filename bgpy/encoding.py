"""
Python values as JSON, for people and programs that do not speak pickle.

What JSON knows stays as it is. The rest becomes the nearest thing that JSON knows, or, where there is none, an object with one
key that says so: ``{"$bytes": BASE64}`` or ``{"$repr": TEXT}``. Numbers that JSON lacks become the texts "NaN", "Infinity" and
"-Infinity". Arrays and tables are known by what they can do, so none of their packages is imported here.
"""

from __future__ import annotations

import enum
import os
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

#: Levels of containers within one another; a JSON reader of any language takes that many.
MAX_DEPTH = 100
#: Characters of one text in place of a value.
_MAX_REPR = 1000
_MAX_BITS = 10_000
_SEQUENCES = (list, tuple, set, frozenset, deque, range)


def to_json(value: object) -> Any:
    """
    Return a value as what `json.dumps` writes as strict JSON: dicts with text keys, lists, texts, finite numbers, bools, None.

    Raises nothing, whatever the value's own methods do. A container within itself, or too deep, becomes a ``$repr``.
    """
    return _convert(value, ())


def _convert(value: Any, path: tuple[int, ...]) -> Any:
    if isinstance(value, enum.Enum):
        return _convert(value.value, path)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _clean(str.__str__(value))
    if isinstance(value, int):
        # Readers, Python's own included, refuse integers that are absurdly long.
        return int.__int__(value) if value.bit_length() <= _MAX_BITS else _represent(hex(value))
    if isinstance(value, float):
        return _number(float.__float__(value))
    if len(path) >= MAX_DEPTH or id(value) in path:
        return {"$repr": f"<{type(value).__name__}, {'within itself' if id(value) in path else 'too deep'}>"}
    try:
        return _convert_object(value, (*path, id(value)))
    except Exception:  # noqa: BLE001 - a value whose methods fail is shown as it shows itself
        return _represent(value)


def _convert_object(value: Any, path: tuple[int, ...]) -> Any:
    """Convert what may be anything; raises whatever the value's own methods raise."""
    if isinstance(value, Mapping):
        return _convert_items(value.items(), path)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _convert_items(zip(value._fields, value, strict=True), path)
    if isinstance(value, _SEQUENCES):
        return [_convert(item, path) for item in _ordered(value)]
    if isinstance(value, (bytes, bytearray, memoryview)):
        import base64

        return {"$bytes": base64.b64encode(bytes(value)).decode("ascii")}
    if isinstance(value, BaseException):
        return {"type": type(value).__name__, "message": _clean(str(value))}
    if isinstance(value, os.PathLike):
        return _convert(os.fspath(value), path)
    return _convert_by_ability(value, type(value), path)


def _convert_by_ability(value: Any, kind: Any, path: tuple[int, ...]) -> Any:
    if hasattr(kind, "__dataclass_fields__"):
        return _convert_items(((name, getattr(value, name)) for name in kind.__dataclass_fields__), path)
    if hasattr(kind, "isoformat"):  # dates and times
        return _clean(value.isoformat())
    if hasattr(kind, "total_seconds"):  # a span of time
        return _number(value.total_seconds())
    if hasattr(kind, "columns") and hasattr(kind, "to_dict"):  # a table
        return _convert(value.to_dict(orient="split"), path)
    if hasattr(kind, "tolist") and hasattr(kind, "dtype"):  # an array or one of its numbers
        return _convert(value.tolist(), path)
    return _represent(value)


def _convert_items(items: Iterable[tuple[Any, Any]], path: tuple[int, ...]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in items:
        name = _clean(str(key))
        while name in result:  # 1 and "1" are two keys in Python: neither may take the other's place
            name += f" ({type(key).__name__})"
        result[name] = _convert(value, path)
    return result


def _ordered(values: Iterable[Any]) -> Iterable[Any]:
    if isinstance(values, (set, frozenset)):
        try:
            return sorted(values)
        except TypeError:
            return values  # they have no order: any will do
    return values


def _number(value: float) -> float | str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _clean(text: str) -> str:
    """Return a text that UTF-8 can carry: half of a surrogate pair, as in file names that are no UTF-8, cannot."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _represent(value: object) -> dict[str, str]:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - it cannot even do that
        text = f"<{type(value).__name__}>"
    return {"$repr": _clean(text if len(text) <= _MAX_REPR else f"{text[:_MAX_REPR]}...")}
