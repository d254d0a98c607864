"""The page in Firefox: what a person does first. All else about it is tested in Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browsing import TOKEN, Served, serving
from support.firefox import CONTROL, ENTER, Tab, find_firefox, running_firefox

VALUES = """\
import matplotlib.pyplot as plt
import pandas as pd

figure, axes = plt.subplots(figsize=(5, 2))
table = pd.DataFrame({"city": ["Bonn", "Trier"], "people": [330, 110]})
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    find_firefox()
    with serving(tmp_path_factory.mktemp("serve") / "home") as running:
        yield running


@pytest.fixture
def tab(served: Served, tmp_path: Path) -> Iterator[Tab]:
    with running_firefox(tmp_path / "profile", served) as running:
        yield running


def test_a_person_logs_in_writes_code_and_sees_output_tables_and_pictures(tab: Tab, served: Served) -> None:
    assert int(re.match(r"\d+", tab.version)[0]) >= 115  # type: ignore[index]
    tab.go()
    tab.click(tab.find("#token"))
    tab.type(TOKEN + ENTER)
    tab.find("h1", "Workspaces")

    served.ask("create_workspace", name="lab")
    tab.go("#workspaces/lab")
    tab.find("h1", "lab")
    tab.click(tab.find("[aria-label='Python code'], .editor"))
    tab.type("print(6 * 7)")
    tab.type(ENTER, held=CONTROL)
    tab.find("article .output", "42")

    served.ask("push_job", name="lab", job=VALUES + "figure", type="script", timeout=20, variables=False)
    tab.find("article canvas")
    served.ask("push_job", name="lab", job="table", type="script", timeout=20, variables=False)
    tab.find("article tbody td", "Trier")
    tab.go("#server")
    tab.find("main .uplot canvas")
