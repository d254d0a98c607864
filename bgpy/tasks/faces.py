"""
What the faces of all task sets have in common: they use a client, their own or somebody's.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from bgpy.client import Client

Self = TypeVar("Self", bound="Face")


class Face:
    """
    What a Python program has of a task set; a context manager that closes it.

    Parameters
    ----------
    client
        A client of a server with that task set; or the name of such a server, by default ``default``, as ``bgpy serve`` starts
        it. A client that is made here is closed with this object.

    Attributes
    ----------
    client
        That client.
    """

    def __init__(self, client: Client | str | None = None) -> None:
        self._owned = client is None or isinstance(client, str)
        if client is None or isinstance(client, str):
            from bgpy.attach import connect

            client = connect(client or "default")
        self.client = client

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.client!r})"

    def close(self) -> None:
        """Close the client, if it was made here. Again is fine; what is on the server lives on."""
        if self._owned:
            self.client.close()
