"""save_placeholder: what it keeps, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from bgpy.errors import RefusedError
from bgpy.tasks import runtime
from bgpy.tasks.runtime.saving import MAX_NAME, MAX_SAVED, RUN, Saved, is_name, save_placeholder
from bgpy.tasks.workspace.progress import SINK, Sink


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a run tells."""
    told: list[Any] = []
    monkeypatch.setattr(SINK, "of_process", Sink(lambda event, details: told.append((event, details["name"]))))
    return told


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch, told: list[Any]) -> Saved:
    """What a run saves."""
    monkeypatch.setattr(RUN, "saved", Saved())
    assert RUN.saved is not None
    return RUN.saved


def test_it_is_offered_where_the_code_of_runs_looks_for_it() -> None:
    assert runtime.save_placeholder is save_placeholder


def test_a_value_is_kept_and_told_of_once(saved: Saved, told: list[Any]) -> None:
    value = [1]
    save_placeholder("message", value)
    value.append(2)
    save_placeholder("any name", None)
    assert saved.values() == {"message": [1, 2], "any name": None}
    assert saved.values()["message"] is value
    save_placeholder("message", "new")
    assert saved.values() == {"message": "new", "any name": None}
    assert told == [("saved", "message"), ("saved", "any name")]


def test_a_name_is_a_plain_text_whatever_its_class(saved: Saved) -> None:
    class Text(str):
        pass

    save_placeholder(Text("x"), 1)
    assert [type(name) for name in saved.values()] == [str]


def test_outside_of_a_run_nothing_is_kept() -> None:
    assert RUN.saved is None
    save_placeholder("x", 1)


@pytest.mark.parametrize("name", ["", "x" * (MAX_NAME + 1), None, 5, b"x", "\ud800", "é\udcff" * 9])
def test_what_is_no_name_is_refused_in_and_outside_of_a_run(saved: Saved, name: Any) -> None:
    with pytest.raises(RefusedError, match="The name of a placeholder is a text") as caught:
        save_placeholder(name, 1)
    assert (caught.value.field, saved.values()) == ("name", {})
    assert str(caught.value).encode()
    RUN.saved = None
    with pytest.raises(RefusedError):
        save_placeholder(name, 1)


def test_names_are_limited_values_are_not(saved: Saved, told: list[Any]) -> None:
    for number in range(MAX_SAVED):
        save_placeholder(str(number), number)
    with pytest.raises(RefusedError, match="no room for 'one more'"):
        save_placeholder("one more", 1)
    save_placeholder("0", "new")
    assert len(saved.values()) == len(told) == MAX_SAVED
    assert saved.values()["0"] == "new"


def test_names_that_utf_8_can_carry_are_names() -> None:
    assert all(map(is_name, ("x", "Größe", "two words", "\x00", "𝄞", "x" * MAX_NAME)))
