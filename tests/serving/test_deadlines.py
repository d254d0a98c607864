"""What is not settled in time expires, in the order of the deadlines, by one thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from bgpy.serving.deadlines import Deadlines

HOUR = 3600.0


class Item:
    def __init__(self, name: str = "", order: list[str] | None = None) -> None:
        self.name = name
        self.settled = False
        self.expired = threading.Event()
        self._order = [] if order is None else order

    def expire(self) -> None:
        self._order.append(self.name)
        self.expired.set()


@pytest.fixture
def deadlines() -> Iterator[Deadlines]:
    made = Deadlines()
    yield made
    made.close()


def test_what_is_not_settled_expires(deadlines: Deadlines) -> None:
    item = Item()
    deadlines.add(item, 0.001)
    assert item.expired.wait(30)


def test_deadlines_come_in_their_order_not_in_that_of_their_making(deadlines: Deadlines) -> None:
    order: list[str] = []
    late, early, last = Item("late", order), Item("early", order), Item("last", order)
    with deadlines._changed:  # however slow this machine is, none is due before all are there
        begun = time.monotonic()
        deadlines.add(last, 0.06)
        # Less what the machine took since.
        deadlines.add(late, 0.03 - (time.monotonic() - begun))
        deadlines.add(early, 0.0 - (time.monotonic() - begun))
    assert last.expired.wait(30)
    assert order == ["early", "late", "last"]


def test_an_earlier_deadline_wakes_the_thread_that_sleeps_for_a_later_one(deadlines: Deadlines) -> None:
    late, early = Item(), Item()
    deadlines.add(late, HOUR)
    deadlines.add(early, 0.001)
    assert early.expired.wait(30)
    assert not late.expired.is_set()


def test_a_deadline_that_is_later_than_any_wait_stops_nothing(deadlines: Deadlines) -> None:
    deadlines.add(Item(), 2 * threading.TIMEOUT_MAX)
    deadlines.add(Item(), float("inf"))
    item = Item()
    deadlines.add(item, 0.001)
    assert item.expired.wait(30)
    another = Item()  # the thread has waited for the first by now
    deadlines.add(another, 0.001)
    assert another.expired.wait(30)


def test_what_is_settled_does_not_expire(deadlines: Deadlines) -> None:
    settled, item = Item(), Item()
    settled.settled = True
    deadlines.add(settled, 0.0)
    deadlines.add(item, 0.0)
    assert item.expired.wait(30)
    assert not settled.expired.is_set()


def test_equal_deadlines_do_not_compare_their_items(deadlines: Deadlines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bgpy.serving.deadlines.time.monotonic", lambda: 5.0)
    items = [Item() for _ in range(3)]
    for item in items:
        deadlines.add(item, 0.0)
    for item in items:
        assert item.expired.wait(30)


def test_the_end_returns_what_is_pending_and_nothing_expires_after_it() -> None:
    deadlines = Deadlines()
    settled, pending = Item(), Item()
    settled.settled = True
    deadlines.add(settled, HOUR)
    deadlines.add(pending, HOUR)
    assert deadlines.close() == [pending]
    assert deadlines.close() == []
    assert [thread.name for thread in threading.enumerate() if thread.name == "bgpy-deadlines"] == []
    assert not pending.expired.is_set()


def test_the_end_without_any_deadline_has_nothing_to_do() -> None:
    assert Deadlines().close() == []


def test_an_expiry_may_end_it_all_from_its_own_thread() -> None:
    deadlines = Deadlines()
    ended = threading.Event()

    class Last(Item):
        def expire(self) -> None:
            deadlines.close()
            ended.set()

    deadlines.add(Last(), 0.0)
    assert ended.wait(30)


def test_what_is_settled_leaves_long_before_its_deadline(deadlines: Deadlines) -> None:
    """A server that defers a thousand requests a second for an hour each would keep three million of them."""
    pending = [Item() for _ in range(10)]
    for item in pending:
        deadlines.add(item, HOUR)
    for _ in range(10_000):
        item = Item()
        deadlines.add(item, HOUR)
        item.settled = True
    assert len(deadlines._heap) < 200
    assert deadlines.close() == pending


def test_what_is_settled_goes_as_soon_as_the_thread_looks(deadlines: Deadlines) -> None:
    settled = [Item() for _ in range(30)]
    for item in settled:
        deadlines.add(item, HOUR)
        item.settled = True
    deadlines.add(due := Item(), 0.0)
    assert due.expired.wait(30)
    deadlines.add(due := Item(), 0.0)  # so that it has looked again
    assert due.expired.wait(30)
    with deadlines._changed:
        assert not deadlines._heap


def test_what_is_settled_when_it_is_added_may_be_the_only_one(deadlines: Deadlines) -> None:
    settled = Item()
    settled.settled = True
    for _ in range(1000):
        deadlines.add(settled, HOUR)
    item = Item()
    deadlines.add(item, 0.001)
    assert item.expired.wait(30)
