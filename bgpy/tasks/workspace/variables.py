"""
Reading and setting the variables of a workspace, and asking its worker about them, beside its jobs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar

from bgpy.errors import RefusedError
from bgpy.tasks.workspace.backends import Backend
from bgpy.tasks.workspace.channel import take_value
from bgpy.tasks.workspace.means import Options
from bgpy.tasks.workspace.onray.objects import HOST

T = TypeVar("T")

#: What looks at variables, in the worker.
INSPECTOR = "bgpy.tasks.workspace.inspector:Inspector"
#: Seconds that a worker has for reading or setting variables.
READ_TIMEOUT = 30.0


class Served(Protocol):
    """What this needs of a workspace."""

    name: str
    options: Options

    def wait_for_backend(self, deadline: float) -> Backend:
        """Return the worker in service."""


def read_variables(
    workspace: Served,
    names: list[str] | None,
    encoding: Literal["json", "objects"],
    limit: int | None,
    timeout: float = READ_TIMEOUT,
) -> dict[str, Any]:
    """Return variables, as `Backend.read`; blocks until there is a worker. Raises RefusedError where it does not answer."""
    return _ask(workspace, lambda backend, left: backend.read(names, encoding, limit, left), timeout)


def fetch_variables(workspace: Served, names: list[str] | None, node: str) -> dict[str, Any]:
    """
    Return the ``values`` of variables, packed, for a program on a node of a Ray cluster; raises as `read_variables`.

    Where they are large, and the workspace is on that cluster: ``reference`` and ``key`` of all, as `lend_variable`.
    """
    if workspace.options.type != "ray":
        return {"values": read_variables(workspace, names, "objects", None)}
    found: dict[str, Any] = _ask_on_ray(workspace, "read", {"names": names, "node": node})
    if "values" in found:
        return {"values": {name: take_value(closed) for name, closed in found["values"].items()}}
    return _to_hex(found)


def write_variable(workspace: Served, name: str, value: Any, timeout: float = READ_TIMEOUT) -> None:
    """Set a variable, as `Backend.write`; raises as `read_variables`, and SerializationError."""
    _ask(workspace, lambda backend, left: backend.write(name, value, left), timeout)


def ask_worker(workspace: Served, host: str, method: str, argument: Any, timeout: float = READ_TIMEOUT) -> Any:
    """Return what a host in the worker says to a plain argument, as `Backend.ask`; raises as `read_variables`."""
    return _ask(workspace, lambda backend, left: backend.ask(host, method, argument, left), timeout)


def list_variables(workspace: Served) -> dict[str, Any]:
    """Return what variables there are, as `Inspector.listing`; raises as `read_variables`."""
    listing: dict[str, Any] = ask_worker(workspace, INSPECTOR, "listing", {})
    return listing


def look_at(workspace: Served, method: str, variable: str, window: list[int] | None = None) -> dict[str, Any]:
    """Return what `Inspector` says of a variable; raises as `read_variables`, and RefusedError where there is none."""
    answer: dict[str, Any] = ask_worker(workspace, INSPECTOR, method, {"name": variable, "window": window})
    if not answer.pop("found"):
        raise _missing(workspace, variable)
    return answer


def copy_variable(source: Served, variable: str, target: Served, new_name: str, timeout: float = READ_TIMEOUT) -> None:
    """
    Set a variable of one workspace to that of another; raises as `write_variable`, and RefusedError where there is none.

    Between workspaces of one Ray cluster it goes through the object store, and nothing of it comes here.
    """
    if source.options.type == target.options.type == "ray":
        given = ask_worker(source, HOST, "give", variable, timeout)
        try:
            ask_worker(target, HOST, "take", {"name": new_name, "reference": given["reference"]}, timeout)
        finally:
            ask_worker(source, HOST, "forget", given["key"], timeout)
        return
    found = read_variables(source, [variable], "objects", None, timeout)
    if variable not in found:
        raise _missing(source, variable)
    write_variable(target, new_name, found[variable], timeout)


def lend_variable(workspace: Served, variable: str) -> dict[str, str]:
    """
    Put a variable of a workspace on Ray into the object store, for a program on the cluster; return its ``reference``, ``key``.

    It stays until `return_variable`. Raises as `read_variables`, and RefusedError where there is none, or no Ray.
    """
    return _to_hex(_ask_on_ray(workspace, "give", variable))


def return_variable(workspace: Served, key: str) -> None:
    """Let go of what was lent; raises as `lend_variable`. Again is fine."""
    _ask_on_ray(workspace, "forget", _from_hex(key, "key"))


def take_variable(workspace: Served, variable: str, reference: str, packed: bool = False) -> bool:
    """
    Set a variable to what a reference of Ray's stands for, or to what is `packed` there; raises as `lend_variable`.

    Returns whether it was set: it is not where what is packed cannot be had.
    """
    given = {"name": variable, "reference": _from_hex(reference, "reference")}
    return _ask_on_ray(workspace, "open" if packed else "take", given) is not False


def _ask_on_ray(workspace: Served, method: str, argument: Any) -> Any:
    if workspace.options.type != "ray":
        raise RefusedError(f"The workspace {workspace.name!r} is not on Ray", "name")
    return ask_worker(workspace, HOST, method, argument)


def _to_hex(found: dict[str, bytes]) -> dict[str, str]:
    return {field: data.hex() for field, data in found.items()}


def _from_hex(text: str, field: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise RefusedError(f"The field {field!r} has digits that are not hexadecimal", field) from None


def _missing(workspace: Served, variable: str) -> RefusedError:
    return RefusedError(f"The workspace {workspace.name!r} has no variable {variable!r:.100}", "variable")


def _ask(workspace: Served, use: Callable[[Backend, float], T], timeout: float) -> T:
    """Use the worker. Its successor is not asked: the question may be what it died of, and its variables are gone."""
    deadline = time.monotonic() + timeout
    backend = workspace.wait_for_backend(deadline)
    try:
        return use(backend, max(deadline - time.monotonic(), 0.0))
    except EOFError:
        raise RefusedError(f"The worker of {workspace.name!r} died before it had answered") from None
    except TimeoutError:
        raise RefusedError(f"The worker of {workspace.name!r} did not answer within {timeout:g} s") from None
