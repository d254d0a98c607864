"""
The model of a workspace, in the process that runs its jobs.
"""

from __future__ import annotations

import contextlib
import gc
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bgpy.encoding import to_json
from bgpy.errors import ModelNotFoundError
from bgpy.tasks.tensorflow import inference_protocol, rest
from bgpy.tasks.tensorflow.batching import Batcher, Query
from bgpy.tasks.tensorflow.bodies import check_json_size
from bgpy.tasks.tensorflow.loading import Model, load_model, update_model
from bgpy.tasks.tensorflow.loading.paths import look
from bgpy.tasks.tensorflow.loading.runtime import import_tensorflow
from bgpy.tasks.tensorflow.loading.weights import first_line
from bgpy.tasks.tensorflow.signatures import Signature, check_feeds, describe_signature, numpy_dtype
from bgpy.tasks.workspace.values import Packed, Value

#: Bytes; from here on arrays leave the pickle and are not copied.
SMALL_RESULT = 4096

#: What a deploy says of replicas, which the server reads in the description when it starts again.
OF_REPLICAS = ("min_replicas", "max_replicas", "idle_time")

#: What is run, and what makes the job's value of its outputs.
_Request = tuple[Query, Callable[[Mapping[str, Any]], Value]]


class ModelHost:
    """
    Keep the model of one workspace and run it. For one thread.

    Each method takes a list of arguments and gives as many outcomes: that is how the calls of `bgpy.tasks.workspace.calls` come.
    """

    def __init__(self) -> None:
        self._deployed: _Deployed | None = None
        self._version = 0

    def deploy(self, arguments: Sequence[Mapping[str, Any]]) -> list[Value]:
        """Load a model in the place of what is deployed, which stays where that fails; the value describes it."""
        return [Value(self._deploy(argument), None) for argument in arguments]

    def update(self, arguments: Sequence[Mapping[str, Any]]) -> list[Value]:
        """Give the deployed model other weights; where they do not fit, the old ones stay. The value describes it."""
        return [Value(self._update(argument), None) for argument in arguments]

    def undeploy(self, arguments: Sequence[Mapping[str, Any]]) -> list[Value]:
        """Let the model go; the value is True."""
        for argument in arguments:
            self._model(argument.get("name"))
            self._let_go()
        return [Value(True, None) for _ in arguments]

    def recall(self, arguments: Sequence[Mapping[str, Any]]) -> list[Value]:
        """Return what is deployed, for a server that found this process; the value describes it, or is None."""
        deployed = self._deployed
        return [Value(None if deployed is None else deployed.describe(self._version), None) for _ in arguments]

    def predict(self, arguments: Sequence[Mapping[str, Any]]) -> list[Value | Exception]:
        """Run the model; the arguments are joined as far as that changes no result."""
        outcomes: list[Any] = [None] * len(arguments)
        requests: list[_Request] = []
        places = []
        for place, argument in enumerate(arguments):
            try:
                requests.append(self._read(argument))
                places.append(place)
            except Exception as error:  # noqa: BLE001 - what is wrong with one request is the outcome of that one
                outcomes[place] = error
        if self._deployed is not None:
            batcher = self._deployed.batcher
            answers = batcher.answer([query for query, _ in requests])
            for place, (_, reply), answer in zip(places, requests, answers, strict=True):
                outcomes[place] = answer if isinstance(answer, Exception) else _made(reply, answer)
            first = next((place for place in places if isinstance(outcomes[place], Value)), None)
            if first is not None:
                outcomes[first] = outcomes[first]._replace(runs=batcher.take_runs())
        return outcomes

    def _deploy(self, argument: Mapping[str, Any]) -> dict[str, Any]:
        path = look(argument["path"]).path  # a wrong path is told before the seconds that TensorFlow takes to start
        tensorflow = import_tensorflow()
        start = time.perf_counter()
        model = load_model(tensorflow, path, argument["device"], argument["safe_mode"])
        took = time.perf_counter() - start
        try:
            deployed = _Deployed(argument, path, model, took)
            warmed = deployed.warm_up() if argument["warmup"] else None
        except BaseException:
            model.close()
            raise
        deployed.warmed = warmed
        description = deployed.describe(self._next_version(argument))
        old, self._deployed = self._deployed, deployed
        # The new one serves: an interrupt now comes too late, and what it hit would be told as not deployed.
        with contextlib.suppress(KeyboardInterrupt):
            _close(old)
        return description

    def _update(self, argument: Mapping[str, Any]) -> dict[str, Any]:
        deployed = self._model(argument.get("name"))
        before = deployed.model
        after = update_model(before, argument["path"])
        deployed.take(after)  # also where it is the same with other weights: these may make rows depend on each other
        if after is not before:
            before.close()
            gc.collect()
        deployed.weights = look(argument["path"]).path
        return deployed.describe(self._next_version(argument))

    def _next_version(self, argument: Mapping[str, Any]) -> int:
        """
        Count on from what is known here and in the server: this process may not be the workspace's first.

        A replica does not count: it has the version that the model's own workspace has.
        """
        counted = max(self._version, argument.get("version") or 0) + 1
        self._version = argument.get("as_version", counted)
        return self._version

    def _let_go(self) -> None:
        old, self._deployed = self._deployed, None
        _close(old)

    def _model(self, name: str | None) -> _Deployed:
        if self._deployed is None:
            raise ModelNotFoundError(
                f"No model is deployed in workspace {name!r}." if name else "No model is deployed: deploy one first."
            )
        return self._deployed

    def _read(self, argument: Mapping[str, Any]) -> _Request:
        """Return what an argument of `predict` asks for."""
        deployed = self._model(argument.get("name"))
        if "protocol" in argument:
            return self._read_protocol(deployed, argument)
        feeds = argument.get("feed_dict")
        # A Python client closes its feeds, so that nobody on their way opens them.
        asked = deployed.model.resolve(argument.get("fetches"), feeds.open() if isinstance(feeds, Packed) else feeds)
        if argument.get("encoding") == "json":
            return asked.query, lambda outputs: Value([_plain(each) for each in asked.arrange(outputs)], None)
        return asked.query, lambda outputs: Value(None, _packed(asked.arrange(outputs)))

    def _read_protocol(self, deployed: _Deployed, argument: Mapping[str, Any]) -> _Request:
        name, asked_for = argument["name"], argument.get("version")
        if asked_for is not None and asked_for.lstrip("0") != str(self._version):
            raise ModelNotFoundError(f"Model {name!r} has no version {asked_for}: version {self._version} is deployed.")
        signatures, default = deployed.model.signatures, deployed.model.default
        request: Any
        if argument["protocol"] == "v1":
            request = rest.parse(argument["verb"], argument["body"], signatures, default)
        else:
            request = inference_protocol.parse(
                argument["body"], argument.get("header_length"), signatures, default, name, self._version
            )
        signature = signatures[request.signature]
        query = Query(signature, check_feeds(signature, request.feeds), tuple(dict.fromkeys(request.outputs)))

        def reply(outputs: Mapping[str, Any]) -> Value:
            encoded = request.encode(outputs)
            return Value(
                {"content_type": encoded.content_type, "header_length": encoded.header_length}, Packed(b"", tuple(encoded.parts))
            )

        return query, reply


