"""The log of events: numbers, replay, gaps, and watchers that are woken at once."""

from __future__ import annotations

import json
import queue
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.tasks.workspace import events
from bgpy.tasks.workspace.events import MAX_JOINED, EventLog
from bgpy.tasks.workspace.jobs import JobState


def log_of(count: int, **limits: int) -> EventLog:
    log = EventLog(**limits)
    for number in range(count):
        log.add("progress", number, float(number), {"text": str(number)})
    return log


def numbers(log: EventLog, since: int | None) -> list[tuple[str, int]]:
    return [(event["event"], event["number"]) for event in log.watch(since).next(0, 9.0)]


def test_events_are_numbered_from_one_and_replayed_from_any_number() -> None:
    log = log_of(3)
    assert log.watch(1).next(0, 9.0) == [
        {"event": "progress", "number": 2, "time": 1.0, "job": 1, "text": "1"},
        {"event": "progress", "number": 3, "time": 2.0, "job": 2, "text": "2"},
    ]
    assert numbers(log, 0) == [("progress", 1), ("progress", 2), ("progress", 3)]
    assert numbers(log, 3) == numbers(log, None) == []


def test_a_gap_says_what_the_log_has_no_more() -> None:
    log = log_of(10, max_events=3)
    gap, *rest = log.watch(2).next(0, 9.0)
    assert gap == {"event": "gap", "number": 7, "time": 9.0, "job": None, "missed": [3, 7]}
    assert [event["number"] for event in rest] == [8, 9, 10]
    assert numbers(log, 7) == [("progress", 8), ("progress", 9), ("progress", 10)]


def test_a_number_from_before_a_restart_is_behind_a_gap() -> None:
    assert numbers(log_of(2), 50) == [("gap", 0), ("progress", 1), ("progress", 2)]
    assert numbers(EventLog(), 50) == [("gap", 0)]
    assert numbers(log_of(10, max_events=2), 50) == [("gap", 0), ("gap", 8), ("progress", 9), ("progress", 10)]


def test_a_flood_of_text_takes_the_place_of_what_is_old() -> None:
    log = EventLog(max_text=100)
    for _ in range(50):
        log.add("progress", 0, 0.0, {"text": "x" * 30})
    assert [event["number"] for event in log.watch(0).next(0, 0.0)[1:]] == [48, 49, 50]
    log.add("finished", 0, 0.0, {"error": {"traceback": "x" * 1000}})
    assert [event["number"] for event in log.watch(0).next(0, 0.0)[1:]] == [51]


def test_details_that_events_share_take_no_room_and_are_told_as_any() -> None:
    log = EventLog(max_text=100)
    log.add_all([("finished", number, JobState.DONE.told) for number in range(50)], 1.0)
    log.add("progress", 0, 2.0, {"text": "x" * 99})
    events = log.watch(0).next(0, 0.0)
    assert [event["number"] for event in events] == list(range(1, 52))
    assert events[49] == {
        "event": "finished",
        "number": 50,
        "time": 1.0,
        "job": 49,
        "state": "done",
        "result": True,
        "error": None,
    }
    assert json.dumps(events)


def test_output_that_waits_comes_joined_and_has_the_number_of_the_last() -> None:
    log = EventLog()
    said = [
        (0, "out", "a"),
        (0, "out", "b\n"),
        (0, "err", "!"),
        (0, "out", "c"),
        (1, "out", "d"),
        (1, "out", "e"),
    ]
    for time, (job, stream, text) in enumerate(said):
        log.add("output", job, float(time), {"stream": stream, "text": text})
    log.add("progress", 1, 9.0, {"name": "n"})
    log.add("output", 1, 9.0, {"stream": "out", "text": "f"})

    def told(since: int) -> list[tuple[int, str]]:
        return [(event["number"], event.get("text", "")) for event in log.watch(since).next(0, 0.0)]

    assert told(0) == [(2, "ab\n"), (3, "!"), (4, "c"), (6, "de"), (7, ""), (8, "f")]
    # Nothing of the log has changed: another watcher begins in the midst of what was joined for this one.
    assert told(1) == [(2, "b\n"), (3, "!"), (4, "c"), (6, "de"), (7, ""), (8, "f")]
    assert told(5) == [(6, "e"), (7, ""), (8, "f")]
    assert log.watch(0).next(0, 0.0)[0] == {
        "event": "output", "number": 2, "time": 1.0, "job": 0, "stream": "out", "text": "ab\n",
    }  # fmt: skip


