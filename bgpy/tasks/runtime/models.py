"""
Predictions of whatever can predict: an object with a method ``predict``, or a callable.

``predict`` gets lists of numbers as a NumPy array, a dict of such as a dict of arrays; where the model has ``feature_names_in_``,
lists of dicts, dicts of lists and tables as a table with these columns. All else, and what a callable gets, is the data as they
are.
"""

from __future__ import annotations

import csv
import inspect
import json
import os
import stat
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from bgpy.encoding import to_json_limited, type_name
from bgpy.errors import ModelDataError, ModelError

#: Most bytes of a file of data, and of the JSON of what was predicted.
MAX_FILE = 1 << 30
MAX_PREDICTED = 8 << 20


def predict(name: str, model: Any, data: Any) -> Any:
    """
    Return what a model predicts, as plain JSON data.

    Parameters
    ----------
    name
        Of the model, for errors.
    data
        As JSON, or as `read_data` returns it.

    Raises
    ------
    ModelError
        It has no ``predict`` and cannot be called.
    ModelDataError
        The data lack a feature, or are none; or what was predicted is too large to be told.
    Exception
        Whatever the model raises.
    """
    method = None if isinstance(model, type) else getattr(model, "predict", None)
    if callable(method):
        predicted = method(_suited(model, data), **_quietly(method))
    elif callable(model):
        predicted = model(data)
    else:
        raise ModelError(f"{name!r} is no model: its type {type_name(model)} has no method predict, and it cannot be called.")
    plain = to_json_limited([predicted], MAX_PREDICTED)
    if isinstance(plain, dict):  # what fits is a list
        raise ModelDataError(f"The predictions have more than {MAX_PREDICTED:,} bytes of JSON. Ask for fewer at once.")
    return plain[0]


def _quietly(method: Callable[..., Any]) -> dict[str, Any]:
    """Return what keeps a model, as those of Keras, from printing how far it has come."""
    try:
        return {"verbose": 0} if "verbose" in inspect.signature(method).parameters else {}
    except (TypeError, ValueError):
        return {}  # of a method that is not written in Python nobody can tell


# What a model takes


def _suited(model: Any, data: Any) -> Any:
    """Return data in the form in which the model's ``predict`` takes them."""
    if hasattr(type(data), "iloc"):
        return _table(model, data)
    if hasattr(type(data), "dtype"):
        return _instances(model, data)
    features = getattr(model, "feature_names_in_", None)
    if isinstance(data, dict) and features is not None:
        data = _rows(data)
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        if features is None or find_spec("pandas") is None:
            return data
        return _table(model, import_module("pandas").DataFrame(data))
    if isinstance(data, dict):
        arrays = {key: _array(values) for key, values in data.items()}
        return data if any(array is None for array in arrays.values()) else arrays
    array = _array(data)
    return data if array is None else _instances(model, array)


