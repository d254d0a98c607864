"""
The statistics of one column: a Series of pandas, a one-dimensional NumPy array, or a list.

A column has one of these kinds: ``number``, ``boolean``, ``text``, ``moment`` (dates and times), ``span`` (of time), ``object``
(anything else, or of several kinds), ``empty`` (no value at all).
"""

from __future__ import annotations

import math
import numbers
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from heapq import nsmallest
from typing import Any, NamedTuple

from bgpy.encoding import to_json, to_json_limited
from bgpy.inspection.measures import bin_edges, count_between, mean_and_deviation, quartiles

#: Most frequent values that are told, and the characters of one; a longer text is cut off, with three dots.
MAX_FREQUENT = 10
MAX_TEXT = 200
#: Bytes of JSON of a frequent value that is no text; a larger one is described.
_MAX_VALUE = 1000
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
#: What pandas says of what is missing.
_MISSING_NAMES = frozenset({"NaTType", "NAType"})


class Scale(NamedTuple):
    """
    What the numbers of a column stand for.

    Attributes
    ----------
    show
        Returns as JSON what a number stands for.
    unit
        How much a difference of 1 is, in what differences are told in.
    whole
        Whether the numbers are integers.
    kind
        Of the column. The edges of bins of moments and spans are such themselves.
    """

    show: Callable[[Any], Any] = to_json
    unit: float = 1.0
    whole: bool = False
    kind: str = "number"


def summarize(name: Any, values: Any) -> dict[str, Any]:
    """
    Return the statistics of a column, always with the same fields; None for what such a column has not.

    ``name``, ``type`` (the dtype, or the names of Python's types), ``kind``; ``count`` of values and how many are ``missing``;
    ``distinct`` values; ``min``, ``max``, ``mean``, ``std`` (with n - 1), ``quartiles`` and the ``histogram`` (``edges`` and
    ``counts``) of the finite numbers, and how many are ``infinite``; ``frequent``: values with their counts; ``lengths`` of
    texts: ``min``, ``max``, ``mean``.
    """
    kind = type(values)
    if hasattr(kind, "isna"):
        result = _series(values)
    elif hasattr(kind, "dtype"):
        result = _array(values)
    else:
        result = _list(values, len(values))
    return {"name": name, **result}


def _blank(type_: str, kind: str, count: int, missing: int) -> dict[str, Any]:
    nothing = dict.fromkeys(("distinct", "min", "max", "mean", "std", "quartiles", "histogram", "infinite", "lengths"))
    return {"type": type_, "kind": kind, "count": count, "missing": missing, **nothing, "frequent": []}


# Series of pandas, arrays of NumPy


def _series(values: Any) -> dict[str, Any]:
    import numpy as np

    dtype, present = values.dtype, values[~values.isna()]
    letter = getattr(dtype, "kind", "O")
    rows = len(values)
    if letter in "iufb":
        # What pandas keeps in its own ways, with its own sign for missing values, fits these.
        plain = dtype if isinstance(dtype, np.dtype) else {"i": "i8", "u": "u8", "f": "f8", "b": "?"}[letter]
        result = _array(np.asarray(present, plain), rows)
    elif letter in "mM" and isinstance(dtype, np.dtype):
        result = _array(present.to_numpy(), rows)
    elif letter == "M" and getattr(dtype, "tz", None) is not None:
        result = _array(present.dt.tz_convert(None).to_numpy(), rows, "+00:00")
    else:
        result = _list(present.tolist(), rows)
    return {**result, "type": str(dtype)}


def _array(values: Any, rows: int | None = None, suffix: str = "") -> dict[str, Any]:
    """
    Return the statistics of a one-dimensional array.

    Parameters
    ----------
    rows
        How many values there are with those that are missing, where these have been left out.
    suffix
        What the text of a moment ends with.
    """
    import numpy as np

    rows = len(values) if rows is None else rows
    type_ = str(values.dtype)
    if hasattr(type(values), "compressed"):
        values = values.compressed()  # a masked array
    letter = values.dtype.kind
    if letter == "f":
        values = values[~np.isnan(values)]
        if values.dtype.itemsize > 8:
            with np.errstate(over="ignore"):
                values = values.astype(np.float64)  # all figures are doubles
    elif letter in "mM":
        values = values[~np.isnat(values)]
    if letter not in "iufbmM":
        return {**_list(values.tolist(), rows), "type": type_}
    count = len(values)
    if letter == "b":
        return _booleans(_blank(type_, "boolean", count, rows - count), Counter({True: int(values.sum())}), count)
    blank = _blank(type_, "number", count, rows - count)
    if letter in "mM":
        values, scale = _moments(values, suffix)
    else:
        scale = Scale(whole=letter in "iu")
    ordered: Any = np.sort(values)
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if count else np.array([], int)
    counts = np.diff(np.append(starts, count))
    most = np.argsort(-counts, kind="stable")[:MAX_FREQUENT]
    frequent = [(ordered[starts[place]], int(counts[place])) for place in most]
    return _numbers({**blank, "distinct": len(starts)}, ordered, frequent, scale)


