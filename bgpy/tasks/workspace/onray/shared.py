"""
For Python programs that are connected to a server's Ray cluster themselves: variables by the object store.
"""

from __future__ import annotations

from typing import Any

from bgpy.errors import RefusedError
from bgpy.tasks.workspace.onray.objects import let_go
from bgpy.tasks.workspace.remote import Asker

#: Seconds for a value to come out of the object store, from another node if need be.
_GET_TIMEOUT = 300.0


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
    if not ray.is_initialized():
        raise RefusedError("This program is not connected to a Ray cluster: call ray.init with the server's address of it first")
    return ray
