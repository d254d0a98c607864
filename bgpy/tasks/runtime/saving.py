"""
What the code of a run saves, by name, while it runs.
"""

from __future__ import annotations

from typing import Any

from bgpy.errors import RefusedError
from bgpy.tasks.workspace.progress import SINK

#: Names that one run may save, and the characters of each.
MAX_SAVED = 1000
MAX_NAME = 200


class Saved:
    """The values that the code of one run has saved. Any thread."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def put(self, name: str, value: Any) -> None:
        """Keep a value, and tell whoever watches the run where the name is new."""
        is_new = name not in self._values
        if is_new and len(self._values) >= MAX_SAVED:
            raise RefusedError(f"{MAX_SAVED:,} placeholders are saved already: there is no room for {name!r}", "name")
        self._values[name] = value
        if is_new and (sink := SINK.get()) is not None:
            sink.saved(name)

    def values(self) -> dict[str, Any]:
        """Return all of them, in the order of their names' first values."""
        return dict(self._values)


class _Run:
    """The run that this process is for: none, but in the worker of one."""

    def __init__(self) -> None:
        self.saved: Saved | None = None


RUN = _Run()


def is_name(name: object) -> bool:
    """Say whether a placeholder may have that name: a text, not too long, that UTF-8 can carry."""
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.encode("utf-8", "replace").decode("utf-8") == name


def save_placeholder(name: str, value: Any) -> None:
    """
    Make a value a placeholder of the run at once, so that it can be asked for while the code goes on.

    The value itself is kept, no copy: what the code does to it later is seen by who asks later. A name that is saved again has
    the new value. Outside of a run, and in other processes that its code starts, nothing is kept.

    Parameters
    ----------
    name
        At most 200 characters, which need not be a name in Python.
    value
        Anything.

    Raises
    ------
    RefusedError
        The name is no text or too long, or 1,000 other names are saved.
    """
    if not is_name(name):
        shown = ascii(name)[:100]
        raise RefusedError(f"The name of a placeholder is a text of 1 to {MAX_NAME:,} characters, not {shown}", "name")
    saved = RUN.saved
    if saved is not None:
        saved.put(str(name), value)