def _moments(values: Any, suffix: str) -> tuple[Any, Scale]:
    """Return moments or spans as integers in their own unit, and what these stand for."""
    import numpy as np

    letter = values.dtype.kind
    unit = np.datetime_data(values.dtype)[0]
    if unit in ("Y", "M", "W", "generic"):  # of no fixed length, or none
        values = values.astype(f"{letter}8[D]" if unit != "generic" else f"{letter}8[s]")
    dtype = values.dtype
    unit, factor = np.datetime_data(dtype)
    step = np.ones((), f"m8[{factor}{unit}]") / np.timedelta64(1, "s")

    def show(number: Any) -> Any:
        shown = to_json(np.int64(_nearest(number)).astype(dtype))
        return shown + suffix if isinstance(shown, str) else shown

    return values.view("i8"), Scale(show, float(step), True, "moment" if letter == "M" else "span")


# Lists


def _list(values: list[Any], rows: int) -> dict[str, Any]:
    """Return the statistics of a list that may have lost its missing values already."""
    types = set(map(type, values))
    if any(hasattr(kind, "tolist") for kind in types):
        values = [_plain(value) for value in values]  # numbers of NumPy, and small arrays
        types = set(map(type, values))
    if types <= {bool, int, str, float, type(None)}:
        values = [value for value in values if value is not None and value == value]
    else:
        values = [value for value in values if not _is_missing(value)]
    types = set(map(type, values))
    count = len(values)
    names = sorted(kind.__name__ for kind in types)
    blank = _blank(", ".join(names[:3]) + ", ..." * (len(names) > 3), "object", count, rows - count)
    if not types:
        return {**blank, "kind": "empty", "distinct": 0}
    if types == {bool}:
        return _booleans({**blank, "kind": "boolean"}, Counter(values), count)
    if all(issubclass(kind, str) for kind in types):
        return _texts({**blank, "kind": "text"}, values)
    read = _reading(types, values)
    if read is None:
        return _objects(blank, values)
    plain, scale = read
    counts = Counter(plain)
    frequent = nsmallest(MAX_FREQUENT, counts.items(), key=lambda item: (-item[1], item[0]))
    return _numbers({**blank, "distinct": len(counts)}, sorted(plain), frequent, scale)


def _plain(value: Any) -> Any:
    """Return the value of Python that one of NumPy stands for."""
    kind = type(value)
    if kind.__name__ in ("datetime64", "timedelta64"):
        value = value.astype(f"{value.dtype.kind}8[us]")  # finer ones would come as bare integers
    return value.tolist() if hasattr(kind, "tolist") else value


def _is_missing(value: Any) -> bool:
    kind = type(value)
    return value is None or kind.__name__ in _MISSING_NAMES or (isinstance(value, (float, Decimal)) and math.isnan(value))


