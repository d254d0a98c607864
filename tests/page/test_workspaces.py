"""Workspaces on the page: code, output, values, and what can be done to a job."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from support.browsing import Served, Visit, expect, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, WebSocketRoute

#: Prints, and waits until the test makes the file of that name.
WAITS = """
import pathlib, threading
print('has begun', flush=True)
while not pathlib.Path({gate!r}).exists():
    threading.Event().wait(0.01)
print('goes on')
"""
STEPS = """
import pathlib, threading
from bgpy.tasks.workspace import progress
for n in progress(range(4), 'steps'):
    print('step', n, flush=True)
    while n == 2 and not pathlib.Path({gate!r}).exists():
        threading.Event().wait(0.01)
"""
TABLE = "import pandas as pd\npd.DataFrame({'length': [n / 2 for n in range(60)], 'kind': ['a, b'] * 60})"
NAMED = "named = pd.DataFrame({'city': ['x'] * 60, 'people': range(60), 'area': range(60)}).set_index('city')"
FIGURE = """\
import matplotlib.pyplot as plt
from bgpy.tasks.workspace import progress

heights = [n ** 2 for n in progress(range(20), "points")]
print(len(heights), "points")
figure, axes = plt.subplots(figsize=(5, 2))
axes.plot(heights)
figure"""
ENDLESS = "import threading\nprint('forever', flush=True)\nwhile True: threading.Event().wait(0.05)"


def write(page: Page, code: str) -> None:
    """Put code into the editor in place of what is there."""
    page.get_by_role("textbox", name="Python code").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(code)


def run(page: Page, code: str) -> None:
    write(page, code)
    page.keyboard.press("Control+Enter")


def job(page: Page, number: int) -> Locator:
    """Return the card of a job."""
    return page.get_by_role("article", name=f"Job {number}", exact=True)


def wait_for_state(page: Page, number: int, state: str) -> Locator:
    card = job(page, number)
    card.locator(".chip", has_text=re.compile(f"^{state}$")).wait_for()
    return card


def expect_output(card: Locator, text: str) -> None:
    """Wait until a job's output is exactly that."""
    expect(card.get_by_label("Output")).to_have_js_property("textContent", text)


@pytest.fixture
def name(served: Served, request: pytest.FixtureRequest) -> str:
    """Return the name of a workspace of the test's own."""
    made: str = served.ask("create_workspace", name=request.node.name.removeprefix("test_")[:60])
    return made


def test_a_person_makes_a_workspace_writes_code_and_sees_what_it_did(visit: Visit) -> None:
    page = visit.go()
    page.get_by_role("button", name=re.compile("Create a workspace|New workspace")).first.click()
    page.get_by_role("dialog").get_by_label("Name").fill("first steps")
    page.get_by_role("button", name="Create", exact=True).click()
    page.get_by_role("heading", name="first steps").wait_for()
    page.get_by_text("No job yet").wait_for()
    run(page, "x = 20\nprint('this is', x)\n2 * x + 2")
    card = wait_for_state(page, 0, "done")
    expect_output(card, "this is 20\n")
    expect(card.locator(".result code")).to_have_text("42")
    variable = page.get_by_role("button", name="x 20")
    variable.wait_for()
    expect(page.locator(".cm-content span", has_text="'this is'")).to_have_count(1)  # highlighted

    page.reload()
    expect_output(wait_for_state(page, 0, "done"), "this is 20\n")
    expect(page.get_by_role("textbox", name="Python code")).to_contain_text("2 * x + 2")


def test_output_and_progress_come_while_the_job_runs_also_in_a_tab_that_is_opened_later(
    browser: Browser, served: Served, visit: Visit, name: str, tmp_path: Any
) -> None:
    gate = tmp_path / "gate"
    page = visit.go(f"#workspaces/{name}")
    run(page, STEPS.format(gate=str(gate)))
    with visiting(browser, served) as later:
        for one in (page, later.go(f"#workspaces/{name}")):
            card = wait_for_state(one, 0, "running")
            card.get_by_text("step 2").wait_for()
            expect_output(card, "step 0\nstep 1\nstep 2\n")
            assert card.get_by_role("progressbar", name="steps").get_attribute("max") == "4"
        gate.touch()
        for one in (page, later.page):
            card = wait_for_state(one, 0, "done")
            card.get_by_text("4 / 4").wait_for()
            expect_output(card, "step 0\nstep 1\nstep 2\nstep 3\n")


