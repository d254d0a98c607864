"""An interpreter whose host of models is a script: it loads nothing, and answers with what it was asked."""

from __future__ import annotations

import threading
from typing import Any

from bgpy.errors import SerializationError
from bgpy.tasks.tensorflow.dispatch import HOST
from bgpy.tasks.workspace.backends import Listener, Order, Outcome
from bgpy.tasks.workspace.means import Options
from bgpy.tasks.workspace.values import Packed, Value
from support.scripted import Backends, ScriptedBackend

#: Seconds that a prediction waits for its test.
_TIMEOUT = 10.0
#: A result that the server sends by a thread of its own, and does not keep.
LARGE = 4 << 20


def description(path: str, version: int, device: str = "/cpu:0") -> dict[str, Any]:
    """Return what is told of a model."""
    tensor = {"dtype": "float32", "shape": [None, 3], "tensor": "x:0"}
    signature = {"inputs": {"x": tensor}, "outputs": {"y": tensor}}
    signatures = {"default_signature": "serving_default", "signatures": {"serving_default": signature}}
    return {"path": path, "version": version, "max_batch": 3, "device": device, **signatures}


class ModelBackend(ScriptedBackend):
    """An interpreter with a host that loads whatever it is told to, but ``missing``, and answers with what it was asked."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.version = 0
        #: What its host was asked, in order: the methods and their arguments.
        self.arguments: list[Any] = []
        #: What all calls wait for, if there is one.
        self.gate: threading.Event | None = None

    def _execute(self, order: Order) -> bool:
        if not order.calls:
            return super()._execute(order)
        if self.gate is not None:
            assert self.gate.wait(_TIMEOUT)
        outcomes = [self._outcome(order, argument) for _, argument in order.calls]
        return self._end(order.number, outcomes[0]._replace(rest=outcomes[1:]))

    def _outcome(self, order: Order, argument: Any) -> Outcome:
        assert order.host == HOST
        argument = argument.open() if isinstance(argument, Packed) else argument
        self.arguments.append((order.kind, argument))
        if order.kind == "undeploy":
            return Outcome("done", Value(True, None), None)
        if order.kind == "predict":
            return self._predict(argument)
        if argument["path"] == "missing":
            return Outcome("failed", None, {"type": "bgpy.errors.ModelLoadError", "message": "no", "traceback": ""})
        self.version = max(self.version, argument["version"]) + 1
        return Outcome("done", Value(description(argument["path"], self.version, argument.get("device", "/cpu:0")), None), None)

    def _predict(self, argument: dict[str, Any]) -> Outcome:
        if "body" in argument:
            return Outcome("done", Value({"content_type": "x"}, Packed(b"", (bytes(argument["body"])[::-1],))), None)
        feeds = argument["feed_dict"]
        try:
            feeds = feeds.open() if isinstance(feeds, Packed) else feeds
        except SerializationError as error:
            return Outcome("failed", None, {"type": "SerializationError", "message": str(error), "traceback": ""})
        if feeds == {"wrong": 1}:
            return Outcome("failed", None, {"type": "bgpy.errors.ModelInputError", "message": "no wrong", "traceback": ""})
        if feeds == {"large": True}:
            return Outcome("done", Value(None, Packed(b"", (bytes(LARGE),))), None)
        if argument["encoding"] == "json":
            return Outcome("done", Value([feeds], None), None)
        return Outcome("done", Value(None, Packed.of([feeds])), None)


class ModelBackends(Backends):
    """Makes such interpreters, and remembers them."""

    def make(self, options: Options, listener: Listener) -> ScriptedBackend:
        self.made.append(ModelBackend(listener, self.abilities, self.fails, self.ready))
        return self.last
