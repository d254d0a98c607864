"""A host of calls: what a task set keeps in the interpreter of a workspace."""

from __future__ import annotations

import sys
from typing import Any

from bgpy.tasks.workspace.values import Packed, Value

HOST = "support.calls:Host"


class Host:
    """Keep what it was told, for as long as the interpreter lives."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, arguments: list[Any]) -> list[Value | BaseException | None]:
        """Add numbers up; tell of each the sum so far and how many were added as one."""
        outcomes: list[Value | BaseException | None] = []
        for argument in arguments:
            if argument["x"] < 0:
                outcomes.append(ValueError(f"{argument['x']} is negative"))
                continue
            self.total += argument["x"]
            outcomes.append(Value([self.total, len(arguments)], Packed.of({self.total})))
        return outcomes

    def nothing(self, arguments: list[Any]) -> list[None]:
        """Have no value."""
        return [None] * len(arguments)

    def fail(self, arguments: list[Any]) -> list[Any]:
        """Fail as a whole."""
        raise LookupError("all of them")

    def loop(self, arguments: list[Any]) -> list[Value]:
        """Run for ever where one of the arguments says so."""
        sys.stdout.write(f"looping over {len(arguments)}\n")
        while any(argument.get("loop") for argument in arguments):
            pass
        return [Value(len(arguments), None) for _ in arguments]
