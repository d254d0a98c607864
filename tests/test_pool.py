"""The lanes of a client among threads: which one is handed out, who waits, and what closing and forking leave."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bgpy.errors import ClientClosedError, RequestTimeoutError
from bgpy.pool import LanePool, Lanes, PoolLane
from bgpy.protocol.exchange import LaneNumbers


class FakeConnection:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


Lane = PoolLane[FakeConnection]


def pool_of(size: int) -> LanePool[FakeConnection]:
    return LanePool(size)


def take(pool: LanePool[FakeConnection], count: int) -> list[Lane]:
    """Take lanes, each with a connection."""
    lanes = [pool.take(0) for _ in range(count)]
    for lane in lanes:
        lane.connection = lane.connection or FakeConnection()
    return lanes


def test_a_lane_knows_its_numbers_and_closes_its_connection_once() -> None:
    lane: Lane = PoolLane(3, LaneNumbers())
    assert [lane.numbers.next() for _ in range(3)] == [1, 2, 3]
    connection = lane.connection = FakeConnection()
    lane.draining = True
    lane.drop()
    lane.drop()
    assert (lane.index, lane.connection, lane.draining, connection.closed, lane.numbers.last) == (3, None, False, 1, 3)


def test_the_lane_that_came_free_last_serves_and_more_at_once_open_more() -> None:
    pool = pool_of(3)
    lanes = take(pool, 3)
    assert [lane.index for lane in lanes] == [0, 1, 2]
    for lane in (lanes[2], lanes[0], lanes[1]):
        pool.give_back(lane)
    assert [lane.index for lane in take(pool, 3)] == [1, 0, 2]


def test_a_lane_that_is_never_given_back_makes_room_for_another_which_goes_on_with_its_numbers() -> None:
    """A Ctrl-C may come between the step that takes a lane and the next one."""
    pool = pool_of(2)
    kept = pool.take(0)
    for number in range(1, 4):
        lost = pool.take(0)
        assert (lost.index, lost.connection, lost.numbers.next()) == (1, None, number)
        del lost
    assert kept.index == 0
    last = pool.take(0)
    with pytest.raises(RequestTimeoutError):
        pool.take(0)
    pool.give_back(last)
    assert pool.take(0) is last


def test_lanes_without_threads_say_that_none_is_free() -> None:
    lanes: Lanes[FakeConnection] = Lanes(1, first=7)
    lane = lanes.take_now()
    assert lane is not None
    assert lane.index == 7
    assert lanes.take_now() is None
    lanes.give_back(lane)
    assert lanes.take_now() is lane
    lanes.close()
    with pytest.raises(ClientClosedError):
        lanes.take_now()


def test_a_new_lane_comes_before_one_that_drains_and_the_oldest_of_those_first() -> None:
    pool = pool_of(3)
    first, second = take(pool, 2)
    for lane in (second, first):
        lane.draining = True
        pool.give_back(lane)
    assert [lane.index for lane in take(pool, 3)] == [2, 1, 0]


def test_the_short_way_gives_a_free_lane_where_nothing_else_is_to_be_decided() -> None:
    pool = pool_of(3)
    assert pool.take_free() is None
    first, second = take(pool, 2)
    pool.give_back(second)
    pool.give_back(first)
    assert pool.take_free() is first
    first.draining = True
    pool.give_back(first)
    assert pool.take_free() is None, "the lane that drains may be ready for its next request"
    assert pool.oldest_draining() is first
    assert pool.take_free() is second
    pool.give_back(second)
    pool.close()
    assert pool.take_free() is None


def test_no_two_threads_ever_have_the_same_lane_and_none_is_lost() -> None:
    """Free lanes are taken and given back without a lock."""
    pool = pool_of(4)
    start = threading.Barrier(4)

    def work() -> int:
        shared = 0
        start.wait(20)
        for _ in range(5000):
            lane = pool.take_free() or pool.take(20)
            number = lane.numbers.next()
            pool.oldest_draining()
            shared += lane.numbers.last != number
            pool.give_back(lane)
        return shared

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert sum(threads.map(lambda _: work(), range(4), timeout=60)) == 0
    finally:
        sys.setswitchinterval(interval)
    assert sum(lane.numbers.last for lane in take(pool, 4)) == 20_000


def test_who_looks_for_an_ended_request_gets_the_oldest_draining_lane_and_can_put_it_back() -> None:
    pool = pool_of(2)
    assert pool.oldest_draining() is None
    first, second = take(pool, 2)
    for lane in (first, second):
        lane.draining = True
        pool.give_back(lane)
    assert pool.oldest_draining() is first
    pool.put_back(first)
    assert pool.oldest_draining() is first
    assert pool.oldest_draining() is second
    assert pool.oldest_draining() is None


def test_no_lane_in_time_is_a_timeout_and_nothing_was_sent() -> None:
    pool = pool_of(1)
    in_use = take(pool, 1)
    for timeout in (0, 0.001, -1):
        with pytest.raises(RequestTimeoutError, match=r"for one of 1 connections to come free\. It was not sent") as caught:
            pool.take(timeout)
        assert caught.value.executed is False
    assert len(in_use) == 1


@pytest.mark.parametrize("timeout", [None, 30.0])
@pytest.mark.parametrize("draining", [False, True])
def test_a_lane_that_is_given_back_goes_to_who_waits(timeout: float | None, draining: bool) -> None:
    pool = pool_of(1)
    (lane,) = take(pool, 1)
    lane.draining = draining
    taken: list[Lane] = []
    thread = threading.Thread(target=lambda: taken.append(pool.take(timeout)))
    thread.start()
    pool.give_back(lane)
    thread.join()
    assert taken == [lane]
    thread = threading.Thread(target=lambda: taken.append(pool.take(timeout)))
    thread.start()
    pool.put_back(lane)
    thread.join()
    assert taken == [lane, lane]


def test_an_endless_timeout_is_a_long_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A condition takes no more than `threading.TIMEOUT_MAX`: OverflowError."""
    pool = pool_of(1)
    (lane,) = take(pool, 1)

    def wait(timeout: float) -> bool:
        assert timeout <= threading.TIMEOUT_MAX
        pool._changed.release()
        pool.give_back(lane)
        pool._changed.acquire()
        return True

    monkeypatch.setattr(pool._changed, "wait", wait)
    assert pool.take(float("inf")) is lane


