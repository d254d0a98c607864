"""The view of the server: its state and its plots, live; off and on again; the page wherever the gateway is mounted."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from support.browsing import TOKEN, Served, Visit, expect, mounted, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

#: Milliseconds after which the page looks again.
INTERVAL = 2100
#: Whether something was drawn on a plot.
DRAWN = "plot => plot.querySelector('canvas').getContext('2d').getImageData(0, 0, 900, 400).data.some(byte => byte > 0)"


def push(served: Served, name: str, job: str, timeout: float = 20) -> None:
    served.ask("push_job", name=name, type="script", job=job, timeout=timeout, variables=False)


def test_queue_and_latency_are_plotted_as_they_change(visit: Visit, served: Served) -> None:
    served.ask("create_workspace", name="lab")
    served.ask("create_workspace", name="broken")
    for n in range(8):
        push(served, "lab", f"import threading; threading.Event().wait({0.004 * 2**n})")
    push(served, "broken", "1 / 0")
    visit.page.clock.install()
    page = visit.go("#server")
    tile = page.locator(".tile", has_text="Latency")
    expect(tile).to_contain_text("median of 9 jobs")
    expect(page.get_by_role("row", name=re.compile("^broken"))).to_contain_text("failed")
    queue, latency = (page.get_by_role("img", name=re.compile(name)) for name in ("Jobs that wait", "Latency of jobs"))
    assert latency.evaluate(DRAWN)
    expect(latency).to_have_accessible_name(re.compile(r"Ran [\d.]+ ms, Waited"))
    push(served, "lab", "import threading; threading.Event().wait(60)", timeout=0)
    push(served, "lab", "'waits'", timeout=0)
    push(served, "lab", "'waits as well'", timeout=0)
    page.clock.run_for(INTERVAL)
    expect(queue).to_have_accessible_name("Jobs that wait and that run: Waiting 2, Running 1")
    assert queue.evaluate(DRAWN)
    served.ask("interrupt", name="lab")
    served.ask("get_record", name="lab", timeout=20)
    page.clock.run_for(INTERVAL)
    expect(tile).to_contain_text("median of 12 jobs")
    visit.shoot("server")


def test_the_axis_of_time_shows_a_minute_at_least_and_no_more_than_there_is(visit: Visit) -> None:
    page = visit.go("#server")
    shown = "async times => (await import('./plot.js')).shownTime({ data: [times] })"
    assert page.evaluate(shown, [5000]) == [4940, 5000]
    assert page.evaluate(shown, [5000, 5010]) == [4950, 5010]
    assert page.evaluate(shown, [5000, 5600]) == [5000, 5600]
    first, last = page.evaluate(shown, [])
    assert last - first == 60
    assert abs(last - time.time()) < 3600


def test_the_words_at_an_axis_have_room_whatever_they_are(visit: Visit) -> None:
    page = visit.go("#server")
    room = """async words => {
        const { plot } = await import('./plot.js');
        const box = document.querySelector('main').appendChild(document.createElement('div'));
        plot(box, [{ label: 'One' }], { format: y => `${y} ${words}` }).update([1, 2], [0, 1]);
        await new Promise(requestAnimationFrame);
        return box.querySelector('.u-over').offsetLeft;
    }"""
    assert page.evaluate(room, "s") < 70
    assert page.evaluate(room, "minutes and seconds") > 110


def test_a_long_name_pushes_nothing_out_of_sight(visit: Visit, served: Served) -> None:
    name = "a_name_without_any_blank_in_it_" * 6
    served.ask("create_workspace", name=name)
    for place in ("#server", f"#workspaces/{name}"):
        page = visit.go(place)
        page.get_by_role("link", name=name).or_(page.get_by_role("heading", name=name)).first.wait_for()
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), place
    visit.go("#server")
    table = visit.page.locator(".scroll", has=visit.page.get_by_role("table"))
    assert table.evaluate("box => box.scrollWidth <= box.clientWidth")
    served.ask("destroy_workspace", name=name)


def test_nobody_asks_while_nobody_looks(visit: Visit) -> None:
    visit.page.clock.install()
    page = visit.go("#server")
    page.get_by_text("Latency", exact=True).wait_for()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with page.expect_request(re.compile("get_overview")):
        page.clock.run_for(INTERVAL)
    page.evaluate("() => Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    asked.clear()
    page.clock.run_for(60_000)
    assert asked == []
    with page.expect_request(re.compile("get_overview")):
        page.evaluate("() => { delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); }")


def test_a_service_that_is_off_is_switched_on_again(visit: Visit, served: Served) -> None:
    served.ask("destroy")
    page = visit.go("#server")
    page.get_by_text("The service is switched off.").wait_for()
    page.get_by_role("button", name="Switch it on").click()
    page.get_by_text("There is no workspace yet.").wait_for()


def test_it_works_below_a_path_and_in_the_dark(browser: Browser, served: Served) -> None:
    with mounted(served) as url, visiting(browser, served._replace(url=url), logged_in=False, color_scheme="dark") as visit:
        page = visit.go()
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("button", name=re.compile("Create a workspace|New workspace")).first.click()
        page.get_by_role("dialog").get_by_label("Name").fill("below")
        page.get_by_role("button", name="Create", exact=True).click()
        page.get_by_role("textbox", name="Python code").click()
        page.keyboard.insert_text("print('below')")
        page.keyboard.press("Control+Enter")
        expect(page.get_by_label("Output")).to_have_text("below\n")
        assert page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor") == "rgb(14, 18, 23)"


def test_where_no_token_is_needed_none_is_asked_for(browser: Browser, served: Served) -> None:
    with mounted(served, no_token=True) as url, visiting(browser, served._replace(url=url), logged_in=False) as visit:
        page = visit.go("#server")
        page.get_by_role("heading", name="Server").wait_for()
        page.get_by_text("running", exact=True).wait_for()
