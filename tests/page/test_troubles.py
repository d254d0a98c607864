"""What the page says when something is no longer there, and where: plainly, and over no button."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from support.browsing import Served, Visit, expect, mounted, visiting
from support.proxies import Proxy

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

#: A port where nobody listens.
NOWHERE = 1
#: Whether the middle of a button is the button's own.
UNCOVERED = """button => {
    const box = button.getBoundingClientRect();
    return button.contains(document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2));
}"""


@pytest.fixture
def behind_proxy(browser: Browser, served: Served) -> Iterator[tuple[Visit, Proxy]]:
    """Return a tab of a gateway, and what stands between that and the server."""
    with (
        Proxy(served.port) as proxy,
        mounted(served._replace(port=proxy.port), no_token=True) as url,
        visiting(browser, served._replace(url=url), logged_in=False) as visit,
    ):
        yield visit, proxy
        assert [noise for noise in visit.noise if "503" not in noise] == []
        visit.noise.clear()  # the browser itself notes each answer that is none


def lose(proxy: Proxy) -> int:
    target, proxy.target = proxy.target, NOWHERE
    proxy.cut()
    return target


def test_what_is_shown_of_a_server_that_is_gone_is_said_to_be_old(behind_proxy: tuple[Visit, Proxy], served: Served) -> None:
    visit, proxy = behind_proxy
    served.ask("create_workspace", name="left")
    page = visit.go("#server")
    page.get_by_text("running", exact=True).wait_for()
    target = lose(proxy)
    away = page.get_by_text("The server does not answer, since")
    away.wait_for()
    page.get_by_text("no answer", exact=True).wait_for()
    expect(page.get_by_text("running", exact=True)).to_have_count(0)
    expect(page.locator("#view")).to_have_class("stale")
    visit.shoot("server-gone")
    for place in ("#workspaces/left", "#runs", "#requests", "#models"):
        page.goto(visit.served.url + place)
        away.wait_for()
    visit.go("#workspaces/left")  # that is read when there is something to read
    away.wait_for()
    proxy.target = target
    page.get_by_role("heading", name="left").wait_for()
    expect(away).to_be_hidden()
    expect(page.locator("#view")).not_to_have_class("stale")
    lose(proxy)
    away.wait_for()
    proxy.target = target
    expect(away).to_be_hidden()


def test_a_workspace_that_is_gone_is_said_to_be_and_can_be_made_again(visit: Visit, served: Served) -> None:
    served.ask("create_workspace", name="passing", type="thread")
    page = visit.go("#workspaces/passing")
    page.get_by_text("No job yet").wait_for()
    page.get_by_role("textbox", name="Python code").click()
    page.keyboard.insert_text("print('kept')")
    served.ask("destroy_workspace", name="passing")
    page.get_by_text("This workspace is gone").wait_for()
    expect(page.get_by_role("region", name="Jobs")).to_have_css("filter", re.compile("grayscale"))
    expect(page.get_by_role("button", name="Kill")).to_have_count(0)  # a thread cannot be
    for name in ("Run", "Interrupt", "Clear variables", "Delete"):
        expect(page.get_by_role("button", name=name, exact=True)).to_be_disabled()
    visit.shoot("workspace-gone")
    page.keyboard.press("Control+Enter")  # does nothing
    page.get_by_role("button", name="Create it again").click()
    page.get_by_text("a thread of the server").wait_for()
    expect(page.get_by_text("This workspace is gone")).to_be_hidden()
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("article", name="Job 0").get_by_label("Output")).to_have_text("kept\n")
    expect(page.locator(".message")).to_have_count(0)

    served.ask("destroy_workspace", name="passing")
    page.get_by_text("This workspace is gone").wait_for()
    served.ask("create_workspace", name="passing")  # by somebody else
    page.get_by_text("No job yet").wait_for()
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()


def test_bad_news_cover_no_button(visit: Visit, served: Served) -> None:
    served.ask("create_workspace", name="wide")
    page = visit.go("#workspaces/wide")
    page.get_by_text("No job yet").wait_for()
    page.get_by_role("textbox", name="Python code").click()
    page.keyboard.insert_text("1")
    page.get_by_label("Time limit").fill("-1")
    for size in ((1280, 540), (1280, 800), (390, 844)):
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_role("alert").filter(has_text="time_limit").wait_for()
        for button in page.get_by_role("button").filter(visible=True).all():
            if button.evaluate("button => button.getBoundingClientRect().bottom < innerHeight"):
                assert button.evaluate(UNCOVERED), button.inner_text()
    page.get_by_role("button", name="Dismiss").click()
    expect(page.locator(".message")).to_have_count(0)


def top(page: Page, name: str) -> float:
    box = page.get_by_role("region", name=name).bounding_box()
    assert box is not None
    return box["y"]


def test_on_a_small_screen_the_editor_comes_before_the_variables(visit: Visit, served: Served) -> None:
    for n in range(12):
        served.ask("create_workspace", name=f"one of many {n}", type="thread")
    page = visit.go("#workspaces/one of many 3")
    page.get_by_text("No job yet").wait_for()
    page.set_viewport_size({"width": 390, "height": 844})
    assert top(page, "Code") < 420
    assert top(page, "Code") < top(page, "Jobs") < top(page, "Variables")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    visit.shoot("small")
    for n in range(12):
        served.ask("destroy_workspace", name=f"one of many {n}")


def test_on_a_phone_each_view_fits_and_its_navigation_takes_one_line(visit: Visit) -> None:
    page = visit.page
    page.set_viewport_size({"width": 390, "height": 844})
    for view in ("Server", "Workspaces", "Runs", "Requests", "Models"):
        visit.go(f"#{view.lower()}")
        page.get_by_role("heading", level=1).first.wait_for()
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), view
        box = page.get_by_role("navigation").bounding_box()
        assert box is not None
        assert box["height"] < 45
    visit.go("#runs")
    editor = page.get_by_role("textbox", name="Content of main.py").bounding_box()
    assert editor is not None
    assert editor["y"] < 600


def test_what_takes_long_to_load_is_said_to_be_on_its_way(visit: Visit) -> None:
    held: list[Route] = []
    page = visit.page
    page.route(re.compile("/views/runs.js$"), lambda route: held.append(route))
    visit.go("#runs")
    page.get_by_text("Loading …").wait_for()
    for route in held:
        route.continue_()
    page.get_by_role("heading", name="New run").wait_for()
    expect(page.get_by_text("Loading …")).to_have_count(0)


def test_nothing_is_said_to_be_missing_before_it_was_looked_for(visit: Visit, served: Served) -> None:
    served.ask("create_workspace", name="slow")
    held: list[Route] = []
    page = visit.page
    page.route(re.compile("/(list_variables|get_status|list_runs)$"), lambda route: held.append(route))
    visit.go("#workspaces/slow")
    expect(page.get_by_text("Reading …")).to_have_count(2)
    expect(page.get_by_text(re.compile("None yet|No job yet"))).to_have_count(0)
    for route in held:
        route.continue_()
    page.get_by_text("No job yet").wait_for()
    page.get_by_text("None yet.").wait_for()


def test_nothing_is_run_where_there_is_nothing(visit: Visit, served: Served) -> None:
    served.ask("create_workspace", name="blank")
    page = visit.go("#workspaces/blank")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("There is no code to run yet.").wait_for()
    expect(page.get_by_role("textbox", name="Python code")).to_be_focused()
    visit.go("#runs")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("There is no code in main.py yet.").wait_for()
    assert page.url.endswith("#runs")
    assert served.ask("list_runs")["sessions"] == []
