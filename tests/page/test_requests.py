"""Timed requests on the page: start, watch and kill them, those of others too; and the search of modules."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from support.browsing import Served, Visit, expect, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

#: Sends a command for each of so many connection ids; from the page, as a client of its own for each would take long.
MANY = """async ([command, count]) => {
    const api = await import('./api.js');
    const one = (connid) => api.ask(command, command === 'start_request' ? { connid, time: 1000 + connid } : { connid });
    await Promise.all(Array.from({ length: count }, (_, connid) => one(connid)));
}"""


def begin(page: Page, connid: str, seconds: float, script: str = "") -> None:
    """Fill in the form of a new request, and send it."""
    page.get_by_label("Connection id").fill(connid)
    page.get_by_label("Time in seconds").fill(str(seconds))
    if not script:
        page.get_by_label("Time in seconds").press("Enter")
        return
    page.get_by_text("Run a script in it").click()
    page.get_by_role("textbox", name="Script of the request").click()
    page.keyboard.insert_text(script)
    page.get_by_role("button", name="Start").click()


def row(page: Page, connid: str) -> Locator:
    """Return the row of a request that runs."""
    return page.get_by_role("row").filter(has=page.get_by_role("button", name=f"Kill {connid}", exact=True))


def seconds_left(page: Page, connid: str) -> int:
    found = re.search(r"(\d+) s", row(page, connid).inner_text())
    assert found is not None
    return int(found[1])


def end_of(page: Page, connid: str) -> Locator:
    return page.get_by_role("article", name=f"Request {connid}", exact=True)


@pytest.fixture(autouse=True)
def _ends_what_is_left(served: Served) -> None:
    for connid in served.ask("get_requests"):
        served.ask("kill_request", connid=connid)


def test_requests_are_started_counted_down_killed_and_ended_by_their_time(visit: Visit) -> None:
    visit.page.clock.install()
    page = visit.go("#requests")
    page.get_by_text("Nothing runs.").wait_for()
    begin(page, "long", 50)
    expect(row(page, "long")).to_contain_text(re.compile(r"(50|4\d) s"))
    before = seconds_left(page, "long")
    page.clock.run_for(20_000)
    assert 18 < before - seconds_left(page, "long") < 30
    begin(page, "7", 3600)
    expect(row(page, "7")).to_contain_text("min")
    expect(page.get_by_text("2 requests")).to_be_visible()
    begin(page, "short", 0.3)
    expect(end_of(page, "short").locator(".chip")).to_have_text("Ok")
    begin(page, "long", 1)
    expect(page.locator(".message.bad")).to_contain_text("'long' runs already")
    page.get_by_role("button", name="Kill 7").click()
    expect(end_of(page, "7").locator(".chip")).to_have_text("Killed")
    expect(row(page, "7")).to_have_count(0)
    expect(row(page, "long")).to_have_count(1)
    expect(page.get_by_text("1 request", exact=True)).to_be_visible()


def test_a_script_gives_its_result_or_its_error_and_is_stopped_at_the_end_of_its_time(visit: Visit, served: Served) -> None:
    page = visit.go("#requests")
    begin(page, "adds", 60, "print('working')\nsum(range(10))")
    expect(end_of(page, "adds").locator(".chip")).to_have_text("Ok")
    end_of(page, "adds").locator("summary").click()
    expect(end_of(page, "adds").get_by_label("Output")).to_have_text("working\n")
    expect(end_of(page, "adds").locator(".result code")).to_have_text("45")
    page.reload()
    begin(page, "fails", 60, "1 / 0")
    expect(end_of(page, "fails").locator("summary")).to_have_text("ZeroDivisionError: division by zero")
    expect(page.locator(".message")).to_have_count(0)
    end_of(page, "fails").locator("summary").click()
    expect(end_of(page, "fails").get_by_label("Traceback")).to_contain_text("line 1")
    for n, name in enumerate(("nightly", "report", "7")):
        served.ask("start_request", connid=name, time=30 + 40 * n)
    expect(row(page, "report")).to_be_visible()
    page.set_viewport_size({"width": 1280, "height": 1000})
    visit.shoot("requests")
    page.reload()
    begin(page, "endless", 0.5, "while True: pass")
    expect(end_of(page, "endless").locator(".chip")).to_have_text("Timeout")


def test_the_requests_of_others_are_seen_and_those_of_before_when_the_page_is_opened_again(
    browser: Browser, visit: Visit, served: Served
) -> None:
    served.ask("start_request", connid="early", time=500)
    page = visit.go("#requests")
    expect(row(page, "early")).to_be_visible()
    served.ask("start_request", connid="of another", time=500)
    expect(row(page, "of another")).to_be_visible()
    served.ask("kill_request", connid="of another")
    expect(end_of(page, "of another").locator(".chip")).to_have_text("Killed")
    served.ask("start_request", connid="large", time=60, job="'x' * 10_000")
    with visiting(browser, served) as later:
        again = later.go("#requests")
        expect(end_of(again, "of another").locator(".chip")).to_have_text("Killed")
        expect(row(again, "early")).to_be_visible()
        end_of(again, "large").get_by_role("button", name="Show the answer").click()
        expect(end_of(again, "large").locator(".chip")).to_have_text("Ok")
        expect(row(again, "of another")).to_have_count(0)


def test_of_many_requests_those_are_shown_that_end_next(visit: Visit) -> None:
    page = visit.go("#requests")
    page.get_by_text("Nothing runs.").wait_for()
    page.evaluate(MANY, ["start_request", 120])
    page.get_by_text("20 more, which end later").wait_for()
    assert page.locator(".requests tbody th").all_inner_texts() == [str(n) for n in range(100)]
    page.get_by_text("120 requests").wait_for()
    page.evaluate(MANY, ["kill_request", 120])
    page.get_by_text("Nothing runs.").wait_for()
    expect(page.get_by_role("log").get_by_role("article")).to_have_count(100)


def test_modules_are_searched(visit: Visit) -> None:
    page = visit.go("#requests")
    card = page.get_by_role("region", name="Search of modules")
    card.get_by_role("textbox", name="Modules").fill("json, no_such_module")
    card.get_by_role("textbox", name="Text").fill("dump")
    card.get_by_role("button", name="Search").click()
    expect(card.get_by_role("status")).to_have_text("2 names. There is no module 'no_such_module'.")
    assert card.locator("tbody th > code:first-child").all_inner_texts() == ["dump", "dumps"]
    expect(card.get_by_role("row").nth(2)).to_contain_text("function")
    expect(card.get_by_role("row").nth(2)).to_contain_text("Serialize ``obj`` to a JSON formatted ``str``.")
