"""
Variables that go through the object store of Ray's, from one workspace to another and to programs, in the actors' own processes.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from bgpy.system import anonymous_memory
from bgpy.tasks.workspace.channel import close_value
from bgpy.tasks.workspace.values import Packed

#: How a worker is asked for it, see `bgpy.tasks.workspace.backends.Backend.ask`.
HOST = "bgpy.tasks.workspace.onray.objects:Objects"
#: Variables that are in the store for others at the same time; the oldest makes room for a new one.
MAX_GIVEN = 100
#: Bytes from which on packed values go through the store: what is smaller is there sooner by the way through the server.
LARGE = 1 << 20
#: Below this many bytes fresh pages are dearer than memory that has been used.
_PAGED_SIZE = 1 << 20


class Objects:
    """Hand variables over, by a reference that the server passes on; it holds no value."""

    def __init__(self) -> None:
        self._given: dict[bytes, Any] = {}

    def give(self, name: str) -> dict[str, bytes]:
        """Put a variable into the object store, and return what `take` needs; it stays there until `forget`."""
        namespace = vars(sys.modules["__main__"])
        if name not in namespace:
            raise NameError(f"there is no variable {name!r}")
        return self._put(namespace[name])

    def read(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """
        Return variables for a program that runs on some ``node`` and has joined the cluster of that, all for no ``names``.

        Their ``values`` as `Interpreter.read` packs them. Where these are large, and that cluster is this one, only what
        `give` returns, for a dict of the same: it lies in the store.
        """
        from bgpy.tasks.workspace.interpreter import find_variables, pack

        found = {name: pack(value) for name, value in find_variables(vars(sys.modules["__main__"]), wanted["names"]).items()}
        if sum(packed.size for packed in found.values()) >= LARGE:
            try:
                if is_here(wanted["node"]):
                    return self._put(found)
            except Exception:  # noqa: BLE001 - whatever Ray raises: it has no room, for instance, and the other way is open
                pass
        return {"values": {name: close_value(packed) for name, packed in found.items()}}

    def open(self, given: dict[str, Any]) -> bool:
        """Set the variable ``name`` to what a program has packed and put into the store; False where the store lacks it."""
        import ray
        from ray import cloudpickle

        try:
            packed = ray.get(cloudpickle.loads(given["reference"]))
        except ray.exceptions.RayError:
            return False
        vars(sys.modules["__main__"])[given["name"]] = own_copy(packed).open()
        return True

    def _put(self, value: Any) -> dict[str, bytes]:
        import ray
        from ray import cloudpickle

        while len(self._given) >= MAX_GIVEN:
            self.forget(next(iter(self._given)))  # whoever asked for it has not come for it, nor said so
        reference = ray.put(value)
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


def is_here(node: str | None) -> bool:
    """Tell whether a node, by its id, is one of the cluster that this process has joined."""
    import ray

    return any(each["NodeID"] == node for each in ray.nodes())


def own_copy(packed: Packed) -> Packed:
    """Return a value that lies in the store in memory of one's own, where what is unpickled can be written."""
    return Packed(memoryview(packed.pickle), tuple(_copy(memoryview(buffer).cast("B")) for buffer in packed.buffers))


def _copy(view: memoryview) -> memoryview:
    memory = memoryview(anonymous_memory(view.nbytes) if view.nbytes >= _PAGED_SIZE else bytearray(view.nbytes))
    memory[:] = view
    return memory
