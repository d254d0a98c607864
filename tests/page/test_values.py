"""Values of workspaces and runs on the page: paged, with statistics, what is missing, and figures where people look for them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from support.browsing import Served, Visit, expect

if TYPE_CHECKING:
    from playwright.sync_api import Locator

VALUES = """
import numpy as np
import pandas as pd
rows = pd.DataFrame({'n': range(5000), 'half': np.arange(5000) / 2, 'city': ['Bonn', 'Trier'] * 2500})
rows.loc[1, 'half'] = np.nan
rows.loc[2, 'half'] = np.inf
rows.loc[3, 'city'] = None
rows['day'] = pd.date_range('2020-01-01', periods=5000)
rows.loc[4, 'day'] = pd.NaT
hole = float('nan')
answer = 42
holes = [0.5, hole, None]
numbers = {'one': 1, 'more': [2, 3]}
text = ',b\\n1,2\\n'
"""
#: Results with holes, and how they are shown.
HOLES = {
    "[1.0, hole, 2]": "[1, NaN, 2]",
    "[1, None]": "[1, None]",
    "np.array([0.5, np.inf])": "[0.5, inf]",
    "{'a': [None, hole], 'b': True}": "a\n[NaN or None, NaN or None]\nb\nTrue",
    "[[True, hole]]": "Row\n 0 1\n0 True NaN",
    "np.array([[1.5, hole], [2.5, 3.5]])": "Row\n 0 1\n0 1.5 NaN\n1 2.5 3.5",
}
FIGURE = "import matplotlib.pyplot as plt\nfigure = plt.figure(figsize=(2, 1))\nplt.plot([1, 2])\nplt.show()"


@pytest.fixture(scope="module")
def lab(served: Served) -> str:
    """Return a workspace that has values of many kinds, and jobs whose results are some of them."""
    served.ask("create_workspace", name="lab")
    results = ("hole", "list(range(10**6))", "b'ab'", "None", *HOLES)
    for code in (VALUES, "rows.head(5)", "text", FIGURE, "figure", *results):
        served.ask("push_job", name="lab", type="script", job=code, timeout=60, variables=False)
    return "lab"


def cells(place: Locator, row: int) -> list[str]:
    return place.locator("tbody tr").nth(row).locator("th, td").all_inner_texts()


def test_variables_are_listed_with_what_they_are_paged_and_counted_up(visit: Visit, lab: str) -> None:
    asked: list[Any] = []
    visit.page.on("request", lambda request: request.url.endswith("get_value") and asked.append(request.post_data_json))
    page = visit.go(f"#workspaces/{lab}")
    listed = page.get_by_role("region", name="Variables")
    expect(listed.get_by_role("button", name=re.compile("^rows DataFrame, 5,000 . 4"))).to_be_visible()
    expect(listed.get_by_role("button", name="answer 42")).to_be_visible()
    expect(listed.get_by_role("button", name="hole NaN or infinite")).to_be_visible()
    expect(listed.get_by_role("button", name="holes [0.5, null, null]")).to_be_visible()
    expect(listed.get_by_role("button", name='numbers {"one": 1')).to_be_visible()
    listed.get_by_role("button", name="rows").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text(re.compile("Rows 1.25 of 5,000")).wait_for()
    assert dialog.locator("thead th").all_inner_texts()[1:3] == ["n\nint64", "half\nfloat64"]
    assert cells(dialog, 1) == ["1", "1", "NaN", "Trier", "2020-01-02T00:00:00"]
    assert cells(dialog, 3)[3] == "\N{EN DASH}"
    assert cells(dialog, 4)[4] == "NaT"
    dialog.get_by_text("NaN stands for infinite numbers, too").wait_for()
    dialog.get_by_role("button", name="Last").click()
    dialog.get_by_text(re.compile("Rows 4,976.5,000 of 5,000")).wait_for()
    assert cells(dialog, 24)[:3] == ["4999", "4999", "2499.5"]
    assert asked == [{"name": lab, "variable": "rows"}, {"name": lab, "variable": "rows", "window": [4975, 5000]}]
    visit.shoot("variable")
    dialog.get_by_role("button", name="Statistics").click()
    dialog.get_by_text("5,000 rows, 4 columns.").wait_for()
    expect(dialog.get_by_role("img", name=re.compile("^Histogram of n: "))).to_be_visible()
    expect(dialog.get_by_role("article", name="Column half")).to_contain_text("Infinite")
    page.keyboard.press("Escape")


def test_what_cannot_be_read_any_more_is_said_in_the_dialog(visit: Visit, lab: str, served: Served) -> None:
    served.ask("push_job", name=lab, type="script", job="passing = list(range(5000))", timeout=20)
    page = visit.go(f"#workspaces/{lab}")
    page.get_by_role("button", name="passing").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text(re.compile("Rows 1.25 of 5,000")).wait_for()
    served.ask("push_job", name=lab, type="script", job="del passing", timeout=20)
    dialog.get_by_role("button", name="Last").click()
    expect(dialog.get_by_role("alert")).to_contain_text("passing")
    page.evaluate("() => { location.hash = '#server'; }")
    page.get_by_role("heading", name="Server").wait_for()
    expect(dialog).to_have_count(0)


def test_a_result_is_shown_as_what_it_is_and_not_as_what_its_text_looks_like(visit: Visit, lab: str) -> None:
    page = visit.go(f"#workspaces/{lab}")
    table, text, shown, figure = (page.get_by_role("article", name=f"Job {n}", exact=True) for n in (1, 2, 3, 4))
    expect(table.locator("tbody tr")).to_have_count(5)
    assert cells(table, 1)[:4] == ["1", "1", "NaN", "Trier"]
    expect(text.locator("pre.value")).to_have_text(",b\n1,2\n")
    expect(text.locator("table")).to_have_count(0)
    for job in (shown, figure):
        job.get_by_role("img", name="Figure").and_(page.locator("[data-ready]")).wait_for()


def test_a_result_that_cannot_be_shown_as_it_is_says_why(visit: Visit, lab: str) -> None:
    page = visit.go(f"#workspaces/{lab}")
    hole, rows, octets, none = (page.get_by_role("article", name=f"Job {n}", exact=True).locator(".result") for n in (5, 6, 7, 8))
    expect(hole).to_have_text("ResultNaN")
    expect(rows).to_have_text(re.compile("^Resultlist, 1,000,000 Too large to be shown whole.*Keep it in a variable"))
    expect(octets).to_have_text("ResultYWI=These are bytes, in base64.")
    expect(none).to_be_empty()


def test_a_result_says_what_is_missing_in_it(visit: Visit, lab: str) -> None:
    page = visit.go(f"#workspaces/{lab}")
    for number, shown in enumerate(HOLES.values(), 9):
        result = page.get_by_role("article", name=f"Job {number}", exact=True).locator(".result")
        expect(result).to_be_visible()
        text = result.inner_text().removeprefix("Result\n").replace("\t", " ").replace(" \n", "\n").strip()
        assert text == shown
    page.get_by_role("button", name="holes").click()
    expect(page.get_by_role("dialog").locator("code.value")).to_have_text("[0.5, NaN or None, NaN or None]")


def test_runs_say_how_many_values_they_left_and_what_the_plain_ones_are(visit: Visit, served: Served) -> None:
    python = {"number": 1, "files": [{"filename": "few.py", "content": "rate = 0.5\nhole = float('nan')\nrows = [1, 2]"}]}
    session = served.ask("run", python={**python, "mainfile": "few.py"})["sessionId"]
    served.ask("run_status", sessionId=session, timeout=25)
    page = visit.go(f"#runs/{session}")
    placeholders = page.get_by_role("region", name="Placeholders").get_by_role("listitem")
    expect(placeholders.filter(has_text="rate")).to_have_text("rate0.5")
    expect(placeholders.filter(has_text="hole")).to_have_text("holeNaN or infinite")
    expect(placeholders.filter(has_text="rows")).to_have_text("rowslist, 2")
    expect(page.get_by_role("link", name=re.compile("few.py"))).to_contain_text("3 values")


def test_who_interrupts_a_job_sees_no_failure(visit: Visit, served: Served) -> None:
    served.ask("create_workspace", name="calm")
    page = visit.go("#workspaces/calm")
    page.get_by_role("textbox", name="Python code").click()
    page.keyboard.type("import threading\nprint('has begun', flush=True)\nthreading.Event().wait(60)\nthr")
    page.locator(".cm-tooltip-autocomplete").wait_for()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".cm-tooltip-autocomplete")).to_have_count(0)
    card = page.get_by_role("article", name="Job 0", exact=True)
    card.get_by_text("has begun", exact=True).wait_for()
    page.get_by_role("button", name="Interrupt").click()
    expect(card.locator(".chip")).to_have_text("interrupted")
    expect(card.locator(".chip")).to_have_class("chip idle")
    link = page.get_by_role("link", name=re.compile("^calm"))
    expect(link.locator(".chip")).to_have_text("interrupted")
    expect(link.locator(".chip")).to_have_class("chip idle")
    page.get_by_role("textbox", name="Python code").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text("threading.Event().wait(60)")
    page.keyboard.press("Control+Enter")
    page.get_by_role("article", name="Job 1", exact=True).get_by_text("running").wait_for()
    page.keyboard.press("Control+Enter")
    cancelled = page.get_by_role("article", name="Job 2", exact=True)
    cancelled.get_by_role("button", name="Cancel").click()
    expect(cancelled.locator(".chip")).to_have_text("cancelled")
    page.get_by_role("button", name="Interrupt").click()
    colour = "element => getComputedStyle(element).borderTopColor"
    for calm in (card, cancelled):
        assert calm.evaluate(colour) == page.get_by_role("region", name="Code").evaluate(colour)
        edge = calm.locator(".failure").evaluate("element => getComputedStyle(element).borderLeftColor")
        assert edge == page.locator(".editor").evaluate(colour)  # and not that of errors
