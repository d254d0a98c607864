"""
SavedModel folders, of TensorFlow 2 and 1.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any, TypeVar

from bgpy.errors import ModelLoadError
from bgpy.tasks.tensorflow.loading.paths import Place, look
from bgpy.tasks.tensorflow.loading.runtime import new_session
from bgpy.tasks.tensorflow.loading.session import Model
from bgpy.tasks.tensorflow.loading.weights import Layout, Weights, rewrite
from bgpy.tasks.tensorflow.signatures import PREDICT_METHOD, Signature, TensorInfo, tensor_text

#: Signatures that are part of how a SavedModel starts.
_INTERNAL = ("__saved_model_init_op", "__saved_model_train_op")


Loaded = TypeVar("Loaded", bound="SavedModel")


class SavedModel(Model):
    """
    A SavedModel in a session.

    Parameters
    ----------
    tensorflow
        The module.
    session
        Has the graph and its variables.
    meta
        The MetaGraphDef that was loaded.
    place
        Where it was.
    device
        As `check_device` names it.
    """

    format = "saved_model"
    platform = "tensorflow_savedmodel"

    def __init__(self, tensorflow: Any, session: Any, meta: Any, place: Place, device: str) -> None:
        super().__init__(tensorflow, session, read_signatures(tensorflow, meta), graph_size(meta.graph_def))
        self.device = device
        self.layout = read_layout(tensorflow, place.path)
        self._saver = meta.saver_def

    def update(self, path: str) -> Model:
        place = look(path)
        if place.kind == "saved_model":
            return self.replace(place)
        if place.kind == "checkpoint":
            self.restore(Weights(self.tensorflow, place.path))
            return self
        raise ModelLoadError(
            f"{place.path} is a file of Keras, and what is deployed is a SavedModel: it takes one of the same signatures, or a"
            " checkpoint."
        )

    def replace(self, place: Place) -> Model:
        """Return the model at another place, whose signatures are the same."""
        other = load(self.tensorflow, place, self.device, SavedModel)
        try:
            compare(self.signatures, other.signatures, place.path)
        except BaseException:
            other.close()
            raise
        return other

    def restore(self, weights: Weights) -> None:
        """Set all variables; see `match`."""
        if not self.layout.variables:
            raise ModelLoadError("The deployed model has no variables.")
        with tempfile.TemporaryDirectory(prefix="bgpy-weights-") as folder:
            prefix = rewrite(self.tensorflow, self.layout, weights, folder)
            self.session.run(self._saver.restore_op_name, {self._saver.filename_tensor_name: prefix})


def load(tensorflow: Any, place: Place, device: str, model: type[Loaded]) -> Loaded:
    """Load a SavedModel as an object of a class; raises ModelLoadError, or what TensorFlow raises."""
    v1 = tensorflow.compat.v1
    graph = v1.Graph()
    session = new_session(tensorflow, graph, device)
    try:
        with graph.as_default(), graph.device(device):
            meta = v1.saved_model.load(session, _tags(place.path), place.path, clear_devices=True)
        return model(tensorflow, session, meta, place, device)
    except BaseException:
        session.close()
        raise


def _tags(path: str) -> list[str]:
    """Return the tags of the graph that is for serving."""
    from tensorflow.core.protobuf import saved_model_pb2

    file = os.path.join(path, "saved_model.pb")
    if not os.path.isfile(file):
        return ["serve"]
    model = saved_model_pb2.SavedModel()
    with open(file, "rb") as stream:
        model.ParseFromString(stream.read())
    choices = [list(meta.meta_info_def.tags) for meta in model.meta_graphs]
    if not choices:
        raise ModelLoadError(f"{path}: saved_model.pb has no graph in it.")
    serving = [tags for tags in choices if "serve" in tags]
    return min(serving or choices[:1], key=len)


def read_layout(tensorflow: Any, path: str) -> Layout:
    """Return which variables the SavedModel at a path has."""
    prefix = os.path.join(path, "variables", "variables")
    if not os.path.isfile(prefix + ".index"):
        return Layout({}, None)
    weights = Weights(tensorflow, prefix)
    return Layout(weights.variables, weights.graph)


def read_signatures(tensorflow: Any, meta: Any) -> dict[str, Signature]:
    """
    Return the signatures of a MetaGraphDef by name; those with tensors that are sparse or ragged are left out.

    Raises
    ------
    ModelLoadError
        There is none.
    """
    found = {}
    for name, definition in sorted(meta.signature_def.items()):
        tensors = [*definition.inputs.values(), *definition.outputs.values()]
        if name not in _INTERNAL and definition.outputs and all(tensor.WhichOneof("encoding") == "name" for tensor in tensors):
            found[name] = Signature(
                name,
                _read_tensors(tensorflow, definition.inputs),
                _read_tensors(tensorflow, definition.outputs),
                definition.method_name or PREDICT_METHOD,
            )
    if not found:
        raise ModelLoadError("The model has no signatures: save it with tf.saved_model.save(model, path, signatures=...).")
    return found


def _read_tensors(tensorflow: Any, tensors: Any) -> dict[str, TensorInfo]:
    """Return inputs or outputs, sorted by name: the file keeps no order."""
    found = {}
    for name, tensor in sorted(tensors.items()):
        dims = tensor.tensor_shape.dim
        shape = None if tensor.tensor_shape.unknown_rank else tuple(None if dim.size < 0 else dim.size for dim in dims)
        found[name] = TensorInfo(name, tensorflow.dtypes.as_dtype(tensor.dtype).name, shape, tensor.name)
    return found


def graph_size(graph_def: Any) -> int:
    """Count the operations of a GraphDef, those of its functions included."""
    return len(graph_def.node) + sum(len(function.node_def) for function in graph_def.library.function)


def compare(own: dict[str, Signature], other: dict[str, Signature], path: str) -> None:
    """Raise ModelLoadError where a signature is not the same in another model: names the first tensor that differs."""
    for name, signature in own.items():
        if name not in other:
            raise ModelLoadError(f"{path} has no signature {name!r}, but {', '.join(other)}.")
        for kind, ours, theirs in (
            ("input", signature.inputs, other[name].inputs),
            ("output", signature.outputs, other[name].outputs),
        ):
            for alias in [*ours, *(alias for alias in theirs if alias not in ours)]:
                here, there = ours.get(alias), theirs.get(alias)
                if here is None or there is None or (here.dtype, here.shape) != (there.dtype, there.shape):
                    own_text, other_text = (tensor_text(each) if each else f"no {alias}" for each in (here, there))
                    raise ModelLoadError(
                        f"Of signature {name!r} the deployed model has the {kind} {own_text}, and {path} has {other_text}."
                    )
