"""
Weights on their way from a checkpoint into a session: all are looked at before the first is set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from bgpy.errors import ModelLoadError
from bgpy.tasks.tensorflow.signatures import shape_text

#: Where checkpoints of TensorFlow 2 keep which object has which variable.
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
#: Ends the key of a variable there.
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


class Variable(NamedTuple):
    """Shape and dtype of one variable in a checkpoint."""

    shape: tuple[int, ...]
    dtype: Any


class Weights:
    """
    A checkpoint, read.

    Parameters
    ----------
    tensorflow
        The module.
    prefix
        The path that the names of its files begin with.

    Raises
    ------
    ModelLoadError
        There is none, or it cannot be read.
    """

    def __init__(self, tensorflow: Any, prefix: str) -> None:
        self.prefix = prefix
        try:
            self._reader = tensorflow.train.load_checkpoint(prefix)
            shapes, dtypes = self._reader.get_variable_to_shape_map(), self._reader.get_variable_to_dtype_map()
            self.graph: Any = self._read_graph() if _OBJECT_GRAPH in shapes else None
        except Exception as error:
            raise ModelLoadError(f"{prefix} cannot be read as a checkpoint: {first_line(error)}") from error
        #: By key, all that is set in a model.
        self.variables = {key: Variable(tuple(shapes[key]), dtypes[key]) for key in sorted(shapes) if key != _OBJECT_GRAPH}

    def _read_graph(self) -> Any:
        from tensorflow.core.protobuf import trackable_object_graph_pb2

        graph = trackable_object_graph_pb2.TrackableObjectGraph()
        graph.ParseFromString(self._reader.get_tensor(_OBJECT_GRAPH))
        return graph

    def read(self, key: str) -> Any:
        """Return a variable's value."""
        try:
            return self._reader.get_tensor(key)
        except Exception as error:
            raise ModelLoadError(f"{self.prefix}: variable {shown(key)} cannot be read: {first_line(error)}") from error


class Layout(NamedTuple):
    """
    Which variables a model has, without their values.

    Attributes
    ----------
    variables
        By the key that the session asks a checkpoint for.
    graph
        The objects they belong to, None in TensorFlow 1.
    """

    variables: dict[str, Variable]
    graph: Any


def shown(key: str) -> str:
    """Return a variable's key as errors show it."""
    return key.removesuffix(_VALUE)


def first_line(error: BaseException) -> str:
    """Return the kind of an error and the beginning of what it says; what a line with a colon at its end says is in the next."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    end = next((number for number, line in enumerate(lines, 1) if not line.endswith(":")), len(lines))
    return f"{type(error).__name__}: {' '.join(lines[:end])[:500]}" if lines else type(error).__name__


def match(layout: Layout, weights: Weights) -> dict[str, str]:
    """
    Find the variables of a model in a checkpoint and return key by key.

    The checkpoint may be of the same object, of one that has it as an attribute, or the other way round.

    Raises
    ------
    ModelLoadError
        Names the first variable that is missing there, or has another shape or dtype.
    """
    keys = {key: key for key in layout.variables if key in weights.variables}
    if len(keys) < len(layout.variables) and layout.graph is not None and weights.graph is not None:
        keys = max((keys, *_walks(layout.graph, weights.graph)), key=lambda found: len(found.keys() & layout.variables.keys()))
    for key, variable in layout.variables.items():
        if keys.get(key) not in weights.variables:
            others = ", ".join(shown(other) for other in list(weights.variables)[:20])
            raise ModelLoadError(
                f"{weights.prefix} has no variable {shown(key)} {shape_text(variable.shape)}. It has: {others or 'none'}."
            )
        check_variable(shown(key), variable, weights.variables[keys[key]], weights.prefix)
    return {key: keys[key] for key in layout.variables}


def check_variable(name: str, own: Variable, given: Variable, path: str) -> None:
    """Raise ModelLoadError where a variable does not fit."""
    if tuple(own.shape) != tuple(given.shape):
        raise ModelLoadError(
            f"Variable {name} has the shape {shape_text(own.shape)} in the model and {shape_text(given.shape)} in {path}."
        )
    if own.dtype != given.dtype:
        raise ModelLoadError(f"Variable {name} is {own.dtype.name} in the model and {given.dtype.name} in {path}.")


def _walks(own: Any, other: Any) -> Iterator[dict[str, str]]:
    """Yield what variables are found when the two graphs are walked side by side, from the root or the objects right below it."""
    for start in _starts(own):
        for begin in _starts(other):
            yield _walk(own, other, start, begin)


def _starts(graph: Any) -> list[int]:
    # A variable itself is none: any two of them would be alike.
    below = (child.node_id for child in graph.nodes[0].children)
    return [0, *(node for node in below if not graph.nodes[node].attributes)]


def _walk(own: Any, other: Any, start: int, begin: int) -> dict[str, str]:
    found: dict[str, str] = {}
    seen = {start}
    waiting = [(start, begin)]
    while waiting:
        here, there = waiting.pop()
        node, twin = own.nodes[here], other.nodes[there]
        keys = {attribute.name: attribute.checkpoint_key for attribute in twin.attributes}
        for attribute in node.attributes:
            if attribute.name in keys:
                found[attribute.checkpoint_key] = keys[attribute.name]
        children = {child.local_name: child.node_id for child in twin.children}
        for child in node.children:
            if child.local_name in children and child.node_id not in seen:
                seen.add(child.node_id)
                waiting.append((child.node_id, children[child.local_name]))
    return found


def rewrite(tensorflow: Any, layout: Layout, weights: Weights, folder: str) -> str:
    """
    Write the variables of a model, found in a checkpoint as `match` does, into one of their own and return its prefix.

    Every value is read on the way, so that nothing is left to fail while the model's are set.
    """
    keys = match(layout, weights)
    values = {key: tensorflow.constant(weights.read(other)) for key, other in keys.items()}
    if layout.graph is not None:
        values[_OBJECT_GRAPH] = tensorflow.constant(layout.graph.SerializeToString())
    prefix = os.path.join(folder, "weights")
    tensorflow.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(values), shape_and_slices=[""] * len(values), tensors=list(values.values())
    )
    return prefix
