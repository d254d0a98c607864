"""The jobs that wait: their order, and how many and how large they may be."""

from __future__ import annotations

import pytest

from bgpy.errors import OverloadedError
from bgpy.tasks.workspace import line as module
from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.jobs import JobRecord
from bgpy.tasks.workspace.line import Line
from bgpy.tasks.workspace.values import Packed


def script(number: int, text: str = "") -> JobRecord:
    return JobRecord("w", number, "script", text)


def prediction(number: int, *parts: bytes) -> JobRecord:
    return JobRecord("w", number, "predict", "", call=Call("a:Host", "predict", Packed(parts[0], parts[1:])))


def test_jobs_leave_in_the_order_of_their_coming() -> None:
    line = Line("w")
    for number in (3, 4, 5):
        line.admit(script(number))
    line.leave(4)
    line.leave(9)
    assert (line.first, list(line), len(line), 5 in line, 4 in line) == (3, [3, 5], 2, True, False)
    assert [line.take(), line.take()] == [3, 5]
    assert line.first is None


def test_who_joins_later_stands_by_the_number() -> None:
    line = Line("w")
    line.admit(script(7))
    line.join([script(2), script(5)])
    assert list(line) == [2, 5, 7]


def test_no_more_than_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    line = Line("w")
    line.admit(script(0))
    line.admit(script(1))
    with pytest.raises(OverloadedError, match="2 jobs wait in the workspace 'w'"):
        line.admit(script(2))
    line.take()
    line.admit(script(2))


@pytest.mark.parametrize("way_out", ["take", "leave", "clear"])
def test_what_waits_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch, way_out: str) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_SIZE", 100)
    line = Line("w")
    line.admit(prediction(0, b"p" * 20, b"b" * 30, b"c" * 10))
    line.admit(script(1, "x" * 40))
    with pytest.raises(OverloadedError, match="100 bytes of jobs wait"):
        line.admit(script(2, "x"))
    line.admit(script(2, ""))
    {"take": line.take, "leave": lambda: line.leave(0), "clear": line.clear}[way_out]()
    line.admit(prediction(3, b"p" * 60))


def test_one_job_may_be_larger_than_that_when_nothing_else_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_SIZE", 100)
    line = Line("w")
    line.admit(prediction(0, b"p" * 1000))
    with pytest.raises(OverloadedError):
        line.admit(script(1, "x"))
