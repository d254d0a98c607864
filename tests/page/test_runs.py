"""Runs on the page: files are written, uploaded, dropped and run; what the run says, its placeholders, its models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.browsing import Served, Visit, expect

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

#: Says how far it is, saves, and waits until the test makes the file of that name.
STEPS = """
import pathlib, threading
from bgpy.tasks.runtime import save_placeholder
from bgpy.tasks.workspace import progress
print('has begun', flush=True)
for n in progress(range(4), 'steps'):
    while n == 2 and not pathlib.Path({gate!r}).exists():
        threading.Event().wait(0.01)
    if n == 1:
        save_placeholder('early', [1, 2, 3])
print('goes on')
late = 'of the end'
"""
ENDLESS = "import threading\nprint('forever', flush=True)\nwhile True: threading.Event().wait(0.05)"
VALUES = """
import sys
import matplotlib
import numpy as np
import pandas as pd
matplotlib.use('agg')
import matplotlib.pyplot as plt

rng = np.random.default_rng(1)
table = pd.DataFrame({
    'age': rng.normal(40, 12, 5000).round(1),
    'city': rng.choice(['Bonn', 'Aachen', 'Trier'], 5000, p=[0.6, 0.3, 0.1]),
    'member': rng.random(5000) > 0.3,
    'joined': pd.date_range('2020-01-01', periods=5000, freq='h'),
})
table.loc[::50, 'age'] = None
array = np.arange(12.0).reshape(4, 3)
settings = {'rate': 0.5, 'layers': [64, 32]}
text = 'Hello <b>there</b>'
figure, axes = plt.subplots(figsize=(5, 2))
axes.hist(table['age'].dropna(), 30)
sys.stdout.write(f'Read {len(table)} rows\\n')
sys.stderr.write('100 have no age\\n')
"""
MODEL = """
class Doubling:
    def predict(self, rows):
        return [[2 * x for x in row] for row in rows]

def add_up(numbers):
    return sum(numbers)