class _Deployed:
    """
    A model with what is to tell of it.

    Parameters
    ----------
    argument
        What it was deployed with.
    path
        Where it was.
    model
        Ready to run.
    load_time
        Seconds.
    """

    def __init__(self, argument: Mapping[str, Any], path: str, model: Model, load_time: float) -> None:
        self._argument = argument
        self._path = path
        self._load_time = load_time
        self.weights: str | None = None
        self.warmed: dict[str, str | None] | None = None
        self.take(model)

    def take(self, model: Model) -> None:
        """Go on with another model. What is known of how its predictions may be joined begins anew."""
        self.model = model
        self.batcher = Batcher(model.run, self._argument["max_batch"])

    def warm_up(self) -> dict[str, str | None]:
        """Run each signature once on zeros, and return what went wrong, None where nothing did."""
        return {name: self._warm(signature) for name, signature in self.model.signatures.items()}

    def _warm(self, signature: Signature) -> str | None:
        try:
            self.model.run(signature, _zeros(signature), tuple(signature.outputs))
        except Exception as error:  # noqa: BLE001 - zeros may be nothing that the model is for
            return first_line(error)
        return None

    def describe(self, version: int) -> dict[str, Any]:
        """Return what `describe` tells of the model, as plain JSON data."""
        model, argument = self.model, self._argument
        described = {
            "name": argument["name"],
            "path": self._path,
            "weights": self.weights,
            "format": model.format,
            "platform": model.platform,
            "device": argument["device"],
            "version": version,
            "load_time": self._load_time,
            "max_batch": argument["max_batch"],
            "safe_mode": argument["safe_mode"],
            "default_signature": model.default,
            "signatures": {name: describe_signature(signature) for name, signature in model.signatures.items()},
            "batching": {name: self.batcher.joins(signature) for name, signature in model.signatures.items()},
        }
        described |= {field: argument[field] for field in OF_REPLICAS if field in argument}
        if self.warmed is not None:
            described["warmup"] = self.warmed
        return described


def _close(deployed: _Deployed | None) -> None:
    """Give back the memory of a model that does not serve any more."""
    if deployed is not None:
        deployed.model.close()
        del deployed.model, deployed.batcher
        gc.collect()  # graphs, and what TensorFlow and Keras hang on them, are full of cycles


def _zeros(signature: Signature) -> dict[str, Any]:
    """Return one row of zeros for each input; empty texts are the zeros of texts."""
    feeds = {}
    for name, info in signature.inputs.items():
        shape = tuple(1 if size is None else size for size in info.shape or ())
        feeds[name] = np.full(shape, b"", object) if info.dtype == "string" else np.zeros(shape, numpy_dtype(info.dtype))
    return feeds


def _made(reply: Callable[[Mapping[str, Any]], Value], outputs: Mapping[str, Any]) -> Value | Exception:
    try:
        return reply(outputs)
    except Exception as error:  # noqa: BLE001 - an output that cannot be shown is the outcome of this one
        return error


def _packed(result: list[Any]) -> Packed:
    """Pack outputs. Nothing in small ones needs the looks that `Packed.of` takes, which cost more than the pickle does."""
    if sum(each.nbytes if isinstance(each, np.ndarray) else SMALL_RESULT for each in result) < SMALL_RESULT:
        return Packed(pickle.dumps(result, 5))
    return Packed.of(result)


def _plain(result: Any) -> Any:
    """Return an output, or the list of a collection, as plain JSON data; bytes become texts where they are UTF-8."""
    if isinstance(result, list):
        return [_plain(each) for each in result]
    check_json_size([result])
    if result.dtype.kind in "iub":
        return result.tolist()
    if result.dtype.kind == "O":
        return _texts(result.tolist())
    return to_json(result)


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_texts(each) for each in value]
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        from base64 import b64encode

        return {"b64": b64encode(value).decode("ascii")}
