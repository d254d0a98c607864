"""
A model in the worker: a graph with its variables in a session of TensorFlow 1, which every kind of model can be brought into.

A prepared call of a session costs a tenth of what a call of a signature in TensorFlow 2 does, where the model is small: no
Python of TensorFlow's runs for it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bgpy.errors import ModelInputError
from bgpy.tasks.tensorflow.batching import Query
from bgpy.tasks.tensorflow.loading.runtime import quiet
from bgpy.tasks.tensorflow.signatures import DEFAULT_SIGNATURE, Signature, check_feeds

#: A graph of up to so many operations runs in the thread that calls it: waking another costs more than it wins.
SMALL_GRAPH = 500
#: So many prepared calls are kept; a graph of TensorFlow 1 may be asked for any of its tensors.
MAX_CALLS = 200


class Asked(NamedTuple):
    """
    One prediction: what is run, and how the result is made of its outputs.

    Attributes
    ----------
    query
        What is run.
    result
        For each fetch the name of an output, or names, where a fetch stands for several.
    """

    query: Query
    result: tuple[str | tuple[str, ...], ...]

    def arrange(self, outputs: Mapping[str, Any]) -> list[Any]:
        """Return the list that is the prediction's result."""
        return [outputs[name] if isinstance(name, str) else [outputs[each] for each in name] for name in self.result]


class Model(abc.ABC):
    """
    A model that is loaded. For one thread.

    Parameters
    ----------
    tensorflow
        The module.
    session
        Has the graph, whose variables are set. Closed by `close`.
    signatures
        What the model can be asked for; the names of their tensors are those of the graph.
    size
        How many operations the graph has, those of its functions included.
    """

    #: As `describe` tells it.
    format: str
    platform: str

    def __init__(self, tensorflow: Any, session: Any, signatures: dict[str, Signature], size: int) -> None:
        self.tensorflow = tensorflow
        self.session = session
        self.signatures = signatures
        self.default = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else next(iter(signatures))
        self._inline = size <= SMALL_GRAPH
        self._calls: dict[tuple[str, tuple[str, ...]], Callable[[dict[str, Any]], dict[str, Any]]] = {}

    @abc.abstractmethod
    def update(self, path: str) -> Model:
        """
        Take other weights and return the model that has them, which may be another one.

        Raises
        ------
        ModelLoadError
            They do not fit, or cannot be read; the model is as before.
        """

    def close(self) -> None:
        """Give back the memory. Idempotent."""
        self._calls.clear()
        self.session.close()

    def resolve(self, fetches: str | Sequence[str] | None, feeds: Mapping[str, Any] | None) -> Asked:
        """
        Find out what a prediction asks for.

        Parameters
        ----------
        fetches
            Names of outputs of the default signature, or ``SIGNATURE/OUTPUT``, all of one signature; ``SIGNATURE/`` are all its
            outputs. None, or an empty list: all outputs of the default signature.
        feeds
            Values by the name of the input.

        Raises
        ------
        ModelInputError
            A name is unknown, or a value does not fit.
        """
        names = fetch_names(fetches)
        if not names:
            signature = self.signatures[self.default]
            outputs = tuple(signature.outputs)
            return Asked(Query(signature, check_feeds(signature, feeds), outputs), outputs)
        found = [self._find(name) for name in names]
        signature = found[0][0]
        for name, (other, _) in zip(names, found, strict=True):
            if other is not signature:
                raise ModelInputError(
                    f"Fetch {name!r} is of signature {other.name!r} and {names[0]!r} is of {signature.name!r}:"
                    " one prediction runs one signature."
                )
        result = tuple(output for _, outputs in found for output in outputs)
        return Asked(Query(signature, check_feeds(signature, feeds), tuple(dict.fromkeys(result))), result)

    def _find(self, fetch: str) -> tuple[Signature, tuple[str, ...]]:
        """Return the signature that a fetch names and the outputs it stands for."""
        signature = self.signatures[self.default]
        if fetch in signature.outputs:
            return signature, (fetch,)
        # A name of a signature or of an output may have slashes of its own.
        for name, other in self.signatures.items():
            if fetch == f"{name}/":
                return other, tuple(other.outputs)
            if fetch.startswith(f"{name}/") and fetch[len(name) + 1 :] in other.outputs:
                return other, (fetch[len(name) + 1 :],)
        raise ModelInputError(f"There is no output {fetch!r}. {outputs_text(self.signatures, self.default)}")

    def run(self, signature: Signature, feeds: dict[str, Any], outputs: tuple[str, ...]) -> dict[str, Any]:
        """Return the outputs by name; raises what the model raises. `feeds` are as `check_feeds` gives them."""
        call = self._calls.get((signature.name, outputs))
        if call is None:
            if len(self._calls) >= MAX_CALLS:
                self._calls.clear()
            with quiet():
                call = self._calls[signature.name, outputs] = self._prepare(signature, outputs)
        return call(feeds)

    def _prepare(self, signature: Signature, outputs: tuple[str, ...]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """Return what runs the graph for these outputs."""
        fed = {info.tensor: alias for alias, info in signature.inputs.items()}
        wanted = {alias: signature.outputs[alias].tensor for alias in outputs}
        fetched = tuple(dict.fromkeys(tensor for tensor in wanted.values() if tensor not in fed))
        run = self._callable(tuple(fed), fetched)
        if tuple(wanted.values()) == fetched and len(fed) == len(signature.inputs):
            return lambda feeds: {name: _array(value) for name, value in zip(outputs, run(*feeds.values()), strict=True)}

        def call(feeds: dict[str, Any]) -> dict[str, Any]:
            # Two names for one tensor, or an output that is an input: the session takes each tensor once only.
            values = run(*[feeds[alias] for alias in fed.values()])
            made = {tensor: _array(value) for tensor, value in zip(fetched, values, strict=True)}
            return {alias: made[tensor] if tensor in made else feeds[fed[tensor]] for alias, tensor in wanted.items()}

        return call

    def _callable(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Callable[..., Sequence[Any]]:
        if not fetches:
            return lambda *_: ()
        prepare = getattr(self.session, "_make_callable_from_options", None)
        if prepare is None:  # not part of what TensorFlow promises; this is, at five times the price
            tensors = [self.session.graph.get_tensor_by_name(name) for name in (*fetches, *feeds)]
            slow: Callable[..., Sequence[Any]] = self.session.make_callable(tensors[: len(fetches)], tensors[len(fetches) :])
            return slow
        from tensorflow.core.protobuf import config_pb2

        options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
        if self._inline:
            options.run_options.inter_op_thread_pool = -1
        fast: Callable[..., Sequence[Any]] = prepare(options)
        return fast


def _array(value: Any) -> Any:
    """Return an output as an array: one without axes comes as a number or as bytes."""
    if type(value) is np.ndarray:
        return value
    return np.asarray(value, object if isinstance(value, bytes) else None)


def fetch_names(fetches: str | Sequence[str] | None) -> list[str]:
    """Return the fetches of a prediction as a list."""
    names = [] if fetches is None else [fetches] if isinstance(fetches, str) else list(fetches)
    for name in names:
        if not isinstance(name, str):
            raise ModelInputError(f"fetches are names; one is a {type(name).__name__}.")
    return names


def outputs_text(signatures: Mapping[str, Signature], default: str) -> str:
    """Return the sentence that ends an error about outputs."""
    own = ", ".join(signatures[default].outputs)
    others = [f"{name}/{output}" for name, signature in signatures.items() if name != default for output in signature.outputs]
    return f"The model's outputs are {own}{'; and ' if others else ''}{', '.join(others)}."
