"""What ``plt.show()`` on the last line of a job comes to, where no window can open."""

from __future__ import annotations

import builtins
import sys
from types import ModuleType
from typing import Any

import pytest

from bgpy.tasks.workspace.backends import Order
from bgpy.tasks.workspace.interpreter import Interpreter


class Pyplot(ModuleType):
    """As much of it as is asked for: figures by their numbers, and whether they are shown by a window."""

    def __init__(self) -> None:
        super().__init__("matplotlib.pyplot")
        self.figures: list[str] = []
        self.backend = "agg"

    def get_fignums(self) -> list[int]:
        return list(range(len(self.figures)))

    def get_backend(self) -> str:
        return self.backend

    def gcf(self) -> str:
        return self.figures[-1]

    def close(self, figure: str) -> None:
        self.figures.remove(figure)

    def show(self, block: bool = True) -> None:
        """Show nothing, as Agg does."""


class Desk:
    """Run jobs in a process that is their own, as far as they can see."""

    def __init__(self, *, own_process: bool = True) -> None:
        self.plt = Pyplot()
        self.interpreter = Interpreter(own_process=own_process)

    def value(self, text: str) -> Any:
        self.interpreter.write("plt", self.plt)
        outcome = self.interpreter.run(Order(0, "script", text, False))
        assert outcome.error is None, outcome.error
        assert "<shown>" not in self.interpreter.namespace
        return None if outcome.value is None else outcome.value.json


@pytest.fixture(autouse=True)
def _leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(builtins, "input", builtins.input)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    desk = Desk()
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", desk.plt)
    return desk


@pytest.mark.parametrize("last", ["plt.show()", "plt.show(block=False)"])
def test_the_figure_that_is_shown_last_is_the_value_and_the_next_job_begins_another(desk: Desk, last: str) -> None:
    assert desk.value(f"plt.figures.append('one')\n{last}") == "one"
    assert desk.plt.figures == []
    assert desk.value(f"plt.figures.extend(['one', 'two'])\n{last}") == "two"


def test_without_a_figure_and_where_a_window_shows_it_there_is_no_value(desk: Desk) -> None:
    assert desk.value("plt.show()") is None
    desk.plt.backend = "TkAgg"
    assert desk.value("plt.figures.append('one')\nplt.show()") is None
    assert desk.plt.figures == ["one"]


def test_what_others_show_is_what_it_was(desk: Desk) -> None:
    desk.plt.figures.append("one")
    code = "class Other:\n    def show(self): return value\nother, value = Other(), "
    assert desk.value(f"{code} 7\nother.show()") == 7
    assert desk.value(f"{code} None\nother.show()") is None
    assert desk.value("plt.show()\nNone") is None


def test_in_a_shared_process_the_figure_may_be_that_of_another_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Desk(own_process=False)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", shared.plt)
    assert shared.value("plt.figures.append('one')\nplt.show()") is None
    shared.interpreter.close()