def _reading(types: set[type], values: list[Any]) -> tuple[list[Any], Scale] | None:
    """Return values as numbers and what these stand for; None where they do not all stand for the like."""
    try:
        if all(issubclass(kind, (numbers.Real, Decimal)) for kind in types):
            return _read_numbers(types, values)
        if all(issubclass(kind, datetime) for kind in types):
            return _read_moments(values)
    except (OverflowError, TypeError):
        return None  # an integer that no float can be; moments with a time zone among others without
    if all(issubclass(kind, date) and not issubclass(kind, datetime) for kind in types):
        days = [value.toordinal() for value in values]
        return days, Scale(lambda number: date.fromordinal(_nearest(number)).isoformat(), 86_400.0, True, "moment")
    if all(issubclass(kind, timedelta) for kind in types):
        return [value // _MICROSECOND for value in values], Scale(lambda number: number * 1e-6, 1e-6, True, "span")
    return None


def _read_numbers(types: set[type], values: list[Any]) -> tuple[list[Any], Scale]:
    whole = all(issubclass(kind, numbers.Integral) for kind in types)
    plain: list[Any] = values if types in ({int}, {float}) else list(map(int if whole else float, values))
    for end in (min(plain), max(plain)):
        float(end)
    return plain, Scale(whole=whole)


def _read_moments(values: list[Any]) -> tuple[list[Any], Scale]:
    start = _EPOCH if values[0].utcoffset() is None else _EPOCH.replace(tzinfo=timezone.utc)

    def show(number: Any) -> str:
        moment: datetime = start + _nearest(number) * _MICROSECOND
        return moment.isoformat()

    return [(value - start) // _MICROSECOND for value in values], Scale(show, 1e-6, True, "moment")


def _nearest(number: Any) -> int:
    """Return the nearest integer, of two the larger: `round` would take the even one, wherever the counting begins."""
    return math.floor(number + 0.5) if isinstance(number, float) else int(number)


# Kinds


def _numbers(blank: dict[str, Any], ordered: Sequence[Any], frequent: list[tuple[Any, int]], scale: Scale) -> dict[str, Any]:
    """Return the statistics of numbers in order, a list or an array."""
    first, end = bisect_right(ordered, -math.inf), bisect_left(ordered, math.inf)
    finite = ordered[first:end]
    shown = [{"value": scale.show(value) if math.isfinite(value) else str(float(value)), "count": n} for value, n in frequent]
    result = {**blank, "kind": scale.kind, "infinite": len(ordered) - len(finite), "frequent": shown}
    if not len(finite):
        return result
    mean, deviation = _moments_of(finite)
    quarters = quartiles(finite)
    edges: list[Any] = bin_edges(finite, quarters[2] / 2 - quarters[0] / 2, scale.whole)
    if scale.kind != "number":
        edges = [finite[0], *map(_nearest, edges[1:-1]), finite[-1]]
    return {
        **result,
        "min": scale.show(finite[0]),
        "max": scale.show(finite[-1]),
        "mean": None if mean is None else scale.show(mean),
        "std": None if deviation is None else deviation * scale.unit,
        "quartiles": [scale.show(quarter) for quarter in quarters],
        "histogram": {"edges": [scale.show(edge) for edge in edges], "counts": count_between(finite, edges)},
    }


def _moments_of(finite: Any) -> tuple[float | None, float | None]:
    """Return mean and standard deviation."""
    if isinstance(finite, list):
        return mean_and_deviation(finite)
    import numpy as np

    values = finite.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        found = [float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan]
    mean, deviation = (number if math.isfinite(number) else None for number in found)
    return mean, deviation


def _booleans(blank: dict[str, Any], counts: Counter[bool], count: int) -> dict[str, Any]:
    """Return the statistics of truth values; their mean is the share of those that are true."""
    counts[False] = count - counts[True]
    found = [{"value": value, "count": n} for value, n in counts.most_common() if n]
    present = sorted(value for value, n in counts.items() if n)
    if not present:
        return {**blank, "distinct": 0}
    ends = {"min": present[0], "max": present[-1], "mean": counts[True] / count}
    return {**blank, **ends, "distinct": len(found), "frequent": found}


def _texts(blank: dict[str, Any], values: list[str]) -> dict[str, Any]:
    lengths = list(map(len, values))
    counts = Counter(values)
    most = nsmallest(MAX_FREQUENT, counts.items(), key=lambda item: (-item[1], item[0]))
    return {
        **blank,
        "distinct": len(counts),
        "frequent": [{"value": _shown(value), "count": count} for value, count in most],
        "lengths": {"min": min(lengths), "max": max(lengths), "mean": sum(lengths) / len(lengths)},
    }


def _objects(blank: dict[str, Any], values: list[Any]) -> dict[str, Any]:
    """Return what can be told of any values: nothing more where they cannot be compared by a hash."""
    try:
        counts = Counter(values)
    except Exception:  # noqa: BLE001 - lists have none, and a class of the user may raise anything
        return blank
    frequent = [{"value": _shown(value), "count": count} for value, count in counts.most_common(MAX_FREQUENT)]
    return {**blank, "distinct": len(counts), "frequent": frequent}


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return to_json(value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "...")
    return to_json_limited(value, _MAX_VALUE)
