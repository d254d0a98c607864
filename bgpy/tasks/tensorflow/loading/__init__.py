"""
Models from the disk: one module for each kind, which all give a `Model`.
"""

from __future__ import annotations

from typing import Any

from bgpy.errors import BgpyError, ModelLoadError
from bgpy.tasks.tensorflow.loading import graph, keras, saved_model
from bgpy.tasks.tensorflow.loading.paths import look
from bgpy.tasks.tensorflow.loading.runtime import check_device, quiet
from bgpy.tasks.tensorflow.loading.session import Asked, Model
from bgpy.tasks.tensorflow.loading.weights import first_line

_KINDS = {"saved_model": "a SavedModel", "keras": "a .keras file", "h5": "an .h5 file", "checkpoint": "a TensorFlow 1 checkpoint"}


def load_model(tensorflow: Any, path: str, device: str, safe_mode: bool) -> Model:
    """
    Load the model at a path.

    Parameters
    ----------
    tensorflow
        The module, see `import_tensorflow`.
    path
        Of a SavedModel folder, a .keras or .h5 file, or the prefix or .meta file of a TensorFlow 1 checkpoint.
    device
        Such as "/cpu:0".
    safe_mode
        Whether to refuse a Keras file whose loading would run code in it.

    Raises
    ------
    ModelLoadError
        There is none, it cannot be loaded, or there is no such kind of device.
    """
    place = look(path)
    chosen = check_device(tensorflow, device)
    try:
        with quiet():
            if place.kind == "saved_model":
                return saved_model.load(tensorflow, place, chosen, saved_model.SavedModel)
            if place.kind == "checkpoint":
                return graph.load(tensorflow, place, chosen)
            return keras.load(tensorflow, place, chosen, safe_mode)
    except BgpyError:
        raise
    except Exception as error:
        raise ModelLoadError(f"{place.path} cannot be loaded as {_KINDS[place.kind]}: {first_line(error)}") from error


def update_model(model: Model, path: str) -> Model:
    """
    Give a model the weights at a path and return the model that has them, which may be another one.

    Raises
    ------
    ModelLoadError
        They do not fit, or cannot be read; the model is as before.
    """
    try:
        with quiet():
            return model.update(path)
    except BgpyError:
        raise
    except Exception as error:
        raise ModelLoadError(f"The model cannot be updated with {path}: {first_line(error)}") from error


__all__ = ["Asked", "Model", "load_model", "update_model"]
