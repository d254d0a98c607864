"""The requests of one server, with scripted workers."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.scripted import DONE, Backends
from support.waiting import wait_until

from bgpy.errors import OverloadedError, RefusedError
from bgpy.tasks.requests import requests as driving
from bgpy.tasks.requests.requests import MAX_EVENT_ANSWER, Requests
from bgpy.tasks.workspace.backends import Outcome
from bgpy.tasks.workspace.values import Value
from bgpy.tasks.workspace.workspaces import Workspaces

#: Seconds of a request that a test ends in another way.
LONG = 1000.0
NOTHING = {"stdout": "", "stderr": "", "truncated": False}


class House:
    """Requests with scripted backends, and the answers that came."""

    def __init__(self) -> None:
        self.backends = Backends()
        self.workspaces = Workspaces(make_backend=self.backends.make)
        self.requests = Requests(self.workspaces, max_requests=50, max_jobs=2)
        self.answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def start(self, connid: Any, seconds: float = LONG, script: str | None = None) -> int:
        """Start a request whose answer is to come."""
        number = self.requests.start(connid, seconds, script)
        if not self.requests.when_ended(number, self.answers.put):
            answer = self.requests.recall(number)
            assert answer is not None
            self.answers.put(answer)
        return number

    def answer(self) -> dict[str, Any]:
        return self.answers.get(timeout=10)

    def events(self) -> list[dict[str, Any]]:
        return self.requests.log.read(0, 0.0)[0]

    def wait_for_script(self) -> None:
        wait_until(lambda: bool(self.backends.made))
        assert self.backends.last.waiting.wait(10)

    def close(self) -> None:
        self.requests.close()
        self.workspaces.close()


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.close()


def test_a_request_ends_with_its_time(house: House) -> None:
    house.start("a", 0.01)
    assert house.answer() == {"status": "Ok", "connid": "a"}
    assert house.requests.left() == {}


def test_a_request_that_is_killed_tells_its_starter(house: House) -> None:
    house.start("a")
    house.start("b")
    assert house.requests.kill("a")
    assert house.answer() == {"status": "Killed", "connid": "a"}
    assert not house.requests.kill("a")
    assert list(house.requests.left()) == ["b"]


def test_numbers_go_on_from_the_clock_so_that_no_two_servers_give_the_same(house: House) -> None:
    number = house.start("a")
    other = House()
    try:
        assert other.start("a") > number
    finally:
        other.close()


def test_a_script_that_ends_is_the_end_and_its_value_and_output_are_the_answer(house: House) -> None:
    house.start("a", LONG, "value 7")
    assert house.answer() == {"status": "Ok", "connid": "a", "value": "7", "output": NOTHING}
    house.start("b", LONG, "print hello")
    assert house.answer() == {"status": "Ok", "connid": "b", "value": None, "output": {**NOTHING, "stdout": "hello"}}
    wait_until(lambda: all(backend.closed for backend in house.backends.made))


def test_a_script_that_fails_is_an_error(house: House) -> None:
    house.start("a", LONG, "fail no")
    error = {"type": "ValueError", "message": "no", "traceback": "..."}
    assert house.answer() == {"status": "Error", "connid": "a", "message": "ValueError: no", "error": error, "output": NOTHING}


def test_a_script_whose_worker_dies_is_an_error(house: House) -> None:
    house.start("a", LONG, "die signal SIGSEGV")
    answer = house.answer()
    assert answer["status"] == "Error"
    assert "SIGSEGV" in answer["message"]


def test_a_worker_that_does_not_start_is_an_error(house: House) -> None:
    house.backends.fails = "no memory"
    house.start("a", LONG, "done")
    answer = house.answer()
    assert answer["status"] == "Error"
    assert "no memory" in answer["message"]
    wait_until(lambda: not house.requests._jobs)


def test_a_script_is_interrupted_at_the_end_of_its_time(house: House) -> None:
    house.start("a", 0.05, "wait")
    assert house.answer() == {"status": "Timeout", "connid": "a", "output": NOTHING}
    assert house.backends.last.closed


def test_a_script_that_is_deaf_is_killed_after_the_grace(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "GRACE", 0.05)
    house.start("a", 0.05, "deaf")
    assert house.answer()["status"] == "Timeout"
    assert house.backends.last.closed


def test_a_script_whose_worker_is_not_there_in_time_never_runs(house: House) -> None:
    house.backends.ready = threading.Event()
    number = house.start("a", 0.01, "done")
    wait_until(lambda: house.requests._jobs[number].record is not None)  # it has been taken back
    house.backends.ready.set()
    assert house.answer()["status"] == "Timeout"
    assert house.backends.last.orders == []


def test_a_kill_ends_the_worker_before_it_returns(house: House) -> None:
    house.start("a", LONG, "deaf")
    house.wait_for_script()
    assert house.requests.kill("a")
    assert house.backends.last.closed
    assert house.answer() == {"status": "Killed", "connid": "a", "output": NOTHING}


def test_a_kill_does_not_wait_for_the_grace_of_a_time_that_is_over(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "GRACE", 60.0)
    house.start("a", 0.05, "deaf")
    house.wait_for_script()
    wait_until(lambda: house.requests._table._by_connid["a"].fate is not None)
    assert house.requests.kill("a")
    assert house.answer()["status"] == "Killed"


def test_the_grace_of_one_script_holds_up_no_other_request(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "GRACE", 60.0)
    house.start("a", 0.05, "deaf")
    wait_until(lambda: house.requests._table._by_connid["a"].fate is not None)
    house.start("b", 0.01)
    assert house.answer() == {"status": "Ok", "connid": "b"}
    house.requests.kill("a")


def test_no_more_scripts_run_than_the_limit_says_until_a_worker_has_gone(house: House) -> None:
    for connid in "ab":
        house.start(connid, LONG, "wait")
    with pytest.raises(OverloadedError, match="2 scripts"):
        house.start("c", LONG, "wait")
    house.start("c", LONG)
    assert house.requests.kill("a")
    house.start("d", LONG, "done")


def test_what_cannot_be_started_leaves_nothing_behind(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise RefusedError("The server is ending")

    monkeypatch.setattr(house.workspaces, "create_unlisted", refuse)
    for _ in range(3):  # more than the scripts that may run
        with pytest.raises(RefusedError, match="ending"):
            house.requests.start("a", LONG, "done")
    assert house.requests.left() == {}
    house.start("a")
    assert [event["event"] for event in house.events()] == ["started"]


def test_starts_and_ends_are_events(house: House) -> None:
    first = house.start("a")
    second = house.start(7, 0.01)
    assert house.answer()["connid"] == 7
    house.requests.kill("a")
    house.answer()
    told = [{name: event[name] for name in event if name != "time"} for event in house.events()]
    assert told == [
        {"event": "started", "number": 1, "job": first, "connid": "a", "left": LONG},
        {"event": "started", "number": 2, "job": second, "connid": 7, "left": 0.01},
        {"event": "ended", "number": 3, "job": second, "connid": 7, "answer": {"status": "Ok", "connid": 7}},
        {"event": "ended", "number": 4, "job": first, "connid": "a", "answer": {"status": "Killed", "connid": "a"}},
    ]


def test_a_large_answer_is_not_in_its_event_and_is_recalled(house: House) -> None:
    text = "x" * MAX_EVENT_ANSWER
    number = house.start("a", LONG, f"value {text}")
    assert house.answer()["value"] == text
    assert house.events()[-1]["answer"] is None
    answer = house.requests.recall(number)
    assert answer is not None
    assert answer["value"] == text


def test_whoever_gives_up_waiting_is_not_told(house: House) -> None:
    number = house.requests.start("a", LONG, None)
    heard: list[Any] = []
    then: Callable[[Any], None] = heard.append
    assert house.requests.when_ended(number, then)
    house.requests.take_back(number, then)
    house.requests.take_back(number, then)
    house.requests.kill("a")
    assert heard == []
    assert not house.requests.when_ended(number, then)


def test_the_end_of_the_server_ends_all_requests_and_tells_everybody(house: House) -> None:
    house.start("a")
    house.start("b", LONG, "deaf")
    house.wait_for_script()
    watcher = house.requests.log.watch(None)
    house.requests.shut()
    answers = sorted((house.answer() for _ in range(2)), key=lambda answer: answer["connid"])
    assert answers == [{"status": "Error", "connid": connid, "message": "The server is ending"} for connid in "ab"]
    assert [event["event"] for event in watcher.next(10, 0.0)] == ["ended", "ended"]
    assert watcher.ended
    with pytest.raises(RefusedError, match="ending"):
        house.requests.start("c", LONG, None)
    house.close()
    assert house.backends.last.closed


def test_the_end_of_the_workspaces_is_the_end_of_a_script(house: House) -> None:
    house.start("a", LONG, "deaf")
    house.wait_for_script()
    house.workspaces.shut()
    answer = house.answer()
    assert (answer["status"], answer["message"]) == ("Error", "The server is ending")
    with pytest.raises(RefusedError, match="ending"):
        house.requests.start("b", LONG, "done")


def test_many_requests_take_one_thread(house: House) -> None:
    house.start("first")
    before = threading.active_count()
    for connid in range(49):
        house.start(connid, 0.2 + connid / 1000)
    assert threading.active_count() == before
    for _ in range(49):
        assert house.answer()["status"] == "Ok"


def test_a_kill_and_the_end_of_the_script_are_one_end(house: House) -> None:
    """Whichever comes first: one answer, one event, and the place of the script is free afterwards."""
    for attempt in range(20):
        house.start(attempt, LONG, "wait")
        house.wait_for_script()
        backend = house.backends.last
        killer = threading.Thread(target=house.requests.kill, args=(attempt,))
        killer.start()
        with contextlib.suppress(AssertionError):  # the kill was faster
            backend.end_job(DONE if attempt % 2 else Outcome("done", Value(1, None), None))
        killer.join(10)
        assert house.answer()["status"] in ("Ok", "Killed")
        wait_until(lambda: not house.requests._jobs)
    assert house.answers.empty()
    assert [event["event"] for event in house.events()].count("ended") == 20
