"""
What lies at a path: told by looking, without TensorFlow.
"""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

from bgpy.errors import ModelLoadError

Kind = Literal["saved_model", "keras", "h5", "weights", "checkpoint"]

_TAKEN = "a SavedModel folder, a .keras file, an .h5 file, or the prefix or .meta file of a TensorFlow 1 checkpoint"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_SHOWN = 10


class Place(NamedTuple):
    """
    What lies at a path.

    Attributes
    ----------
    kind
        "weights" is a .weights.h5 file of Keras.
    path
        Absolute; of a checkpoint the prefix of its files' names.
    """

    kind: Kind
    path: str


def look(path: str) -> Place:
    """
    Find out what lies at a path.

    Raises
    ------
    ModelLoadError
        Nothing, or nothing that is a model or weights: says what is there.
    """
    path = os.path.abspath(path)
    if os.path.isdir(path):
        return _look_into(path)
    for ending in (".meta", ".index"):
        if path.endswith(ending) and os.path.isfile(path):
            return Place("checkpoint", path.removesuffix(ending))
    if not os.path.isfile(path):
        if os.path.isfile(path + ".index") or os.path.isfile(path + ".meta"):
            return Place("checkpoint", path)
        raise ModelLoadError(_absent(path))
    if path.endswith(".weights.h5"):
        return Place("weights", path)
    with open(path, "rb") as file:
        start = file.read(8)
    if path.endswith(".keras") or start.startswith(_ZIP):
        return Place("keras", path)
    if path.endswith((".h5", ".hdf5")) or start == _HDF5:
        return Place("h5", path)
    if os.path.isfile(path + ".meta"):
        return Place("checkpoint", path)  # of the first versions of TensorFlow: all in one file
    raise ModelLoadError(f"{path} is a file that is no model. Taken are {_TAKEN}.")


def _look_into(path: str) -> Place:
    names = sorted(os.listdir(path))
    if "saved_model.pb" in names or "saved_model.pbtxt" in names:
        return Place("saved_model", path)
    prefixes = [name.removesuffix(".index") for name in names if name.endswith(".index")]
    if prefixes:
        example = os.path.join(path, prefixes[-1])
        raise ModelLoadError(f"{path} is a folder with checkpoints: name one by the prefix of its files, such as {example}.")
    raise ModelLoadError(
        f"{path} is a folder that is no SavedModel: it has no saved_model.pb but {_list(names)}. Taken are {_TAKEN}."
    )


def _list(names: list[str]) -> str:
    if not names:
        return "nothing in it"
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _absent(path: str) -> str:
    folder = os.path.dirname(path)
    return f"There is nothing at {path}{'' if os.path.isdir(folder) else f', nor is there a folder {folder}'}."
