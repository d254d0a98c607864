"""
The way into a worker for models: it says what is missing before anything is imported that may be.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from bgpy.errors import MissingExtraError

if TYPE_CHECKING:
    from bgpy.tasks.tensorflow.host import ModelHost


def make_host() -> ModelHost:
    """
    Return what keeps the model of a workspace.

    Raises
    ------
    MissingExtraError
        TensorFlow is not installed, or NumPy, which comes with it.
    """
    if find_spec("tensorflow") is None or find_spec("numpy") is None:
        raise MissingExtraError("Deploying a model", "tensorflow")
    from bgpy.tasks.tensorflow.host import ModelHost

    return ModelHost()
