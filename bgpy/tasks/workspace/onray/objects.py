"""
Variables that go from one workspace on Ray to another through the object store, in the actors' own processes.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

#: How a worker is asked for it, see `bgpy.tasks.workspace.backends.Backend.ask`.
HOST = "bgpy.tasks.workspace.onray.objects:Objects"


class Objects:
    """Hand variables over, by a reference that the server passes on; it holds no value."""

    def __init__(self) -> None:
        self._given: dict[bytes, Any] = {}

    def give(self, name: str) -> dict[str, bytes]:
        """Put a variable into the object store, and return what `take` needs; it stays there until `forget`."""
        import ray
        from ray import cloudpickle

        namespace = vars(sys.modules["__main__"])
        if name not in namespace:
            raise NameError(f"there is no variable {name!r}")
        reference = ray.put(namespace[name])
        self._given[reference.binary()] = reference
        return {"key": reference.binary(), "reference": cloudpickle.dumps(reference)}

    def take(self, given: dict[str, Any]) -> None:
        """Set the variable ``name`` to what `give` has put into the store; arrays in it are read-only, as all that lies there."""
        import ray
        from ray import cloudpickle

        vars(sys.modules["__main__"])[given["name"]] = ray.get(cloudpickle.loads(given["reference"]))

    def forget(self, key: bytes) -> None:
        """Let go of what `give` has put into the store; it is gone with the last that uses it."""
        from ray._private.worker import global_worker

        # A reference that was pickled by hand is counted once more, as long as this process lives: Ray cannot know who has it.
        with contextlib.suppress(AttributeError):  # of a version that counts in another way, and then keeps it
            global_worker.core_worker.remove_object_ref_reference(self._given.pop(key))
