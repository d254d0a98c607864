"""
Values as a page shows them: small ones whole, of long ones a window of rows.

A window is [from, to): rows of a table, an array, a Series, a list; characters of a text; items of a dict.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from bgpy.encoding import other_nulls, shape_of, to_json, to_json_limited, type_name
from bgpy.errors import RefusedError

#: Most bytes of JSON for a value that is asked for without a window, and the most rows of it.
DEFAULT_SIZE = 1 << 20
DEFAULT_ROWS = 1000
#: Most bytes of JSON for a window, and for a picture.
MAX_SIZE = 8 << 20
#: Most characters of a long text: each may take six bytes.
_DEFAULT_CHARACTERS = DEFAULT_SIZE // 6
_MAX_CHARACTERS = MAX_SIZE // 6
#: Cells that are converted at once, between two looks at how much room is left.
_BLOCK = 8192
#: How the base64 of every PNG begins.
_PNG = "iVBORw0KGgo"


class Rows(NamedTuple):
    """
    A value that has rows.

    Attributes
    ----------
    length
        How many.
    width
        Cells of a row, as far as that is known without looking at it.
    take
        Returns the rows from-to, and their labels, None where they have none; both are lists, or arrays.
    about
        What else is told: ``columns``, ``dtypes``, ``dtype``.
    """

    length: int
    width: int
    take: Callable[[int, int], tuple[Any, Any]]
    about: dict[str, Any]


def show(value: Any, window: Sequence[int] | None = None) -> dict[str, Any]:
    """
    Return a value as plain JSON data, with what it is.

    Parameters
    ----------
    window
        The first row that is wanted and the one behind the last. None: all, but of a long value no more than `DEFAULT_ROWS`, and
        no more than fit into `DEFAULT_SIZE`.

    Returns
    -------
    shown
        ``value``, ``type``, ``shape``, and ``window``: which rows the value has, None where it has no rows; ``truncated``:
        whether it has less than was asked for. Of tables also ``columns``, ``index``, ``dtypes``; of arrays ``dtype``; of a
        Series ``dtype`` and ``index``. ``encoding`` where the value is a text that stands for bytes: ``png-base64`` or
        ``base64``. ``nulls`` where one of it is not a None: see `bgpy.encoding.other_nulls`.

    Raises
    ------
    RefusedError
        The window is none.
    """
    window = read_window(window)
    shown = {"type": type_name(value), "shape": shape_of(value), "window": None}
    if isinstance(value, str):
        return {**shown, **_text(value, window)}
    if isinstance(value, Mapping) and window is not None:
        return {**shown, **_items(value, window)}
    rows = _rows(value)
    return {**shown, **(_whole(value) if rows is None else _window(rows, window))}


def read_window(window: Sequence[float] | None) -> list[int] | None:
    """Return a window as integers, None as it is; raises RefusedError for what is none. In JSON 2.0 is an integer, too."""
    if window is None:
        return None
    numbers = isinstance(window, (list, tuple)) and len(window) == 2 and all(map(_is_integer, window))
    if not numbers or not 0 <= window[0] <= window[1]:
        raise RefusedError(f"A window is two integers, 0 <= from <= to, not {to_json(window)!r:.100}", "window")
    return [int(number) for number in window]


def _is_integer(number: object) -> bool:
    return type(number) is int or (type(number) is float and number.is_integer())


def _whole(value: Any) -> dict[str, Any]:
    """Show a value that has no rows."""
    kind = type(value)
    if hasattr(kind, "get_figure") and not isinstance(value, type):  # axes are seen in their figure
        value = value.get_figure() or value
        kind = type(value)
    picture = not isinstance(value, type) and (hasattr(kind, "_repr_png_") or hasattr(kind, "savefig"))
    shown = _fitted(value, MAX_SIZE if picture else DEFAULT_SIZE)
    if picture and isinstance(shown["value"], str) and shown["value"].startswith(_PNG):
        shown["encoding"] = "png-base64"
    elif isinstance(value, (bytes, bytearray, memoryview)):
        shown["encoding"] = "base64"
    return shown


def _fitted(value: Any, limit: int) -> dict[str, Any]:
    nulls: set[str] = set()
    fitted = to_json_limited([value], limit, nulls)
    if isinstance(fitted, dict):  # as what does not fit is described, which a value in a list never is
        return {"value": None, "truncated": True}
    return {"value": fitted[0], "truncated": False, **_told(nulls)}


def _told(nulls: set[str]) -> dict[str, Any]:
    found = other_nulls(nulls)
    return {"nulls": found} if found else {}


def _text(value: str, window: Sequence[int] | None) -> dict[str, Any]:
    if window is None:
        shown = _fitted(value, DEFAULT_SIZE)
        if not shown["truncated"]:
            return {**shown, "window": [0, len(value)]}
        start, stop, most = 0, len(value), _DEFAULT_CHARACTERS
    else:
        start, stop = (min(place, len(value)) for place in window)
        most = _MAX_CHARACTERS
    end = min(stop, start + most)
    return {"value": to_json(str.__getitem__(value, slice(start, end))), "window": [start, end], "truncated": end < stop}


def _items(value: Mapping[Any, Any], window: Sequence[int]) -> dict[str, Any]:
    items = dict(value)  # in one step, so that the code may go on meanwhile
    start, stop = (min(place, len(items)) for place in window)
    shown = _fitted(dict(islice(items.items(), start, stop)), MAX_SIZE)
    return {**shown, "window": [start, start] if shown["truncated"] else [start, stop]}


def _rows(value: Any) -> Rows | None:
    """Return the rows of a value by what its type can do; None where it has none."""
    kind = type(value)
    if isinstance(value, type) or (isinstance(value, tuple) and hasattr(kind, "_fields")):
        return None
    if hasattr(kind, "iloc") and hasattr(kind, "columns"):
        return _table(value)
    if hasattr(kind, "iloc") and hasattr(kind, "index"):
        return _labelled(value)
    if all(hasattr(kind, name) for name in ("shape", "dtype", "__array__")) and (shape := shape_of(value)):
        return Rows(shape[0], math.prod(shape[1:]), lambda start, stop: (value[start:stop], None), {"dtype": _dtype(value)})
    if isinstance(value, deque):
        return Rows(len(value), 1, lambda start, stop: (list(islice(value, start, stop)), None), {})
    if isinstance(value, (list, tuple, range)):
        return Rows(len(value), 1, lambda start, stop: (list(value[start:stop]), None), {})
    return None


def _labelled(value: Any) -> Rows:
    def take(start: int, stop: int) -> tuple[Any, Any]:
        return value.iloc[start:stop].tolist(), value.index[start:stop].tolist()

    return Rows(len(value), 1, take, {"dtype": str(value.dtype), "index": []})


def _table(value: Any) -> Rows:
    columns = value.shape[1]

    def take(start: int, stop: int) -> tuple[Any, Any]:
        part = value.iloc[start:stop]
        return part.to_numpy(dtype=object).tolist(), part.index.tolist()  # as objects each column keeps its own type

    about: dict[str, Any] = {"columns": [label(name) for name in value.columns], "dtypes": [str(each) for each in value.dtypes]}
    about["index"] = []
    return Rows(value.shape[0], columns, take, about)


def label(name: Any) -> Any:
    """Return the name of a column as a text, a number, a bool or None."""
    plain = to_json(name)
    return ", ".join(map(str, plain)) if isinstance(plain, list) else str(plain) if isinstance(plain, dict) else plain


def _window(rows: Rows, window: Sequence[int] | None) -> dict[str, Any]:
    """Return as many of the rows that are asked for as fit."""
    start, stop = (min(place, rows.length) for place in window or (0, rows.length))
    most = min(stop, start + DEFAULT_ROWS) if window is None else stop
    left = DEFAULT_SIZE if window is None else MAX_SIZE
    left -= _size(rows.about)
    if left < 0:
        rows = rows._replace(about={})  # the names of the columns alone are too many
    values: list[Any] = []
    labels: list[Any] = []
    nulls: set[str] = set()
    step = max(1, _BLOCK // max(rows.width, 1))
    while (first := start + len(values)) < most:
        taken = rows.take(first, min(first + step, most))
        met: set[str] = set()
        block = to_json_limited([taken[0], [] if taken[1] is None else taken[1]], left, met)
        if isinstance(block, dict):  # too large: what fits is a list
            if step == 1:
                break
            step = max(1, step // 8)
        elif block[0]:
            left -= _size(block)
            values += block[0]
            labels += block[1]
            nulls |= met
        else:
            break  # a list that has become shorter meanwhile
    shown = {**rows.about, "index": labels} if "index" in rows.about else rows.about
    end = start + len(values)
    return {**shown, "value": values, "window": [start, end], "truncated": end < stop, **_told(nulls)}


def _dtype(value: Any) -> str:
    name = str(value.dtype)
    return name.split("'")[1] if name.startswith("<dtype:") else name  # as TensorFlow says it


def _size(plain: Any) -> int:
    return len(json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode("utf-8"))
