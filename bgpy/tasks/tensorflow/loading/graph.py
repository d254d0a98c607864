"""
Checkpoints of TensorFlow 1 with their meta graph, asked by collection keys and names of tensors.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bgpy.errors import ModelInputError, ModelLoadError
from bgpy.tasks.tensorflow.batching import Query
from bgpy.tasks.tensorflow.loading import saved_model
from bgpy.tasks.tensorflow.loading.paths import Place, look
from bgpy.tasks.tensorflow.loading.runtime import new_session
from bgpy.tasks.tensorflow.loading.session import Asked, Model, fetch_names
from bgpy.tasks.tensorflow.loading.weights import Layout, Weights, rewrite
from bgpy.tasks.tensorflow.signatures import DEFAULT_SIGNATURE, Signature, TensorInfo, check_feed, inputs_text

#: So many kinds of questions are remembered.
MAX_PLANS = 200


class Plan(NamedTuple):
    """
    What a set of names asks of a graph.

    Attributes
    ----------
    signature
        Made for this question: inputs and outputs have the names of their tensors.
    feeds
        For each name that is fed its tensors.
    result
        As in `Asked`.
    """

    signature: Signature
    feeds: dict[str, tuple[str, ...]]
    result: tuple[str | tuple[str, ...], ...]


class GraphModel(Model):
    """
    A graph of TensorFlow 1 in a session.

    Parameters
    ----------
    tensorflow
        The module.
    session
        Has the graph and its variables.
    meta
        Its MetaGraphDef.
    prefix
        Of the checkpoint.
    """

    format = "graph"
    platform = "tensorflow_graphdef"

    def __init__(self, tensorflow: Any, session: Any, meta: Any, prefix: str) -> None:
        self._graph = session.graph
        self._collections = _tensors_by_collection(tensorflow, self._graph)
        signatures = _signatures(tensorflow, self._graph, meta, self._collections)
        super().__init__(tensorflow, session, signatures, saved_model.graph_size(meta.graph_def))
        self._saver = meta.saver_def
        self._plans: dict[tuple[tuple[str, ...], tuple[str, ...]], Plan] = {}
        self._layout = self._read_layout(prefix)

    def _read_layout(self, prefix: str) -> Layout:
        """Return the variables that the graph itself asks of a checkpoint: there may be more in one."""
        if not self._saver.restore_op_name:
            return Layout({}, None)
        found = Weights(self.tensorflow, prefix).variables
        scope = self._saver.restore_op_name.rpartition("/")[0]
        operations = [op for op in self._graph.get_operations() if op.type == "RestoreV2" and op.name.startswith(scope)]
        names = {name.decode() for op in operations for name in self.session.run(op.inputs[1])}
        return Layout({key: variable for key, variable in found.items() if key in names or not names}, None)

    def update(self, path: str) -> Model:
        place = look(path)
        if place.kind not in ("checkpoint", "saved_model"):
            raise ModelLoadError(f"{place.path} is a file of Keras, and what is deployed is a graph: it takes a checkpoint.")
        prefix = os.path.join(place.path, "variables", "variables") if place.kind == "saved_model" else place.path
        weights = Weights(self.tensorflow, prefix)
        if not self._layout.variables:
            raise ModelLoadError("The deployed graph has no variables.")
        with tempfile.TemporaryDirectory(prefix="bgpy-weights-") as folder:
            prefix = rewrite(self.tensorflow, self._layout, weights, folder)
            self.session.run(self._saver.restore_op_name, {self._saver.filename_tensor_name: prefix})
        return self

    def resolve(self, fetches: str | Sequence[str] | None, feeds: Mapping[str, Any] | None) -> Asked:
        """
        Find out what a prediction asks for.

        Parameters
        ----------
        fetches
            Collection keys, or names of tensors, where ``:0`` may be left out. A collection of several tensors gives a list.
            None, or an empty list: all outputs of the default signature. Its outputs, and ``SIGNATURE/OUTPUT``, are taken too.
        feeds
            Values by collection key or name of a tensor, or of an input of the signature. A collection of several tensors takes
            a list of as many values.

        Raises
        ------
        ModelInputError
            A name is unknown, a value does not fit, or one is missing that the fetches need.
        """
        if feeds is not None and not isinstance(feeds, Mapping):
            raise ModelInputError(f"feed_dict maps names to values; it is a {type(feeds).__name__}. {self._inputs_text()}")
        given = dict(feeds or {})
        key = (tuple(given), tuple(fetch_names(fetches)))
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            plan = self._plans[key] = self._plan(*key)
        values: dict[str, Any] = {}
        for name, tensors in plan.feeds.items():
            values.update(self._values(plan, name, tensors, given[name]))
        ordered = {tensor: values[tensor] for tensor in plan.signature.inputs}
        return Asked(Query(plan.signature, ordered, tuple(plan.signature.outputs)), plan.result)

    def _values(self, plan: Plan, name: str, tensors: tuple[str, ...], value: Any) -> dict[str, Any]:
        several = [value]
        if len(tensors) > 1:
            if not isinstance(value, (list, tuple)) or len(value) != len(tensors):
                raise ModelInputError(
                    f"Collection {name!r} has {len(tensors)} tensors: it takes a list of {len(tensors)} values."
                    f" {self._inputs_text()}"
                )
            several = list(value)
        own = self.signatures[self.default]
        found = {}
        for tensor, single in zip(tensors, several, strict=True):
            info = plan.signature.inputs[tensor]
            found[tensor] = check_feed(own, info._replace(name=name if len(tensors) == 1 else tensor), single)
        return found

    def _plan(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Plan:
        if not fetches:
            fetches = tuple(self.signatures[self.default].outputs)
        fed = {name: self._lookup(name, "input") for name in feeds}
        result = [self._lookup(name, "output") for name in fetches]
        inputs = list(dict.fromkeys(tensor for tensors in fed.values() for tensor in tensors))
        outputs = list(dict.fromkeys(tensor for tensors in result for tensor in tensors))
        for tensor in inputs:
            names = [name for name, tensors in fed.items() if tensor in tensors]
            if len(names) > 1:
                raise ModelInputError(
                    f"{names[0]!r} and {names[1]!r} are both {tensor}: it takes one value. {self._inputs_text()}"
                )
            if not self._graph.is_feedable(self._graph.get_tensor_by_name(tensor)):
                raise ModelInputError(f"Nothing can be fed for {tensor}. {self._inputs_text()}")
        self._check_complete(inputs, outputs)
        signature = Signature(
            f"{' '.join(sorted(inputs))} -> {' '.join(outputs)}",
            {tensor: self._info(tensor) for tensor in sorted(inputs)},
            {tensor: self._info(tensor) for tensor in outputs},
        )
        return Plan(signature, fed, tuple(tensors[0] if len(tensors) == 1 else tensors for tensors in result))

    def _lookup(self, name: str, what: str) -> tuple[str, ...]:
        """Return the tensors that a name stands for: a collection's, one, or an input or output of a signature."""
        if not isinstance(name, str):
            raise ModelInputError(f"The names of tensors are texts; one is a {type(name).__name__}.")
        if name in self._collections:
            return tuple(self._collections[name])
        try:
            tensor = self._graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
            return (str(_readable(tensor).name),)
        except (KeyError, ValueError):
            pass  # no tensor of the graph; the error below says what it has
        own = self.signatures[self.default]
        for prefix, signature in [("", own), *((f"{each.name}/", each) for each in self.signatures.values())]:
            tensors = signature.inputs if what == "input" else signature.outputs
            if name.startswith(prefix) and name[len(prefix) :] in tensors:
                return (tensors[name[len(prefix) :]].tensor,)
        raise ModelInputError(f"There is no collection and no tensor {name!r}. {self._names_text()}")

    def _names_text(self) -> str:
        collections = ", ".join(self._collections) or "none"
        outputs = ", ".join(self.signatures[self.default].outputs)
        return f"The model's collections are {collections}; its outputs {outputs}. {self._inputs_text()}"

    def _inputs_text(self) -> str:
        return inputs_text(self.signatures[self.default])

    def _info(self, name: str) -> TensorInfo:
        return tensor_info(name, self._graph.get_tensor_by_name(name))

    def _check_complete(self, feeds: list[str], fetches: list[str]) -> None:
        """Raise ModelInputError for the first placeholder that the fetches need and that has no value."""
        stop = set(feeds)
        waiting = [self._graph.get_tensor_by_name(name) for name in reversed(fetches) if name not in stop]
        seen = set()
        while waiting:
            operation = waiting.pop().op
            if operation.name in seen:
                continue
            seen.add(operation.name)
            if operation.type == "Placeholder":
                info = self._info(operation.outputs[0].name)
                raise ModelInputError(f"Input {operation.name!r} has no value; it takes {info.dtype}. {self._inputs_text()}")
            waiting += [tensor for tensor in operation.inputs if tensor.name not in stop]


