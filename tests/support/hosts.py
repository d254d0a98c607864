"""An interpreter whose host of models is a script: it loads nothing, and answers with what it was asked."""

from __future__ import annotations

import threading
from typing import Any

from bgpy.errors import SerializationError
from bgpy.tasks.tensorflow import init_task
from bgpy.tasks.tensorflow.dispatch import HOST, dispatch
from bgpy.tasks.workspace.backends import Listener, Order, Outcome
from bgpy.tasks.workspace.means import Options
from bgpy.tasks.workspace.values import Packed, Value
from support.scripted import Backends, KeepingSocket, ScriptedBackend
from support.waiting import wait_until

#: Seconds for what takes none.
WAIT = 10.0
#: Seconds that a prediction waits for its test.
_TIMEOUT = 10.0
#: A result that the server sends by a thread of its own, and does not keep.
LARGE = 4 << 20

#: What a prediction fails with where there is no model.
NO_MODEL = {"type": "bgpy.errors.ModelNotFoundError", "message": "No model is deployed in workspace 'w'.", "traceback": ""}


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
        #: Set while a call waits for it.
        self.at_gate = threading.Event()
        #: The path that it cannot load.
        self.missing = "missing"
        self.deployed: dict[str, Any] | None = None
        #: Whether predictions fail where nothing is deployed.
        self.forgets = False
        #: The error of all predictions, None where they run.
        self.fails_with: dict[str, Any] | None = None

    def _execute(self, order: Order) -> bool:
        if not order.calls:
            return super()._execute(order)
        if self.gate is not None:
            self.at_gate.set()
            assert self.gate.wait(_TIMEOUT)
        outcomes = [self._outcome(order, argument) for _, argument in order.calls]
        return self._end(order.number, outcomes[0]._replace(rest=outcomes[1:]))

    def _outcome(self, order: Order, argument: Any) -> Outcome:
        assert order.host == HOST
        argument = argument.open() if isinstance(argument, Packed) else argument
        if order.kind == "predict" and self.forgets and self.deployed is None:
            return Outcome("failed", None, NO_MODEL)
        self.arguments.append((order.kind, argument))
        if order.kind == "predict":
            return self._predict(argument) if self.fails_with is None else Outcome("failed", None, self.fails_with)
        if order.kind == "recall":
            return Outcome("done", Value(self.deployed, None), None)
        if order.kind == "undeploy":
            self.deployed = None
            return Outcome("done", Value(True, None), None)
        if argument["path"] == self.missing:
            return Outcome("failed", None, {"type": "bgpy.errors.ModelLoadError", "message": "no", "traceback": ""})
        self.version = argument.get("as_version", max(self.version, argument.get("version", 0)) + 1)
        if order.kind == "update" and self.deployed is not None:
            self.deployed = {**self.deployed, "version": self.version, "weights": argument["path"]}
        else:
            bounds = {field: argument[field] for field in ("min_replicas", "max_replicas", "idle_time") if field in argument}
            self.deployed = {**description(argument["path"], self.version, argument.get("device", "/cpu:0")), **bounds}
        return Outcome("done", Value(self.deployed, None), None)

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
    """
    Makes such interpreters, and remembers them.

    Attributes
    ----------
    gate, missing
        Those of the next replicas.
    forgets
        That of the next interpreters.
    survivors
        Interpreters that another server has left, by the home of their workspace: their models are found again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate: threading.Event | None = None
        self.missing = "missing"
        self.forgets = False
        self.survivors: dict[str | None, ModelBackend] = {}
        self.homes: dict[str | None, ModelBackend] = {}

    def make(self, options: Options, listener: Listener) -> ScriptedBackend:
        made = ModelBackend(listener, self.abilities, self.fails, self.ready)
        made.forgets = self.forgets
        if options.replica_of is not None:
            made.gate, made.missing = self.gate, self.missing
        survivor = self.survivors.pop(options.home, None)
        if survivor is not None:
            made.adopted, made.deployed, made.version = True, survivor.deployed, survivor.version
        self.made.append(made)
        self.homes[options.home] = made
        return made


class Desk:
    """A server's state with scripted backends, and the clients that ask it."""

    def __init__(self, backends: ModelBackends | None = None, **options: Any) -> None:
        self.backends = backends or ModelBackends()
        self.state = init_task(make_backend=self.backends.make, **options)

    def close(self) -> None:
        self.state["fleet"].shut()
        self.state["workspaces"].close()

    def of(self, name: str) -> ModelBackend:
        """Return the interpreter of a workspace, once it is there."""
        workspace = self.state["workspaces"][name]
        wait_until(lambda: workspace._backend is not None)
        backend = workspace._backend
        assert isinstance(backend, ModelBackend)
        return backend

    @property
    def backend(self) -> ModelBackend:
        backend = self.backends.last
        assert isinstance(backend, ModelBackend)
        return backend

    @property
    def argument(self) -> Any:
        return self.backend.arguments[-1][1]

    def send(self, message: dict[str, Any], client: KeepingSocket | None = None) -> KeepingSocket:
        client = client or KeepingSocket()
        client.deferrable = True
        dispatch(self.state["fleet"], client, message)
        return client

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        return self.send(message).answer()

    def ask(self, command: str, **fields: Any) -> Any:
        answer = self.answer({"command": command, "name": "w", **fields})
        assert answer["request_result"] is True, answer
        return answer["result"]

    def refused(self, command: str, **fields: Any) -> tuple[str, str | None, str]:
        answer = self.answer({"command": command, "name": "w", **fields})
        assert answer["request_result"] is False, answer
        return answer["result"], answer["field"], answer["error"]

    def run(self, command: str, **fields: Any) -> Any:
        return self.ask(command, timeout=WAIT, **fields)
