"""
LitServe as a peer of the benchmark of predictions, as its documentation has a model served. Run by the Python that has it.

A request has any number of rows, as plain lists; with batching the rows of waiting requests are joined along the first axis, as
bgpy does it.
"""

from __future__ import annotations

import argparse
from typing import Any

import litserve  # type: ignore[import-not-found]  # not installed where types are checked
import numpy as np
from predict_models import Floor


class Plain(litserve.LitAPI):  # type: ignore[misc]  # as above
    """Each request alone."""

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(**options)
        self.model_path = model

    def setup(self, device: str) -> None:
        """Load the model, in the worker."""
        self.model = Floor(self.model_path)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # with annotations LitServe would check bodies, slower
        """Make an array."""
        return np.asarray(request["x"], np.float32)

    def predict(self, x: Any) -> Any:
        """Call the signature."""
        return self.model.numpy(x)

    def encode_response(self, output):  # type: ignore[no-untyped-def]  # as above
        """Make plain lists."""
        return {"y": output.tolist()}


class Joining(Plain):
    """Waiting requests as one."""

    def batch(self, inputs: list[Any]) -> Any:
        """Join."""
        return [len(rows) for rows in inputs], np.concatenate(inputs)

    def predict(self, x: Any) -> Any:
        """Call the signature once and part what it gives."""
        lengths, rows = x
        return np.split(self.model.numpy(rows), np.cumsum(lengths)[:-1])

    def unbatch(self, output: Any) -> list[Any]:
        """Give each request its own rows."""
        return list(output)


def main() -> None:
    """Serve one model with one worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="path of a SavedModel")
    parser.add_argument("port", type=int)
    parser.add_argument("batch", type=int, help="requests that are joined at most")
    parser.add_argument("wait", type=float, help="seconds that it waits for more to join")
    options = parser.parse_args()
    if options.batch > 1:
        api: Plain = Joining(options.model, max_batch_size=options.batch, batch_timeout=options.wait)
    else:
        api = Plain(options.model)
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=options.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
