"""One budget for large messages: who finds no room waits, and is refused in time."""

from __future__ import annotations

import threading

import pytest

from bgpy.errors import OverloadedError
from bgpy.serving.budget import MemoryBudget


def test_what_fits_is_taken_and_comes_back() -> None:
    budget = MemoryBudget(100, 0)
    for _ in range(3):
        budget.take(60)
        budget.take(40)
        budget.give_back(60)
        budget.give_back(40)


def test_what_does_not_fit_in_time_is_refused_and_nothing_is_taken() -> None:
    budget = MemoryBudget(100, 0.001)
    budget.take(60)
    with pytest.raises(OverloadedError, match="60 of 100 bytes for messages are in use"):
        budget.take(41)
    budget.take(40)


def test_a_message_above_the_whole_budget_goes_alone() -> None:
    budget = MemoryBudget(100, 0)
    budget.take(500)
    with pytest.raises(OverloadedError):
        budget.take(1)
    budget.give_back(500)
    budget.take(1)
    with pytest.raises(OverloadedError):
        budget.take(500)


def test_who_waits_goes_on_as_soon_as_there_is_room() -> None:
    budget = MemoryBudget(100, 30)
    budget.take(100)
    taken = threading.Semaphore(0)

    def work() -> None:
        budget.take(50)
        taken.release()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert not taken.acquire(blocking=False)
    budget.give_back(100)
    for thread in threads:
        thread.join()
    assert taken.acquire(blocking=False)
    assert taken.acquire(blocking=False)