def _rows(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a dict of columns; a dict of single values is one row."""
    columns = [values for values in data.values() if isinstance(values, list)]
    if not columns or len(columns) < len(data):
        return [data]
    if len({len(values) for values in columns}) > 1:
        raise ModelDataError("The columns of the data have different lengths.")
    return [dict(zip(data, row, strict=True)) for row in zip(*columns, strict=True)]


def _table(model: Any, table: Any) -> Any:
    """Return the columns that the model was fitted with, in their order; the numbers alone where it knows no names."""
    features = getattr(model, "feature_names_in_", None)
    if features is None:
        numeric = all(getattr(dtype, "kind", "O") in "iufb" for dtype in table.dtypes)
        return table.to_numpy() if numeric else table
    names = [str(name) for name in features]
    missing = [name for name in names if name not in table.columns]
    if missing and len(missing) == len(names) == table.shape[1] and all(type(name) is int for name in table.columns):
        table, missing = table.set_axis(names, axis=1), []  # a file without a header
    if missing:
        raise ModelDataError(f"The data have no column {missing[0]!r}; the model was fitted with {', '.join(names)[:1000]}.")
    return table[names]


def _array(data: Any) -> Any:
    """Return a list of numbers, nested or not, as an array; null is NaN. None where it is nothing like that."""
    if not isinstance(data, list) or find_spec("numpy") is None:
        return None
    import numpy as np

    try:
        array = np.asarray(data)
        if array.dtype.kind == "O":
            array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        return None  # rows of several lengths, or no numbers
    return array if array.dtype.kind in "iufb" else None


def _instances(model: Any, array: Any) -> Any:
    """Return one instance as an array of one, where the model tells what an instance is."""
    if getattr(array, "ndim", 0) == 1:
        features = getattr(model, "n_features_in_", None)
        if features is not None and len(array) == features:
            return array.reshape(1, -1)
        if features == 1:
            return array.reshape(-1, 1)
    shape = getattr(model, "input_shape", None)  # of Keras: its first length is that of the batch
    if not isinstance(shape, tuple) or not all(size is None or isinstance(size, int) for size in shape):
        return array
    if _fits(shape[1:], array.shape):
        return array[None]
    if len(shape) == array.ndim and not _fits(shape[1:], array.shape[1:]):
        wanted = ", ".join("?" if size is None else str(size) for size in shape[1:])
        given = ", ".join(map(str, array.shape[1:]))
        raise ModelDataError(f"An instance for the model has the shape [{wanted}], each of the data has [{given}].")
    return array


def _fits(wanted: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    return len(wanted) == len(shape) and all(size in (None, length) for size, length in zip(wanted, shape, strict=True))


# Files


def read_data(path: str, folder: str) -> Any:
    """
    Return what is in a file on this machine, by the ending of its name.

    ``.csv``: a table of pandas where that is installed, else a list of dicts, or of lists where the first row is of numbers, and
    so is no header. ``.json``: what it says. ``.npy``: an array; no pickle is opened.

    Parameters
    ----------
    folder
        Where a relative path begins.

    Raises
    ------
    ModelDataError
        There is no such file, or it is nothing of that kind.
    """
    full = os.path.join(folder, path)
    ending = os.path.splitext(path)[1].lower()
    reader = _READERS.get(ending)
    if reader is None:
        raise ModelDataError(f"A file of data ends in {', '.join(_READERS)}: {path!r} does not.")
    try:
        found = os.stat(full)
        if not stat.S_ISREG(found.st_mode):
            raise ModelDataError(f"{path!r} is no file.")
        if found.st_size > MAX_FILE:
            raise ModelDataError(f"The file {path!r} has {found.st_size:,} bytes, the limit is {MAX_FILE:,}.")
        return reader(full)
    except ModelDataError:
        raise
    except OSError as error:
        raise ModelDataError(f"The file {path!r} cannot be read: {error.strerror or error}.") from None
    except (ValueError, EOFError, csv.Error, RecursionError) as error:
        text = str(error).strip().splitlines()
        raise ModelDataError(f"The file {path!r} is no {ending[1:]} that can be read: {text[0] if text else 'empty'}.") from None


def _read_csv(path: str) -> Any:
    with open(path, newline="", encoding="utf-8-sig") as file:
        first = next(csv.reader(file), None)
        if first is None:
            raise ValueError("it is empty")
        has_header = any(type(_cell(text)) is str for text in first)
        if find_spec("pandas") is not None:
            return import_module("pandas").read_csv(path, header=0 if has_header else None, encoding="utf-8-sig")
        file.seek(0)
        rows = [[_cell(text) for text in row] for row in csv.reader(file) if row]
    if not has_header:
        return rows
    return [dict(zip(first, row, strict=False)) for row in rows[1:]]


def _cell(text: str) -> Any:
    """Return the number that a text is, None for an empty one, else the text."""
    if not text:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _read_json(path: str) -> Any:
    with open(path, encoding="utf-8-sig") as file:
        return json.load(file)


def _read_npy(path: str) -> Any:
    if find_spec("numpy") is None:
        raise ValueError("NumPy is not installed")
    import numpy as np

    return np.load(path, allow_pickle=False)


_READERS: Mapping[str, Callable[[str], Any]] = {".csv": _read_csv, ".json": _read_json, ".npy": _read_npy}