def _readable(tensor: Any) -> Any:
    """Return the value of a variable for the tensor that only stands for it, and any other tensor as it is."""
    if tensor.dtype.name != "resource":
        return tensor
    reads = [operation for operation in tensor.consumers() if operation.type == "ReadVariableOp"]
    return reads[0].outputs[0] if reads else tensor


def tensor_info(name: str, tensor: Any) -> TensorInfo:
    """Describe a tensor of a graph."""
    shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    return TensorInfo(name, tensor.dtype.base_dtype.name, shape, tensor.name)


def _tensors_by_collection(tensorflow: Any, graph: Any) -> dict[str, list[str]]:
    """Return the names of the tensors of each collection that has nothing else in it, and is none of TensorFlow's own."""
    keys = tensorflow.compat.v1.GraphKeys
    names = (getattr(keys, name) for name in dir(keys) if name.isupper())
    internal = {name for name in names if isinstance(name, str)}
    found = {}
    for key in graph.get_all_collection_keys():
        tensors = graph.get_collection(key)
        if (
            isinstance(key, str)
            and key not in internal
            and tensors
            and all(isinstance(each, tensorflow.Tensor) for each in tensors)
        ):
            found[key] = [str(tensor.name) for tensor in tensors]
    return found


def _signatures(tensorflow: Any, graph: Any, meta: Any, collections: dict[str, list[str]]) -> dict[str, Signature]:
    """Return the signatures of the meta graph, or one that is made of its placeholders and collections."""
    if meta.signature_def:
        return saved_model.read_signatures(tensorflow, meta)
    aliases = {tensors[0]: key for key, tensors in collections.items() if len(tensors) == 1}
    inputs, defaults = {}, set()
    for operation in graph.get_operations():
        if operation.type.startswith("Placeholder") and operation.outputs:
            tensor = operation.outputs[0]
            if operation.type == "Placeholder" and not operation.name.startswith("save/"):
                alias = aliases.get(tensor.name, operation.name)
                inputs[alias] = tensor_info(alias, tensor)
            else:
                defaults.add(tensor.name)
    fed = {info.tensor for info in inputs.values()} | defaults
    wanted = [tensor for tensors in collections.values() for tensor in tensors if tensor not in fed]
    wanted = wanted or [tensor.name for tensor in _ends([graph.get_tensor_by_name(info.tensor) for info in inputs.values()])]
    outputs = {}
    for name in dict.fromkeys(wanted):
        alias = aliases.get(name, name.removesuffix(":0"))
        outputs[alias] = tensor_info(alias, graph.get_tensor_by_name(name))
    if not outputs:
        raise ModelLoadError("The graph has no output: no collection has one, and each tensor is used by another.")
    return {DEFAULT_SIGNATURE: Signature(DEFAULT_SIGNATURE, inputs, outputs)}


