"""
What a forked child has to begin anew: told at the fork, before the child has a second thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


def call_after_fork(owner: T, step: Callable[[T], None]) -> None:
    """
    Have ``step(owner)`` called in every forked child, for as long as somebody else holds `owner`. Any thread; again is fine.

    There it is alone: who held a lock at the fork is gone. A child that is not made by Python (a ``fork`` in C) is not noticed.
    """
    _owners()[id(owner), step] = owner


@cache
def _owners() -> WeakValueDictionary[tuple[int, Callable[[Any], None]], Any]:
    """Return those of this process. They are registered once, for `os.register_at_fork` knows no way back."""
    owners: WeakValueDictionary[tuple[int, Callable[[Any], None]], Any] = WeakValueDictionary()

    def call_all() -> None:
        failure: Exception | None = None
        for (_, step), owner in list(owners.items()):
            try:
                step(owner)
            except Exception as error:  # noqa: BLE001 - the others must not go on as the parent
                failure = failure or error
        if failure is not None:
            raise failure  # Python prints it

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=call_all)
    return owners


_owners()  # at the import: hooks run in the order in which they were registered, and one of the user's may use an owner