model = Doubling()
"""


def start(served: Served, *files: tuple[str, str]) -> str:
    """Start a run as another program would, the first file its main file; return its session."""
    listed = [{"filename": name, "content": content} for name, content in files]
    session: str = served.ask("run", python={"number": len(files), "files": listed, "mainfile": files[0][0]})["sessionId"]
    return session


def finish(served: Served, *files: tuple[str, str]) -> str:
    """Run files to their end."""
    session = start(served, *files)
    assert served.ask("run_status", sessionId=session, timeout=25)["status"] != "Alive"
    return session


def upload(page: Page, files: dict[str, bytes]) -> None:
    payloads = [{"name": name, "mimeType": "", "buffer": content} for name, content in files.items()]
    page.get_by_label("Files to upload").set_input_files(payloads)  # type: ignore[arg-type]


def drop(page: Page, *paths: Path) -> None:
    """Drop files and folders of this machine, as a person does from another window."""
    box = page.get_by_role("region", name="Files of the run").bounding_box()
    assert box is not None
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 60, "y": box["y"] + 90, "data": data})
    session.detach()


def expect_files(page: Page, *names: str) -> None:
    expect(page.get_by_role("list", name="Files").locator("button.grow")).to_have_text(names)


def expect_state(page: Page, state: str) -> None:
    expect(page.locator("header .chip")).to_have_text(state)


def output(page: Page) -> Locator:
    return page.get_by_role("log", name="Output")


def choose(page: Page, name: str) -> Locator:
    """Show a placeholder; return where it is shown."""
    button = page.get_by_role("region", name="Placeholders").get_by_role("button", name=re.compile(rf"^{name}\b"))
    button.click()
    expect(button).to_have_attribute("aria-current", "true")
    detail = page.get_by_role("region", name="Placeholder", exact=True)
    expect(detail.locator("[aria-busy]")).to_have_count(0)
    return detail


def test_files_are_written_uploaded_and_dropped_and_run_together(visit: Visit, tmp_path: Path) -> None:
    page = visit.go("#runs")
    page.get_by_role("textbox", name="Content of main.py").click()
    page.keyboard.insert_text("import helper, pack.inner\nprint(helper.NAME, pack.inner.NAME, len(open('raw.bin', 'rb').read()))")
    upload(page, {"helper.py": b"NAME = 'h\xc3\xa4lper'\n", "raw.bin": b"\xff\x00\xfe"})
    expect_files(page, "main.py", "helper.py", "raw.bin")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "inner.py").write_text("NAME = 'inner'")
    drop(page, tmp_path / "pack")
    expect_files(page, "main.py", "helper.py", "raw.bin", "pack/inner.py")
    page.get_by_role("button", name="raw.bin", exact=True).click()
    page.get_by_text("This file is no text.").wait_for()

    page.reload()  # what was written is kept
    expect_files(page, "main.py", "helper.py", "raw.bin", "pack/inner.py")
    page.get_by_role("textbox", name="Content of main.py").click()
    visit.shoot("new-run")
    page.keyboard.press("Control+Enter")
    expect_state(page, "finished")
    expect(output(page)).to_have_text("hälper inner 3\n")
    expect(page.get_by_role("heading", level=1)).to_have_text("main.py")


def test_which_file_is_run_and_what_it_is_called_can_be_changed(visit: Visit) -> None:
    page = visit.go("#runs")
    upload(page, {"one.py": b"print('one', __file__.endswith('one.py'))", "two.py": b"print('two')"})
    expect(page.get_by_role("radio", name="Run one.py")).to_be_checked()
    page.get_by_role("button", name="New file").click()
    assert page.get_by_label("File name").input_value() == "module1.py"
    page.get_by_label("File name").fill("one.py")
    page.get_by_label("File name").press("Tab")
    assert page.get_by_label("File name").evaluate("field => field.validationMessage") == "There is another file of this name."
    page.get_by_role("button", name="Remove module1.py").click()
    page.get_by_role("button", name="two.py", exact=True).click()
    page.get_by_label("File name").fill("other/three.py")
    page.get_by_label("File name").press("Tab")
    page.get_by_role("radio", name="Run other/three.py").check()
    page.get_by_text("other/three.py is run").wait_for()
    page.get_by_role("button", name="Run", exact=True).click()
    expect(output(page)).to_have_text("two\n")

    page.get_by_role("link", name="New run").click()
    page.get_by_label("File name").fill("../out.py")
    page.get_by_label("File name").press("Tab")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".message.bad")).to_contain_text("../out.py")
    assert page.url.endswith("#runs")


def test_a_run_is_seen_live_and_again_when_the_page_is_opened_later(visit: Visit, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    page = visit.go("#runs")
    upload(page, {"steps.py": STEPS.format(gate=str(gate)).encode()})
    expect(page.get_by_role("radio", name="Run steps.py")).to_be_checked()
    page.get_by_role("button", name="Run", exact=True).click()
    placeholders = page.get_by_role("region", name="Placeholders")
    for attempt in range(2):
        expect_state(page, "running")
        expect(output(page)).to_have_text("has begun\n")
        expect(page.get_by_role("progressbar", name="steps")).to_have_attribute("max", "4")
        expect(placeholders.get_by_role("listitem")).to_have_text(["earlylist, 3"])
        assert choose(page, "early").locator("code.value").inner_text() == "[1, 2, 3]"
        if attempt == 0:
            page.reload()
    gate.touch()
    for attempt in range(2):
        expect_state(page, "finished")
        expect(output(page)).to_have_text("has begun\ngoes on\n")
        page.get_by_text("4 / 4").wait_for()
        expect(placeholders.get_by_role("listitem").filter(has_text="late")).to_be_visible()
        expect(page.get_by_role("link", name=re.compile("steps.py.*finished", re.DOTALL))).to_be_visible()
        if attempt == 0:
            page.reload()


def test_an_endless_run_is_stopped_and_forgotten(visit: Visit, served: Served) -> None:
    session = start(served, ("endless.py", ENDLESS))
    page = visit.go("#runs")
    page.get_by_role("link", name=re.compile("endless.py")).click()
    expect(output(page)).to_have_text("forever\n")
    page.get_by_role("button", name="Stop").click()
    expect_state(page, "stopped")
    assert served.ask("run_status", sessionId=session)["status"] == "Stopped"
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    expect(page.get_by_role("link", name=re.compile("endless.py.*stopped", re.DOTALL))).to_be_visible()
    page.get_by_role("button", name="Forget").click()
    page.get_by_role("dialog").get_by_role("button", name="Forget").click()
    page.get_by_role("heading", name="New run").wait_for()
    expect(page.get_by_role("link", name=re.compile("endless.py"))).to_have_count(0)
    visit.go(f"#runs/{session}")
    page.get_by_text("This run is no longer there").wait_for()


def test_an_error_is_shown_with_its_traceback_in_the_files_of_the_run(visit: Visit, served: Served) -> None:
    session = finish(served, ("main.py", "import helper\nhelper.half(1)"), ("helper.py", "def half(x):\n    return x / 0\n"))
    page = visit.go(f"#runs/{session}")
    expect_state(page, "failed")
    error = page.get_by_role("group", name="Error")
    expect(error.locator("p")).to_have_text("ZeroDivisionError: division by zero")
    traceback = error.get_by_label("Traceback").inner_text()
    assert 'File "main.py", line 2' in traceback
    assert 'File "helper.py", line 2, in half' in traceback


def test_a_lost_connection_is_made_again_and_nothing_is_missing_or_twice(visit: Visit, served: Served, tmp_path: Path) -> None:
    sockets: list[Any] = []
    subscribed: list[int] = []

    def keep(socket: Any) -> None:
        sockets.append(socket)
        server = socket.connect_to_server()
        socket.on_message(lambda message: pass_on(server, message))

    def pass_on(server: Any, message: str) -> None:
        fields = json.loads(message)
        if fields["action"] == "subscribe":
            subscribed.append(fields["since"])
        server.send(message)

    visit.page.route_web_socket(re.compile("/runtime$"), keep)
    gate = tmp_path / "gate"
    session = start(served, ("steps.py", STEPS.format(gate=str(gate))))
    page = visit.go(f"#runs/{session}")
    expect(output(page)).to_have_text("has begun\n")
    sockets[0].close(code=1001)
    page.get_by_text("No connection. Trying again").wait_for()
    gate.touch()
    expect_state(page, "finished")
    assert len(sockets) > 1
    assert subscribed[0] == 0
    assert subscribed[1] > 0
    expect(output(page)).to_have_text("has begun\ngoes on\n")


@pytest.fixture(scope="module")
def values(served: Served) -> str:
    """Return a run that has values of many kinds."""
    return finish(served, ("values.py", VALUES))


def test_of_a_long_table_only_the_rows_that_are_shown_are_sent(visit: Visit, values: str) -> None:
    sent: list[dict[str, Any]] = []
    visit.page.on("websocket", lambda socket: socket.on("framesent", lambda data: sent.append(json.loads(data))))
    page = visit.go(f"#runs/{values}")
    expect(output(page).locator(".stdout")).to_have_text("Read 5000 rows\n")
    expect(output(page).locator(".stderr")).to_have_text("100 have no age\n")
    detail = choose(page, "table")
    heads = detail.locator("thead th").all_inner_texts()
    assert [head.split("\n")[0] for head in heads] == ["Row", "age", "city", "member", "joined"]
    assert detail.locator("tbody tr").nth(1).locator("th, td").nth(4).inner_text().startswith("2020-01-01")
    detail.get_by_role("button", name="Last").click()
    detail.get_by_text(re.compile("Rows 4,976.5,000 of 5,000")).wait_for()
    assert detail.locator("tbody th").all_inner_texts() == [str(n) for n in range(4975, 5000)]
    asked = [message["placeholder"] for message in sent if message["action"] == "get_placeholder"]
    windows = [one.get("window") for one in asked if one["name"] == "table"]
    assert windows == [None, [4975, 5000]]
    page.set_viewport_size({"width": 1280, "height": 900})
    page.evaluate("scrollTo(0, 0)")
    visit.shoot("runs")


def test_figures_arrays_and_texts_are_shown_as_what_they_are(visit: Visit, values: str) -> None:
    page = visit.go(f"#runs/{values}")
    picture = choose(page, "figure").get_by_role("img", name="Figure")
    picture.and_(page.locator("[data-ready]")).wait_for()
    assert picture.evaluate("canvas => [canvas.width, canvas.height]") == [500, 200]
    array = choose(page, "array")
    assert array.locator("tbody tr").nth(1).locator("th, td").all_inner_texts() == ["1", "3", "4", "5"]
    assert choose(page, "settings").locator("dt").all_inner_texts() == ["rate", "layers"]
    assert choose(page, "text").locator("pre").inner_text() == "Hello <b>there</b>"


def test_statistics_have_numbers_frequent_values_and_histograms(visit: Visit, values: str) -> None:
    page = visit.go(f"#runs/{values}")
    detail = choose(page, "table")
    detail.get_by_role("button", name="Statistics").click()
    detail.get_by_text("5,000 rows, 4 columns.").wait_for()
    age, city, member, joined = (
        detail.get_by_role("article", name=f"Column {name}") for name in ("age", "city", "member", "joined")
    )
    assert age.locator("dd").all_inner_texts()[:2] == ["4,900", "100 (2 %)"]
    bars = age.get_by_role("img", name=re.compile("^Histogram of age: .* bins from")).locator("rect:not(.room)")
    heights = bars.evaluate_all("bars => bars.map(bar => Number(bar.getAttribute('height')))")
    assert len(heights) > 10
    assert max(heights) == 100
    assert bars.evaluate_all(
        "bars => bars.every(bar => Number(bar.getAttribute('y')) + Number(bar.getAttribute('height')) === 100)"
    )
    assert heights[0] < 20 < max(heights[len(heights) // 3 : -len(heights) // 3])  # a normal distribution
    assert city.locator("tbody th").all_inner_texts() == ["Bonn", "Aachen", "Trier"]
    expect(member.locator("dl")).to_contain_text("True")
    expect(joined.get_by_role("img")).to_have_accessible_name(re.compile("from 2020-01-01"))
    page.set_viewport_size({"width": 1280, "height": 900})
    page.evaluate("scrollTo(0, 0)")
    visit.shoot("statistics")
    choose(page, "text")
    page.get_by_role("button", name="Statistics").click()
    page.get_by_text("There are no statistics of a value of the type str").wait_for()


def test_a_model_of_a_run_is_asked_with_typed_data_and_with_a_file(visit: Visit, served: Served) -> None:
    session = finish(served, ("model.py", MODEL), ("rows.json", "[[5, 6]]"))
    page = visit.go(f"#runs/{session}")
    card = page.get_by_role("region", name="Prediction")
    model, data, result = card.get_by_label("Model"), card.get_by_label("Data", exact=True), card.locator("[aria-live]")
    model.fill("model")
    data.fill("[[1, 2], [3")
    card.get_by_role("button", name="Predict").click()
    assert "This is no JSON" in data.evaluate("field => field.validationMessage")
    data.fill("[[1, 2], [3, 4]]")
    card.get_by_role("button", name="Predict").click()
    expect(result.locator("tbody tr").nth(1)).to_have_text("168")
    card.get_by_label("in a file on the server").check()
    card.get_by_label("Path").fill("rows.json")
    card.get_by_role("button", name="Predict").click()
    expect(result.locator("tbody tr")).to_have_text(["01012"])
    card.get_by_label("typed here, as JSON").check()
    model.fill("add_up")
    data.fill("[1, 2, 3]")
    card.get_by_role("button", name="Predict").click()
    expect(result.locator("code.value")).to_have_text("6")
    data.fill('["a"]')
    card.get_by_role("button", name="Predict").click()
    expect(result.get_by_role("group", name="Error")).to_contain_text("TypeError")