def test_a_lost_connection_is_made_again_and_nothing_is_missing_or_twice(visit: Visit, name: str, tmp_path: Any) -> None:
    sockets: list[WebSocketRoute] = []

    def keep(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        socket.connect_to_server()

    visit.page.route_web_socket(re.compile("/watch$"), keep)
    gate = tmp_path / "gate"
    page = visit.go(f"#workspaces/{name}")
    run(page, WAITS.format(gate=str(gate)))
    card = wait_for_state(page, 0, "running")
    card.get_by_label("Output").get_by_text("has begun").wait_for()
    sockets[0].close(code=1001)
    page.get_by_text("No connection. Trying again").wait_for()
    gate.touch()
    wait_for_state(page, 0, "done")
    assert len(sockets) > 1
    expect_output(card, "has begun\ngoes on\n")
    page.get_by_text("No connection. Trying again").wait_for(state="detached")


def test_what_runs_is_interrupted_and_killed_and_what_waits_is_cancelled(visit: Visit, name: str) -> None:
    page = visit.go(f"#workspaces/{name}")
    run(page, ENDLESS)
    job(page, 0).get_by_label("Output").get_by_text("forever").wait_for()
    run(page, "'never'")
    wait_for_state(page, 1, "queued").get_by_role("button", name="Cancel").click()
    wait_for_state(page, 1, "cancelled")
    page.get_by_role("button", name="Interrupt").click()
    card = wait_for_state(page, 0, "interrupted")
    expect(card.get_by_label("Traceback")).to_contain_text("KeyboardInterrupt")
    run(page, ENDLESS)
    job(page, 2).get_by_label("Output").get_by_text("forever").wait_for()
    page.get_by_role("button", name="Kill").click()
    page.get_by_role("dialog").get_by_role("button", name="Kill").click()
    wait_for_state(page, 2, "killed")
    page.get_by_text("restarted once").wait_for()


def test_variables_are_shown_and_cleared_and_the_workspace_is_deleted(visit: Visit, name: str) -> None:
    page = visit.go(f"#workspaces/{name}")
    run(page, "import pandas as pd\nnumbers = {'one': 1, 'more': [2, 3]}\n" + NAMED + "\nlong = ['0123456789'] * 120_000")
    page.get_by_role("button", name="numbers").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("dt")).to_have_text(["one", "more"])
    page.keyboard.press("Escape")
    page.get_by_role("button", name=re.compile("^named DataFrame, 60 . 2")).click()
    expect(dialog.locator("thead th")).to_have_text(["Row", "peopleint64", "areaint64"])
    page.keyboard.press("Escape")
    page.get_by_role("button", name="long list, 120,000").click()
    dialog.get_by_text(re.compile("Rows 1.25 of 120,000")).wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Clear variables").click()
    page.get_by_role("button", name="Clear", exact=True).click()
    wait_for_state(page, 1, "done")
    page.get_by_role("button", name="numbers").wait_for(state="detached")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_text(f"Workspace {name} was deleted.").wait_for()
    page.get_by_role("link", name=re.compile(name)).wait_for(state="detached")


def test_tables_pictures_and_errors_are_shown_as_what_they_are(visit: Visit, served: Served) -> None:
    served.ask("destroy_workspace")
    for name in ("lab", "training"):
        served.ask("create_workspace", name=name)
    for code in ("def half(x):\n    return x / 0\nhalf(1)", TABLE, FIGURE):
        served.ask("push_job", name="lab", job=code, type="script", timeout=20, variables=False)
    page = visit.go("#workspaces/lab")

    card = wait_for_state(page, 0, "failed")
    expect(card.get_by_role("group", name="Error").locator("p")).to_have_text("ZeroDivisionError: division by zero")
    expect(card.get_by_label("Traceback")).to_contain_text("return x / 0")

    card = wait_for_state(page, 1, "done")
    expect(card.locator("thead th")).to_have_text(["Row", "length", "kind"])
    expect(card.locator("tbody tr").nth(1).locator("th, td")).to_have_text(["1", "0.5", "a, b"])
    card.get_by_role("button", name="Last").click()
    card.get_by_text(re.compile("Rows 51.60 of 60")).wait_for()
    expect(card.locator("tbody th")).to_have_text([str(n) for n in range(50, 60)])

    picture = wait_for_state(page, 2, "done").get_by_role("img", name="Figure")
    picture.and_(page.locator("[data-ready]")).wait_for()
    assert picture.evaluate("canvas => [canvas.width, canvas.height]") == [500, 200]
    pixel = "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, 1, 1).data)"
    assert picture.evaluate(pixel) == [255, 255, 255, 255]
    write(page, FIGURE)
    page.keyboard.press("Escape")  # closes what completes words
    page.get_by_role("button", name="figure Figure").wait_for()
    page.set_viewport_size({"width": 1280, "height": 1000})
    visit.shoot("workspaces")