def _ends(inputs: list[Any]) -> list[Any]:
    """Return the tensors that come of these, and that nothing else comes of."""
    ends = []
    seen = set()
    waiting = [operation for tensor in inputs for operation in tensor.consumers()]
    while waiting:
        operation = waiting.pop()
        if operation.name not in seen:
            seen.add(operation.name)
            waiting += [consumer for tensor in operation.outputs for consumer in tensor.consumers()]
            ends += [tensor for tensor in operation.outputs if not tensor.consumers()]
    return sorted(ends, key=lambda tensor: str(tensor.name))


def load(tensorflow: Any, place: Place, device: str) -> GraphModel:
    """Load a checkpoint of TensorFlow 1; raises ModelLoadError, or what TensorFlow raises."""
    if not os.path.isfile(place.path + ".meta"):
        missing = os.path.basename(place.path) + ".meta"
        raise ModelLoadError(f"{place.path} is a checkpoint without its meta graph, {missing}: it has weights and no model.")
    v1 = tensorflow.compat.v1
    meta = _read_meta(place.path + ".meta")
    graph = v1.Graph()
    session = new_session(tensorflow, graph, device)
    try:
        with graph.as_default(), graph.device(device):
            saver = v1.train.import_meta_graph(meta, clear_devices=True)
            initialize = _initializer(v1, session)
            if saver is not None:
                saver.restore(session, place.path)
            initialize()
        return GraphModel(tensorflow, session, meta, place.path)
    except BaseException:
        session.close()
        raise


def _read_meta(path: str) -> Any:
    from google.protobuf import text_format
    from tensorflow.core.protobuf import meta_graph_pb2

    meta = meta_graph_pb2.MetaGraphDef()
    with open(path, "rb") as file:
        content = file.read()
    try:
        meta.ParseFromString(content)
    except Exception:  # noqa: BLE001 - its class depends on how protobuf was built
        text_format.Parse(content, meta)  # as older programs wrote it; raises where it is neither
    return meta


def _initializer(v1: Any, session: Any) -> Callable[[], None]:
    """Return what initializes what a checkpoint does not have: tables, and variables that were not saved."""
    variables = [*v1.global_variables(), *v1.local_variables()]
    # Made before anything runs: a graph that has run must not change.
    report = v1.report_uninitialized_variables(variables) if variables else None
    tables = v1.tables_initializer()

    def initialize() -> None:
        missing = set() if report is None else set(session.run(report))
        session.run([each.initializer for each in variables if each.op.name.encode() in missing])
        session.run(tables)

    return initialize