def test_after_output_more_of_it_waits_a_moment_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog()
    watcher = log.watch(0)
    told: queue.SimpleQueue[list[tuple[str, int]]] = queue.SimpleQueue()

    def read(timeout: float) -> None:
        told.put([(event["event"], event["number"]) for event in watcher.next(timeout, 0.0)])

    def write() -> None:
        log.add("output", 0, 0.0, {"stream": "stdout", "text": "x"})

    monkeypatch.setattr(events, "PAUSE", 3600.0)
    write()
    read(0.0)
    assert told.get(timeout=10) == [("output", 1)]
    thread = threading.Thread(target=read, args=(30.0,))
    thread.start()
    write()
    write()
    with pytest.raises(queue.Empty):
        told.get(timeout=0.1)
    log.add("finished", 0, 0.0)
    thread.join(10)
    assert told.get(timeout=10) == [("output", 3), ("finished", 4)]
    monkeypatch.setattr(events, "PAUSE", 0.01)
    write()
    read(0.0)
    write()
    read(30.0)
    assert [told.get(timeout=10) for _ in range(2)] == [[("output", 5)], [("output", 6)]]


def test_joined_output_has_a_bound() -> None:
    log, half = EventLog(), "x" * (MAX_JOINED // 2)
    for text in (half, half, "y", half, half, 2 * half + "z", "!"):
        log.add("output", 0, 0.0, {"stream": "stdout", "text": text})
    sizes = [len(event["text"]) for event in log.watch(0).next(0, 0.0)]
    assert sizes == [MAX_JOINED, MAX_JOINED // 2 + 1, MAX_JOINED // 2, MAX_JOINED + 1, 1]


def test_a_watcher_is_woken_by_the_next_event_and_by_the_end() -> None:
    log = EventLog()
    watcher = log.watch(None)
    told: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def watch() -> None:
        while not watcher.ended:
            told.put([event["event"] for event in watcher.next(30, 0.0)])

    thread = threading.Thread(target=watch)
    thread.start()
    log.add("started", 0, 0.0)
    assert told.get(timeout=10) == ["started"]
    log.close()
    thread.join(10)
    assert not thread.is_alive()


def test_a_watcher_gives_up_when_its_time_is_over() -> None:
    watcher = EventLog().watch(None)
    assert watcher.next(0.01, 0.0) == []
    assert not watcher.ended


def test_a_watcher_that_falls_behind_hears_which_numbers_it_missed() -> None:
    log = EventLog(max_events=5)
    watcher = log.watch(None)
    for _ in range(12):
        log.add("progress", 0, 0.0)
    assert [(event["event"], event["number"]) for event in watcher.next(0, 0.0)][:2] == [("gap", 7), ("progress", 8)]
    log.add("progress", 0, 0.0)
    assert [event["number"] for event in watcher.next(0, 0.0)] == [13]


@given(st.lists(st.one_of(st.none(), st.integers(0, 30)), max_size=60), st.integers(1, 8))
def test_a_watcher_sees_every_number_once_or_in_a_gap(steps: list[int | None], size: int) -> None:
    """Events come and are read in any order; property."""
    log = EventLog(max_events=size)
    watcher = log.watch(0)
    seen: list[int] = []

    def read() -> None:
        for event in watcher.next(0, 0.0):
            if event["event"] == "gap":
                first, last = event["missed"]
                seen.extend(range(first, last + 1))
            else:
                seen.append(event["number"])

    for step in steps:
        if step is None:
            read()
        else:
            for _ in range(step):
                log.add("progress", 0, 0.0)
    read()
    assert seen == list(range(1, log.last + 1))


def test_many_threads_add_and_no_number_is_given_twice() -> None:
    log = EventLog()

    def add() -> None:
        for _ in range(100):
            log.add("progress", 0, 0.0)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event["number"] for event in log.watch(0).next(0, 0.0)] == list(range(1, 801))


@pytest.mark.parametrize("since", [0, None])
def test_a_closed_log_is_read_to_its_end(since: int | None) -> None:
    log = log_of(2)
    watcher = log.watch(since)
    log.close()
    watcher.next(5, 0.0)
    assert watcher.ended
