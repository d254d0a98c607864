"""docs/workspaces.rst says what the code does: states, transitions, abilities, limits. Its examples run in test_docs_examples."""

from __future__ import annotations

import importlib
import re

from support.pages import ROOT

from bgpy.tasks.workspace.backends import Abilities
from bgpy.tasks.workspace.backends.process import ProcessBackend
from bgpy.tasks.workspace.backends.ray import RayBackend
from bgpy.tasks.workspace.backends.thread import ThreadBackend
from bgpy.tasks.workspace.jobs import TRANSITIONS, JobState

PAGE = (ROOT / "docs" / "workspaces.rst").read_text(encoding="utf-8")
UNITS = {"": 1, "s": 1, "MiB": 1 << 20, "GiB": 1 << 30}
ABILITIES = {
    "end a job at once, with all that it started": "kill",
    "interrupt a job in a wait, or C code that lets it": "interrupt",
    "take the output of C code and of child processes": "capture",
    "have a ``__main__`` of its own": "own_main",
    "limit its memory (``memory_limit``, not on macOS)": "memory_limit",
    "go on while no server is there": "survive",
}


def table(head: str) -> list[list[str]]:
    """Return the rows below the head of a table that begins with a word; lines that go on are joined."""
    match = re.search(rf"^=+[= ]*\n{head} .*\n=+[= ]*\n((?:.+\n)+?)=+[= ]*\n", PAGE, re.MULTILINE)
    assert match is not None, f"docs/workspaces.rst has no table {head}"
    rows: list[list[str]] = []
    for line in match[1].splitlines():
        if line.startswith(" "):
            rows[-1][-1] += f" {line.strip()}"
        else:
            rows.append(re.split(r"  +", line.rstrip()))
    return rows


def test_every_state_is_on_the_page() -> None:
    assert [row[0] for row in table("State")] == [state.value for state in JobState]


def test_the_transitions_are_those_of_the_code() -> None:
    on_the_page = {(state, *step.split(": ")) for state, steps in table("From") for step in steps.split(", ")}
    assert on_the_page == {(state.value, event.value, after.value) for (state, event), after in TRANSITIONS.items()}


def test_the_abilities_are_those_of_the_code() -> None:
    rows = table("What it can do")
    assert {ABILITIES[row[0]] for row in rows} == set(Abilities._fields)
    for what, process, thread, ray in rows:
        field = ABILITIES[what]
        assert ray == ("yes" if getattr(RayBackend.abilities, field) else "no"), what
        assert process == ("yes" if getattr(ProcessBackend.abilities, field) else "no"), what
        assert thread == ("yes" if getattr(ThreadBackend.abilities, field) else "no"), what


def test_the_limits_are_those_of_the_code() -> None:
    rows = table("What  ")
    assert len(rows) == 8
    for _, value, name in rows:
        number, _, unit = value.partition(" ")
        module, _, constant = name.strip("`").rpartition(".")
        assert int(number.replace(",", "")) * UNITS[unit] == getattr(importlib.import_module(module), constant), name
