"""
Variables that go from one workspace on Ray to another through the object store, in the actors' own processes.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

#: How a worker is asked for it, see `bgpy.tasks.workspace.backends.Backend.ask`.
HOST = "bgpy.tasks.workspace.onray.objects:Objects"
#: Variables that are in the store for others at the same time; the oldest makes room for a new one.
MAX_GIVEN = 100


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
        while len(self._given) >= MAX_GIVEN:
            self.forget(next(iter(self._given)))  # whoever asked for it has not come for it, nor said so
        reference = ray.put(namespace[name])
        self._given[reference.binary()] = reference
        return {"key": reference.binary(), "reference": cloudpickle.dumps(reference)}

    def take(self, given: dict[str, Any]) -> None:
        """Set the variable ``name`` to what `give` has put into the store; arrays in it are read-only, as all that lies there."""
        import ray
        from ray import cloudpickle

        vars(sys.modules["__main__"])[given["name"]] = ray.get(cloudpickle.loads(given["reference"]))

    def forget(self, key: bytes) -> None:
        """Let go of what `give` has put into the store; it is gone with the last that uses it. Again is fine."""
        reference = self._given.pop(key, None)
        if reference is not None:
            let_go(reference)


def let_go(reference: Any) -> None:
    """Undo what pickling a reference does: it is counted once more from then on, for Ray cannot know who has it."""
    from ray._private.worker import global_worker

    with contextlib.suppress(AttributeError):  # of a version that counts in another way, and then keeps it
        global_worker.core_worker.remove_object_ref_reference(reference)