def test_a_lane_that_comes_at_the_last_moment_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wake-up went to a thread that had just given up waiting; the lane lay free and the next thread waited on."""
    pool = pool_of(1)
    (lane,) = take(pool, 1)

    def wait(timeout: float | None) -> bool:
        # As Condition.wait does it: the lock is free between the end of the wait and the return.
        pool._changed.release()
        pool.give_back(lane)
        pool._changed.acquire()
        return False

    monkeypatch.setattr(pool._changed, "wait", wait)
    assert pool.take(1.0) is lane


def test_closing_closes_what_is_idle_now_and_the_rest_when_it_comes_back() -> None:
    pool = pool_of(4)
    free, draining, used, used_draining = lanes = take(pool, 4)
    connections = [lane.connection for lane in lanes]
    draining.draining = used_draining.draining = True
    pool.give_back(free)
    pool.give_back(draining)
    pool.close()
    pool.close()
    assert [connection.closed for connection in connections if connection] == [1, 1, 0, 0]
    pool.give_back(used)
    pool.give_back(used_draining)
    assert [connection.closed for connection in connections if connection] == [1, 1, 1, 1]
    assert pool.oldest_draining() is None
    with pytest.raises(ClientClosedError):
        pool.take(None)


def test_closing_ends_the_wait_of_every_thread() -> None:
    pool = pool_of(1)
    in_use = take(pool, 1)
    failures: list[Exception] = []
    waiting = threading.Semaphore(0)

    def wait() -> None:
        waiting.release()
        try:
            pool.take(None)
        except ClientClosedError as failure:
            failures.append(failure)

    threads = [threading.Thread(target=wait) for _ in range(5)]
    for thread in threads:
        thread.start()
        waiting.acquire()
    pool.close()
    for thread in threads:
        thread.join()
    assert len(failures) == 5
    assert len(in_use) == 1


def test_a_forked_child_closes_its_copies_though_the_lock_is_held_by_a_thread_that_is_gone() -> None:
    pool = pool_of(3)
    lanes = take(pool, 2)
    connections = [lane.connection for lane in lanes]
    pool.give_back(lanes[0])
    with pool._changed:  # not reentrant: a lock taken here would never be given
        pool.abandon()
    assert [connection.closed for connection in connections if connection] == [1, 1]


def test_a_lane_of_an_abandoned_pool_can_be_given_back_though_the_threads_that_wait_there_are_gone() -> None:
    """The end of a stream hung in the child: the lock of the parent's pool was held by a thread that was not there."""
    pool = pool_of(1)
    lane = pool.take(None)
    pool._lock.acquire()
    pool._waiting = 1
    pool.abandon()
    for lane.draining in (False, True):
        thread = threading.Thread(target=pool.give_back, args=(lane,), daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.usefixtures("fast_switches")
def test_no_lane_is_ever_with_two_threads() -> None:
    pool = pool_of(3)
    busy = [threading.Lock() for _ in range(3)]
    failures: list[int] = []

    def work() -> None:
        for turn in range(200):
            lane = pool.take(30)
            if not busy[lane.index].acquire(blocking=False):
                failures.append(lane.index)
                return
            lane.draining = turn % 3 == 0
            busy[lane.index].release()
            pool.give_back(lane)
            if turn % 7 == 0 and (drained := pool.oldest_draining()) is not None:
                pool.put_back(drained)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {lane.index for lane in take(pool, 3)} == {0, 1, 2}
