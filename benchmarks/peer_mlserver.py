"""
MLServer's model as a peer of the benchmark of predictions, as its documentation has one written. Loaded by MLServer itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mlserver import MLModel  # type: ignore[import-not-found]  # not installed where types are checked
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]  # as above
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]  # as above
from predict_models import Floor


class Signature(MLModel):  # type: ignore[misc]  # as above
    """The signature of the SavedModel that its settings name."""

    async def load(self) -> bool:
        """Load the model."""
        self.model = Floor(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Call the signature; MLServer itself has joined the requests where it is told to."""
        rows: Any = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("y", self.model.numpy(np.asarray(rows, np.float32)))
        return InferenceResponse(model_name=self.name, outputs=[output])
