"""
.keras and .h5 files.

The model is traced once, saved, and loaded as a SavedModel is. The object of Keras stays: it reads the files of later weights.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from bgpy.errors import ModelLoadError
from bgpy.tasks.tensorflow.loading import saved_model
from bgpy.tasks.tensorflow.loading.paths import Place, look
from bgpy.tasks.tensorflow.loading.session import Model
from bgpy.tasks.tensorflow.loading.weights import Layout, Variable, Weights, check_variable, rewrite, shown
from bgpy.tasks.tensorflow.signatures import DEFAULT_SIGNATURE, Signature

_SHAPES = re.compile(
    r"variable\.shape=(\(.*?\)), Received: value\.shape=(\(.*?\))\. Target variable: <Variable path=([^,]+),", re.DOTALL
)


class KerasModel(saved_model.SavedModel):
    """A Keras model in a session, with the object that it was made of."""

    platform = "tensorflow_keras"

    #: The object of Keras, and what saves it as it was traced.
    keras_model: Any
    archive: Any
    safe_mode: bool

    def update(self, path: str) -> Model:
        place = look(path)
        # The values of the object of Keras serve nobody: where one of these stops midway, the session is as it was.
        if place.kind == "checkpoint":
            self._take_checkpoint(Weights(self.tensorflow, place.path))
        elif place.kind == "saved_model":
            self._take_saved_model(place.path)
        elif place.kind == "weights":
            _load_weights(self.keras_model, place.path)
        else:
            self._take(_values(self.tensorflow, read(place, self.safe_mode)), place.path)
        with tempfile.TemporaryDirectory(prefix="bgpy-weights-") as folder:
            write_out(self.archive, folder)
            self.restore(Weights(self.tensorflow, os.path.join(folder, "variables", "variables")))
        return self

    def _take_checkpoint(self, weights: Weights) -> None:
        """Take the variables of a checkpoint of the object, or of one that has it as an attribute."""
        checkpoint = self.tensorflow.train.Checkpoint(self.keras_model)
        with tempfile.TemporaryDirectory(prefix="bgpy-weights-") as folder:
            own = Weights(self.tensorflow, checkpoint.write(os.path.join(folder, "own")))
            prefix = rewrite(self.tensorflow, Layout(own.variables, own.graph), weights, folder)
            checkpoint.read(prefix).assert_existing_objects_matched()

    def _take_saved_model(self, path: str) -> None:
        """Take the variables of what `Model.export` has written, or of a SavedModel of the same object."""
        weights = Weights(self.tensorflow, os.path.join(path, "variables", "variables"))
        own = self.keras_model.variables
        exported = [f"variables/{index}/.ATTRIBUTES/VARIABLE_VALUE" for index in range(len(own))]
        if not all(key in weights.variables for key in exported):
            self._take_checkpoint(weights)
            return
        self._take([(shown(key), weights.variables[key], partial(weights.read, key)) for key in exported], path)

    def _take(self, values: list[tuple[str, Variable, Callable[[], Any]]], path: str) -> None:
        """Give the object of Keras other values, in its own order; all are looked at first."""
        own = self.keras_model.variables
        for variable, (_, given, _) in zip(own, values, strict=False):
            check_variable(variable.path, _variable(self.tensorflow, variable), given, path)
        if len(own) != len(values):
            first = own[len(values)].path if len(values) < len(own) else values[len(own)][0]
            raise ModelLoadError(
                f"The model has {len(own)} variables and {path} has {len(values)}: only one of them has {first}."
            )
        for variable, (_, _, value) in zip(own, values, strict=True):
            variable.assign(value())


def _variable(tensorflow: Any, variable: Any) -> Variable:
    return Variable(tuple(variable.shape), tensorflow.dtypes.as_dtype(variable.dtype))


def _values(tensorflow: Any, model: Any) -> list[tuple[str, Variable, Callable[[], Any]]]:
    return [(variable.path, _variable(tensorflow, variable), variable.numpy) for variable in model.variables]


def _load_weights(model: Any, path: str) -> None:
    """Load a .weights.h5 file into the object of Keras."""
    try:
        count = _count_values(path)
        model.load_weights(path)
    except Exception as error:
        found = _SHAPES.search(str(error))
        if found is None:
            raise ModelLoadError(f"{path} does not fit: {_plain(error)}") from error
        own, given = (text.replace("(", "[").replace(",)", "]").replace(")", "]") for text in (found[1], found[2]))
        raise ModelLoadError(f"Variable {found[3]} has the shape {own} in the model and {given} in {path}.") from error
    # Without the states of random generators, as Dropout has: not every Keras writes them.
    if count not in (len(model.weights), len(model.variables)):
        # Keras warns of some of what it does not find, and goes on.
        raise ModelLoadError(f"The model has {len(model.weights)} variables and {path} has {count}.")


def _count_values(path: str) -> int:
    import h5py

    with h5py.File(path, "r") as file:
        found: list[str] = []
        file.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") and "/vars/" in f"/{name}" else None)
    return sum(not name.startswith("optimizer/") for name in found)


def _plain(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:1000] or type(error).__name__


def load(tensorflow: Any, place: Place, device: str, safe_mode: bool) -> KerasModel:
    """Load a .keras or .h5 file; raises ModelLoadError, or what Keras raises."""
    with tensorflow.device(device):
        model = read(place, safe_mode)
        archive, inputs, outputs = _trace(tensorflow, model, place.path)
        with tempfile.TemporaryDirectory(prefix="bgpy-keras-") as folder:
            write_out(archive, folder)
            loaded = saved_model.load(tensorflow, Place(place.kind, folder), device, KerasModel)
    loaded.format = place.kind
    loaded.keras_model, loaded.archive, loaded.safe_mode = model, archive, safe_mode
    traced = loaded.signatures[DEFAULT_SIGNATURE]
    loaded.signatures = {
        DEFAULT_SIGNATURE: Signature(
            DEFAULT_SIGNATURE,
            {name: traced.inputs[name] for name in inputs},
            {name: traced.outputs[name] for name in outputs},
            traced.method,
        )
    }
    return loaded


def write_out(archive: Any, folder: str) -> None:
    """Save the traced model, without the summary that Keras prints of it."""
    with contextlib.redirect_stdout(io.StringIO()):
        archive.write_out(folder)


def read(place: Place, safe_mode: bool) -> Any:
    """Return the object of Keras that a file has."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ModelLoadError(
            f"Keras runs on {keras.backend.backend()} here: set KERAS_BACKEND=tensorflow where the server is started."
        )
    if place.kind == "weights":
        raise ModelLoadError(f"{place.path} has weights only: deploy the model, then update it with them.")
    if place.kind == "keras" and not zipfile.is_zipfile(place.path):  # Keras would say that it is not there
        raise ModelLoadError(f"{place.path} cannot be loaded as a .keras file: it is no zip archive, or not a whole one.")
    if place.kind == "h5" and safe_mode:
        _refuse_code(place.path)
    try:
        return keras.models.load_model(place.path, compile=False, safe_mode=safe_mode)
    except Exception as error:
        if safe_mode and "safe_mode" in str(error):
            raise _unsafe(place.path) from error
        raise


