"""
For Python programs that are connected to a server's Ray cluster themselves: variables by the object store.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from bgpy.errors import RefusedError
from bgpy.tasks.workspace.onray.objects import LARGE, is_here, let_go, own_copy
from bgpy.tasks.workspace.values import Packed

if TYPE_CHECKING:
    from bgpy.tasks.workspace.remote import Asker

#: Seconds for a value to come out of the object store, from another node if need be.
_GET_TIMEOUT = 300.0
#: What a server refuses that knows nothing of packed values in the store.
_UNKNOWN = ("command", "packed")


class Shared:
    """
    The variables of a workspace on Ray, by name: ``shared["x"]``, ``shared["x"] = value``, where the value may be an ObjectRef.

    Values go through Ray's object store and not through the server, and within one node nobody copies them again; arrays that
    came so are read-only. The program must be connected to the server's cluster, by ``ray.init(address=...)``. Raises
    RefusedError where it is not, where there is no such variable, and where the workspace is not on Ray.
    """

    def __init__(self, server: Asker, workspace: str) -> None:
        self._server = server
        self._workspace = workspace

    def __repr__(self) -> str:
        return f"<Shared variables of {self._workspace!r}>"

    def __getitem__(self, name: str) -> Any:
        """Return the value of a variable."""
        ray = _connected()
        lent = self._server.ask("lend_variable", self._workspace, variable=name)
        try:
            return ray.get(ray.cloudpickle.loads(bytes.fromhex(lent["reference"])), timeout=_GET_TIMEOUT)
        finally:
            self._server.ask("return_variable", self._workspace, key=lent["key"])

    def __setitem__(self, name: str, value: Any) -> None:
        """Set a variable."""
        ray = _connected()
        reference = value if isinstance(value, ray.ObjectRef) else ray.put(value)
        pickled = ray.cloudpickle.dumps(reference)
        try:
            self._server.ask("take_variable", self._workspace, variable=name, reference=pickled.hex())
        finally:
            let_go(reference)


def _connected() -> Any:
    """Return Ray, which would start a cluster of its own for a program that is not connected to one."""
    try:
        import ray
    except ImportError:
        raise RefusedError('This program has no Ray: pip install "bgpy[ray]"') from None
    if _joined() is None:
        raise RefusedError("This program is not connected to a Ray cluster: call ray.init with the server's address of it first")
    return ray


def set_packed(server: Asker, workspace: str, name: str, packed: Packed) -> bool:
    """
    Set a variable to a packed value by the object store, where that can be and is the faster way; returns whether it was done.

    Raises as `Asker.ask`. What Ray itself raises is no matter: there is the other way.
    """
    ray = _joined()
    if ray is None or packed.size < LARGE:
        return False
    status = server.ask("get_status", workspace)
    try:
        if not is_here(status.get("node")):
            return False
        reference = ray.put(packed)
        pickled = ray.cloudpickle.dumps(reference)
    except Exception:  # noqa: BLE001 - see above
        return False
    try:
        return bool(server.ask("take_variable", workspace, variable=name, reference=pickled.hex(), packed=True))
    except RefusedError as refused:
        if refused.field in _UNKNOWN:
            return False
        raise
    finally:
        let_go(reference)


def fetch(server: Asker, workspace: str, names: list[str] | None) -> dict[str, Any] | None:
    """Return variables, packed, what is large by the object store; None where that cannot be. Raises as `set_packed`."""
    ray = _joined()
    if ray is None:
        return None
    try:
        found = server.ask("fetch_variable", workspace, variable=names, node=ray.get_runtime_context().get_node_id())
    except RefusedError as refused:
        if refused.field in _UNKNOWN:
            return None
        raise
    if "values" in found:
        values: dict[str, Any] = found["values"]
        return values
    try:
        lent = ray.get(ray.cloudpickle.loads(bytes.fromhex(found["reference"])), timeout=_GET_TIMEOUT)
        return {name: own_copy(packed) for name, packed in lent.items()}
    except Exception:  # noqa: BLE001 - as above
        return None
    finally:
        with contextlib.suppress(RefusedError):  # the workspace has ended, and with it what it lent
            server.ask("return_variable", workspace, key=found["key"])


def _joined() -> Any:
    """Return Ray, None in a program that has not joined a cluster itself: one that is a client of some has no store."""
    ray = sys.modules.get("ray")
    worker = getattr(sys.modules.get("ray._private.worker"), "global_worker", None)
    return ray if getattr(worker, "connected", False) else None