def test_what_a_job_says_is_never_markup(visit: Visit, name: str) -> None:
    page = visit.go(f"#workspaces/{name}")
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    run(page, f"print({evil!r})\nx = {evil!r}\nraise ValueError({evil!r})")
    card = wait_for_state(page, 0, "failed")
    expect_output(card, f"{evil}\n")
    expect(card.get_by_role("group", name="Error").locator("p")).to_contain_text(evil)
    page.get_by_role("button", name="x").first.wait_for()
    expect(page.locator("img, article script")).to_have_count(0)


def test_the_keyboard_is_enough(visit: Visit, name: str) -> None:
    page = visit.go(f"#workspaces/{name}")
    editor = page.get_by_role("textbox", name="Python code")
    editor.focus()
    page.keyboard.type("if True:")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")  # indents
    page.keyboard.type("print('typed')")
    page.keyboard.press("Escape")  # closes what completes words, if that is there
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")  # leaves
    page.keyboard.press("Enter")  # on the button behind the editor
    expect_output(wait_for_state(page, 0, "done"), "typed\n")


def test_older_jobs_come_when_asked_for_and_those_of_others_by_themselves(visit: Visit, served: Served, name: str) -> None:
    push = {"name": name, "type": "script", "timeout": 0, "variables": False}
    for n in range(25):
        served.ask("push_job", job=f"print('number {n}')", **push)
    page = visit.go(f"#workspaces/{name}")
    wait_for_state(page, 24, "done")
    expect(page.get_by_role("article")).to_have_count(20)
    served.ask("push_job", job="print('of another')", **push)
    expect_output(wait_for_state(page, 25, "done"), "of another\n")
    page.get_by_role("button", name="Show older jobs").click()
    expect_output(wait_for_state(page, 0, "done"), "number 0\n")
    expect(page.locator("article h3")).to_have_text([f"Job {n}" for n in range(25, -1, -1)])
    expect(page.get_by_role("button", name="Show older jobs")).to_have_count(0)


def test_a_flood_of_output_shows_its_end(visit: Visit, name: str) -> None:
    page = visit.go(f"#workspaces/{name}")
    run(page, "for n in range(60_000): print('line', n)")
    wait_for_state(page, 0, "done")
    output = job(page, 0).get_by_label("Output")
    output.get_by_text("line 59999").wait_for()
    assert output.evaluate("pre => pre.textContent.length") < 300_000


def test_a_place_that_is_none_says_so(visit: Visit) -> None:
    page = visit.go("#workspaces/nobody's")
    page.get_by_text("There is no workspace named “nobody's”.").wait_for()
    for odd in ("#toString/x", "#%"):
        visit.go(odd)
        page.get_by_role("heading", level=1).wait_for()


def test_what_is_looked_at_again_and_again_leaves_the_focus_where_it_is(visit: Visit, served: Served, name: str) -> None:
    visit.page.clock.install()
    page = visit.go(f"#workspaces/{name}")
    link = page.get_by_role("complementary").get_by_role("link", name=re.compile(f"^{name}"))
    link.focus()
    with page.expect_response(re.compile("get_overview")):
        page.clock.run_for(3100)
    expect(link).to_be_focused()
    served.ask("push_job", name=name, job="1 / 0", type="script", timeout=20)
    page.clock.run_for(3100)
    expect(link).to_contain_text("failed")
    expect(link).to_be_focused()
