"""
Statistics of values that have columns: tables, arrays, Series, lists and dicts.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, NamedTuple

from bgpy.encoding import shape_of, type_name
from bgpy.errors import RefusedError
from bgpy.inspection.columns import summarize
from bgpy.inspection.windows import label

#: Columns that are looked at.
MAX_COLUMNS = 500
#: Values that are looked at; of a larger table every so many rows, which the answer says. One object of Python
#: costs as much as so many values in an array.
MAX_CELLS = 20_000_000
_OBJECT = 8


class Table(NamedTuple):
    """
    A value with columns.

    Attributes
    ----------
    rows
        How many, in the longest column.
    names
        Of the columns; the only column of an array or a list may have none.
    column
        Returns every so many values of a column: of a Series, an array or a list.
    dtypes
        Those of the columns; None for lists.
    """

    rows: int
    names: list[Any]
    column: Callable[[int, int], Any]
    dtypes: list[Any]


def describe(value: Any) -> dict[str, Any]:
    """
    Return the statistics of each column of a value.

    Returns
    -------
    statistics
        ``type`` and ``shape`` of the value; ``rows``; ``columns``: of each what `summarize` tells; ``left_out``: how many further
        columns there are; ``sample``: None where all values were looked at, else ``every`` how many rows, and ``rows``, how many
        those were.

    Raises
    ------
    RefusedError
        The value has no columns.
    """
    table = _table(value)
    if table is None:
        known = "only of tables, arrays, Series, lists, and dicts of these"
        raise RefusedError(f"There are no statistics of a value of the type {type_name(value)}: {known}", "name")
    count = min(len(table.names), MAX_COLUMNS)
    cost = sum(1 if getattr(dtype, "kind", "O") in "iufbmM" else _OBJECT for dtype in table.dtypes[:count])
    step = max(1, math.ceil(table.rows * cost / MAX_CELLS))
    return {
        "type": type_name(value),
        "shape": shape_of(value),
        "rows": table.rows,
        "columns": [summarize(label(name), table.column(place, step)) for place, name in enumerate(table.names[:count])],
        "left_out": len(table.names) - count,
        "sample": None if step == 1 else {"every": step, "rows": math.ceil(table.rows / step)},
    }


def _table(value: Any) -> Table | None:
    """Return the columns of a value by what its type can do; None where it has none."""
    kind = type(value)
    if isinstance(value, type):
        return None
    if hasattr(kind, "iloc") and hasattr(kind, "columns"):
        return Table(len(value), list(value.columns), lambda place, step: value.iloc[::step, place], list(value.dtypes))
    if hasattr(kind, "iloc"):
        return Table(len(value), [value.name], lambda place, step: value.iloc[::step], [value.dtype])
    if hasattr(kind, "shape") and hasattr(kind, "dtype") and hasattr(kind, "__array__"):
        return _of_array(value)
    if isinstance(value, Mapping):
        return _of_dict(dict(value))
    if isinstance(value, (list, tuple)):
        return _of_list(list(value))
    if isinstance(value, (deque, range, set, frozenset)):
        return _of_list(list(value)) if len(value) * _OBJECT <= MAX_CELLS else _of_many(value)
    return None


def _of_array(value: Any) -> Table | None:
    """Return fields, or columns; the numbers of more than two dimensions are one column."""
    if not hasattr(type(value), "compressed"):
        import numpy as np

        value = np.asarray(value)  # what is another library's, on whatever device
    if not value.ndim:
        return None
    if value.dtype.names:
        names = list(value.dtype.names)
        dtypes = [value.dtype[name] for name in names]
        return Table(value.size, names, lambda place, step: value[names[place]].reshape(-1)[::step], dtypes)
    if value.ndim == 2:
        width = value.shape[1]
        return Table(len(value), list(range(width)), lambda place, step: value[::step, place], [value.dtype] * width)
    return Table(value.size, [None], lambda place, step: value.reshape(-1)[::step], [value.dtype])


def _of_dict(value: dict[Any, Any]) -> Table | None:
    """Return the columns of a dict of columns."""
    columns = [_table(column) for column in value.values()]
    flat = [column for column in columns if column is not None and len(column.names) == 1]
    if not flat or len(flat) < len(value):
        return None
    dtypes = [column.dtypes[0] for column in flat]
    return Table(max(column.rows for column in flat), list(value), lambda place, step: flat[place].column(0, step), dtypes)


def _of_list(rows: list[Any]) -> Table:
    """Return the columns of dicts by their keys, and of rows of one length by their places; all else is one column."""
    if rows and all(isinstance(row, Mapping) for row in rows):
        names = list(dict.fromkeys(key for row in rows for key in row))
        return Table(len(rows), names, lambda place, step: [row.get(names[place]) for row in rows[::step]], [None] * len(names))
    if rows and all(isinstance(row, (list, tuple)) and len(row) == len(rows[0]) for row in rows):
        fields = getattr(type(rows[0]), "_fields", range(len(rows[0])))
        return Table(len(rows), list(fields), lambda place, step: [row[place] for row in rows[::step]], [None] * len(fields))
    return Table(len(rows), [None], lambda place, step: rows[::step], [None])


def _of_many(value: Any) -> Table:
    """Return the one column of a value of so many items that there is no list of all of them."""
    if isinstance(value, range):
        return Table(len(value), [None], lambda place, step: list(value[::step]), [None])
    return Table(len(value), [None], lambda place, step: list(islice(value, 0, None, step)), [None])
