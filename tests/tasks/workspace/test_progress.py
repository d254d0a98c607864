from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bgpy.tasks.workspace import progress as progress_of_package
from bgpy.tasks.workspace.progress import INTERVAL, SINK, Sink, progress

MODULE = sys.modules["bgpy.tasks.workspace.progress"]


@pytest.fixture
def sent() -> Iterator[list[tuple[Any, ...]]]:
    """Run as in a job; return what it sends."""
    events: list[tuple[Any, ...]] = []
    SINK.set(Sink(lambda event, details: events.append(tuple(details.values()))))
    yield events
    SINK.set(None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still."""
    hands = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(MODULE, "time", SimpleNamespace(monotonic=lambda: hands.now))
    return hands


def test_the_name_in_the_package_is_the_function() -> None:
    assert progress_of_package is progress


def test_outside_of_a_job_it_only_yields() -> None:
    assert list(progress([1, 2, 3])) == [1, 2, 3]


def test_events_are_throttled_and_the_last_one_is_sent(sent: list[tuple[Any, ...]], clock: SimpleNamespace) -> None:
    assert list(progress(range(1000), "rows")) == list(range(1000))
    assert sent == [("rows", 0, 1000), ("rows", 1000, 1000)]


def test_the_name_may_be_called_as_tqdm_calls_it(sent: list[tuple[Any, ...]], clock: SimpleNamespace) -> None:
    assert list(progress([1], desc="rows", total=1)) == [1]
    assert sent == [("rows", 0, 1), ("rows", 1, 1)]


def test_events_come_in_intervals(sent: list[tuple[Any, ...]], clock: SimpleNamespace) -> None:
    for _ in progress(range(4)):
        clock.now += INTERVAL * 0.51
    assert sent == [("", 0, 4), ("", 2, 4), ("", 4, 4)]


def test_a_loop_that_is_left_early_tells_how_far_it_came(sent: list[tuple[Any, ...]], clock: SimpleNamespace) -> None:
    for item in progress(range(10)):
        if item == 3:
            break
    assert sent == [("", 0, 10), ("", 3, 10)]


def test_an_unknown_length_is_none_and_may_be_given(sent: list[tuple[Any, ...]], clock: SimpleNamespace) -> None:
    list(progress(iter("ab")))
    list(progress(iter("ab"), total=2))
    assert sent == [("", 0, None), ("", 2, None), ("", 0, 2), ("", 2, 2)]


def test_nothing_to_do_is_told_too(sent: list[tuple[Any, ...]], clock: SimpleNamespace) -> None:
    assert list(progress([])) == []
    assert sent == [("", 0, 0)]


def test_code_of_a_namespace_is_found_in_a_thread_without_its_context() -> None:
    namespaces: list[dict[str, Any]] = [{"progress": progress}, {"progress": progress}]
    told: list[list[str]] = [[], []]
    for namespace, names in zip(namespaces, told, strict=True):
        exec("def run(name): return list(progress([1], name))", namespace)
        SINK.add(namespace, Sink(lambda event, details, names=names: names.append(details["name"])))  # type: ignore[misc]

    def run_both() -> None:
        for namespace, name in zip(namespaces, "ab", strict=True):
            assert list(map(namespace["run"], [name])) == [[1]]

    thread = threading.Thread(target=run_both)
    thread.start()
    thread.join()
    assert told == [["a", "a"], ["b", "b"]]
    SINK.remove(namespaces[0])
    SINK.remove(namespaces[0])
    run_both()
    assert told == [["a", "a"], ["b", "b", "b", "b"]]
    SINK.remove(namespaces[1])
