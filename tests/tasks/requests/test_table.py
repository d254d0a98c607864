"""The table of requests, without threads and without a clock."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bgpy.errors import OverloadedError, RefusedError
from bgpy.tasks.requests import table as tables
from bgpy.tasks.requests.commands import MAX_CONNID, MAX_TIME
from bgpy.tasks.requests.table import Fate, Running, Table, size_of

OK = {"status": "Ok"}
#: The number of the first request.
FIRST = 100


@pytest.fixture
def table() -> Table:
    return Table(FIRST, max_requests=3, max_jobs=1)


def begin(table: Table, connid: Any, seconds: float = 10.0, has_job: bool = False, now: float = 0.0) -> Running:
    """Start a request and let its time run."""
    request = table.start(connid, seconds, has_job)
    return table.begin(request.number, now + seconds)


def test_a_request_is_numbered_and_runs_until_its_end(table: Table) -> None:
    request = begin(table, "a", 10.0, now=5.0)
    assert (request.number, request.connid, request.ends) == (FIRST, "a", 15.0)
    assert FIRST in table
    assert table.recall(FIRST) is None
    assert table.end(FIRST, OK) == {"status": "Ok", "connid": "a"}
    assert FIRST not in table
    assert table.recall(FIRST) == {"status": "Ok", "connid": "a"}
    assert begin(table, "a").number == FIRST + 1


def test_a_request_ends_once(table: Table) -> None:
    begin(table, "a")
    assert table.end(FIRST, OK) is not None
    assert table.end(FIRST, {"status": "Error"}) is None
    assert table.recall(FIRST) == {"status": "Ok", "connid": "a"}


def test_the_seconds_that_are_left_are_never_negative(table: Table) -> None:
    begin(table, "a", 10.0)
    begin(table, 7, 2.5)
    assert table.left(0.25) == {"a": 9.75, "7": 2.25}
    assert table.left(5.0) == {"a": 5.0, "7": 0.0}


def test_a_request_that_is_made_ready_has_its_connection_id_but_is_not_seen(table: Table) -> None:
    request = table.start("a", 10.0, True)
    assert table.left(0.0) == {}
    assert table.kill("a") is None
    with pytest.raises(RefusedError, match="runs already"):
        table.start("a", 1.0, False)
    table.drop(request.number)
    table.drop(request.number)
    assert begin(table, "a").number == FIRST + 1


@pytest.mark.parametrize("seconds", [0, -1, -0.0, math.nan, math.inf, -math.inf, 1e300, MAX_TIME + 1, 10**400])
def test_a_time_that_is_no_positive_number_is_refused(table: Table, seconds: float) -> None:
    with pytest.raises(RefusedError, match="'time'") as refused:
        table.start("a", seconds, False)
    assert refused.value.field == "time"
    assert table.numbers() == []


@pytest.mark.parametrize("seconds", [5e-324, 1, MAX_TIME])
def test_a_time_at_the_limits_is_taken(table: Table, seconds: float) -> None:
    assert table.start("a", seconds, False).number == FIRST


@pytest.mark.parametrize(
    "connid", ["", "x" * (MAX_CONNID + 1), 10**MAX_CONNID, -(10**MAX_CONNID), pytest.param(10**5000, id="large")]
)
def test_a_connection_id_of_no_or_many_characters_is_refused(table: Table, connid: Any) -> None:
    for use in (lambda: table.start(connid, 1, False), lambda: table.kill(connid)):
        with pytest.raises(RefusedError, match="connection id") as refused:
            use()
        assert refused.value.field == "connid"


@pytest.mark.parametrize("connid", ["x" * MAX_CONNID, 10**MAX_CONNID - 1, 0, -1, "ä \0"])
def test_any_other_connection_id_is_taken_and_given_back(table: Table, connid: Any) -> None:
    begin(table, connid)
    assert table.end(FIRST, OK) == {"status": "Ok", "connid": connid}


@pytest.mark.parametrize(("connid", "again"), [(7, "7"), ("7", 7), (7.0, 7), ("a", "a")])
def test_a_connection_id_that_runs_is_refused_as_text_or_number(table: Table, connid: Any, again: Any) -> None:
    begin(table, connid)
    with pytest.raises(RefusedError, match="runs already") as refused:
        table.start(again, 1, False)
    assert refused.value.field == "connid"
    assert table.kill(again) is not None


def test_no_more_requests_and_scripts_run_than_the_limits_say(table: Table) -> None:
    begin(table, 1, has_job=True)
    with pytest.raises(OverloadedError, match="1 scripts"):
        table.start(2, 1, True)
    begin(table, 2)
    begin(table, 3)
    with pytest.raises(OverloadedError, match="3 requests"):
        table.start(4, 1, False)
    table.end(FIRST, OK)
    with pytest.raises(OverloadedError, match="1 scripts"):  # its process is there still
        table.start(1, 1, True)
    table.job_gone()
    table.start(1, 1, True)


def test_a_kill_is_the_answer_whatever_the_end_says(table: Table) -> None:
    begin(table, "a", has_job=True)
    request = table.kill("a")
    assert request is not None
    assert request.fate is Fate.KILLED
    assert table.kill("a") is None
    assert table.time_out(FIRST) is None
    assert table.end(FIRST, OK) is None  # that is for whoever kills it
    answer = table.end(FIRST, {**OK, "value": 1, "output": {"stdout": "x"}}, stopped=True)
    assert answer == {"status": "Killed", "connid": "a", "output": {"stdout": "x"}}


def test_the_end_of_the_time_stops_a_script_and_a_kill_comes_before_it(table: Table) -> None:
    begin(table, "a", has_job=True)
    request = table.time_out(FIRST)
    assert request is not None
    assert request.fate is Fate.TIMEOUT
    assert table.time_out(FIRST) is None
    assert table.kill("a") is request
    assert table.end(FIRST, OK, stopped=True) == {"status": "Killed", "connid": "a"}


def test_the_end_of_the_time_of_a_request_without_a_script_is_its_end(table: Table) -> None:
    begin(table, "a")
    request = table.time_out(FIRST)
    assert request is not None
    assert request.fate is None
    assert table.end(FIRST, OK) == {"status": "Ok", "connid": "a"}
    assert table.time_out(FIRST) is None


def test_nothing_is_killed_that_does_not_run(table: Table) -> None:
    assert table.kill("a") is None
    begin(table, "a")
    table.end(FIRST, OK)
    assert table.kill("a") is None


def test_what_is_not_known_is_not_recalled(table: Table) -> None:
    begin(table, "a")
    for number in (0, FIRST - 1, FIRST + 1):
        with pytest.raises(RefusedError, match="was never given"):
            table.recall(number)


def test_ends_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ENDS", 2)
    table = Table(FIRST)
    for connid in range(3):
        table.end(begin(table, connid).number, OK)
    with pytest.raises(RefusedError, match="no longer known"):
        table.recall(FIRST)
    assert [table.recall(FIRST + number) for number in (1, 2)] == [{**OK, "connid": connid} for connid in (1, 2)]


def test_ends_are_remembered_up_to_a_size_but_the_last_one_always(monkeypatch: pytest.MonkeyPatch) -> None:
    small = size_of({**OK, "connid": 0})
    monkeypatch.setattr(tables, "MAX_ENDS_SIZE", 2 * small)
    table = Table(FIRST)
    for connid in range(3):
        table.end(begin(table, connid).number, OK)
    with pytest.raises(RefusedError, match="no longer known"):
        table.recall(FIRST)
    assert table.recall(FIRST + 1) is not None
    large = begin(table, 3).number
    table.end(large, {**OK, "value": "x" * 1000})
    assert table.recall(large) == {**OK, "connid": 3, "value": "x" * 1000}
    with pytest.raises(RefusedError, match="no longer known"):
        table.recall(large - 1)


@pytest.mark.parametrize("connid", ["id", "status"])
def test_what_an_answer_has_beside_the_connection_ids_is_none(table: Table, connid: str) -> None:
    with pytest.raises(RefusedError, match=f"'{connid}' would be mistaken") as refused:
        table.start(connid, 1.0, False)
    assert refused.value.field == "connid"
    assert table.kill(connid) is None
