"""
Looking at variables where they live: a host of questions, see `bgpy.tasks.workspace.calls`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from bgpy.encoding import shape_of, type_name
from bgpy.tasks.workspace.interpreter import variables_of

#: Values that are listed. Others can be asked for all the same.
MAX_LISTED = 1000


class Inspector:
    """
    Tell of values by their names.

    `listing`, `value` and `statistics` are questions, which any thread may ask while a job runs.

    Parameters
    ----------
    namespace
        That of the jobs.
    """

    #: See `Interpreter`.
    takes_namespace = True

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace

    def all(self) -> dict[str, Any]:
        """Return what is listed."""
        return variables_of(self.namespace)

    def find(self, name: str) -> list[Any] | None:
        """Return a value in a list of its own, None where there is none of that name."""
        missing = object()
        value = self.namespace.get(name, missing)  # in one step, so that a job may go on meanwhile
        return None if value is missing else [value]

    def listing(self, argument: Mapping[str, Any]) -> dict[str, Any]:
        """Return name, type and shape of the first `MAX_LISTED` as ``listed``, and how many more there are as ``left_out``."""
        found = self.all()
        listed = [
            {"name": name, "type": type_name(value), "shape": shape_of(value)}
            for name, value in islice(found.items(), MAX_LISTED)
        ]
        return {"listed": listed, "left_out": len(found) - len(listed)}

    def value(self, argument: Mapping[str, Any]) -> dict[str, Any]:
        """Return a value as `windows.show` does, and ``found``."""
        from bgpy.inspection.windows import show

        found = self.find(argument["name"])
        return {"found": False} if found is None else {"found": True, **show(found[0], argument.get("window"))}

    def statistics(self, argument: Mapping[str, Any]) -> dict[str, Any]:
        """Return the statistics of a value, see `statistics.describe`, as ``value``, and ``found``."""
        from bgpy.inspection.statistics import describe

        found = self.find(argument["name"])
        return {"found": False} if found is None else {"found": True, "value": describe(found[0])}