def _refuse_code(path: str) -> None:
    """Refuse an .h5 file with a Lambda layer: not every Keras 3 does it for this format."""
    import h5py

    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
    if config is None:
        raise ModelLoadError(f"{path} has no model, at most weights: deploy the model, then update it with them.")
    if _has_lambda(json.loads(config)):
        raise _unsafe(path)


def _has_lambda(config: Any) -> bool:
    if isinstance(config, dict):
        return config.get("class_name") in ("Lambda", "__lambda__") or any(map(_has_lambda, config.values()))
    return isinstance(config, list) and any(map(_has_lambda, config))


def _unsafe(path: str) -> ModelLoadError:
    return ModelLoadError(
        f"{path} has code of its own, as Lambda layers have, and loading would run it. Where you trust the file, deploy it with"
        " safe_mode=False."
    )


def _trace(tensorflow: Any, model: Any, path: str) -> tuple[Any, list[str], list[str]]:
    """Return an archive with the model as a function of named tensors, and the names of inputs and outputs in Keras's order."""
    import keras

    if getattr(model, "inputs", None):
        names, structure = _input_names(keras, _structure(model))
        given = zip(keras.tree.flatten(names), keras.tree.flatten(structure), strict=True)
        specs = {name: tensorflow.TensorSpec(each.shape, each.dtype, name) for name, each in given}
    else:
        names, specs = _built_input(tensorflow, model, path)
    outputs: list[str] = []

    def call(*tensors: Any) -> dict[str, Any]:
        by_name = dict(zip(specs, tensors, strict=True))
        result = model(keras.tree.map_structure(lambda name: by_name[name], names), training=False)
        named = _name_outputs(keras, model, result)
        outputs[:] = named
        return named

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(DEFAULT_SIGNATURE, call, list(specs.values()))
    return archive, list(specs), outputs


def _structure(model: Any) -> Any:
    """Return a model's inputs in the structure it takes them in."""
    try:
        return model.input
    except AttributeError:  # a Sequential knows its inputs before it has been called, but not by this name
        return model.inputs[0] if len(model.inputs) == 1 else list(model.inputs)


def _input_names(keras: Any, structure: Any) -> tuple[Any, Any]:
    """Return the names of a model's inputs in the structure it takes them in, and that structure."""
    if isinstance(structure, Mapping):
        return {key: key for key in structure}, dict(structure)
    return keras.tree.map_structure(lambda tensor: tensor.name, structure), structure


def _built_input(tensorflow: Any, model: Any, path: str) -> tuple[str, dict[str, Any]]:
    """Return name and spec of the one input of a model that is a class of its own, as it was built."""
    shape = (model.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, (list, tuple)) or not all(size is None or isinstance(size, int) for size in shape):
        raise ModelLoadError(f"{path}: this Keras model does not say what its inputs are; deploy what its export(folder) writes.")
    return "inputs", {"inputs": tensorflow.TensorSpec([None, *shape[1:]], model.input_dtype or "float32", "inputs")}


def _name_outputs(keras: Any, model: Any, result: Any) -> dict[str, Any]:
    """Return what a model gave by the names that Keras has for it."""
    if isinstance(result, Mapping):
        return dict(result)
    tensors = keras.tree.flatten(result)
    inner = getattr(model, "_functional", None)  # of a Sequential
    names = getattr(model, "output_names", None) or getattr(inner, "output_names", None)
    if names is None or len(set(names)) != len(tensors):
        names = [f"output_{index}" for index in range(len(tensors))]
    return dict(zip(names, tensors, strict=True))
