"""What the page says of what a server took along that is gone, and that it does not say it any longer than it is so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.browsing import Served, Visit, expect, mounted, serving, visiting
from support.proxies import Proxy

if TYPE_CHECKING:
    from playwright.sync_api import Browser, WebSocketRoute

#: A port where nobody listens.
NOWHERE = 1


@pytest.fixture
def replaced(browser: Browser, served: Served, tmp_path: Path) -> Iterator[tuple[Visit, Served, Proxy]]:
    """Return a tab, the server that it shows, and what stands before that: another server is there to take its place."""
    with (
        serving(tmp_path / "home") as first,
        Proxy(first.port) as proxy,
        mounted(first._replace(port=proxy.port), no_token=True) as url,
        visiting(browser, first._replace(url=url), logged_in=False) as visit,
    ):
        yield visit, first, proxy
        assert [noise for noise in visit.noise if "503" not in noise] == []
        visit.noise.clear()  # the browser itself notes each answer that is none


def start(visit: Visit, connid: str) -> None:
    visit.page.get_by_label("Connection id").fill(connid)
    visit.page.get_by_role("button", name="Start").click()


def test_requests_that_their_server_took_along_are_lost_and_nobody_speaks_of_it_any_more(
    replaced: tuple[Visit, Served, Proxy], served: Served
) -> None:
    visit, first, proxy = replaced
    page = visit.go("#requests")
    page.get_by_text("Nothing runs.").wait_for()
    start(visit, "mine")
    first.ask("start_request", connid="of another", time=500)
    page.get_by_text("2 requests").wait_for()
    first.ask("start_request", connid="over", time=500, job="1 + 1")
    over = page.get_by_role("article", name="Request over")
    over.wait_for()
    proxy.target = NOWHERE
    proxy.cut()
    page.get_by_text("The server does not answer, since").wait_for()
    expect(page.locator(".message")).to_have_count(0)  # that is said above, and those that ran are still there
    page.get_by_text("2 requests").wait_for()
    start(visit, "too late")
    page.get_by_role("alert").filter(has_text="Cannot connect").wait_for()
    served.ask("start_request", connid="of the next one", time=500)
    proxy.target = served.port
    for name in ("mine", "of another"):
        expect(page.get_by_role("article", name=f"Request {name}").locator(".chip")).to_have_text("Lost")
    expect(over).to_have_count(1)
    page.get_by_text("1 request", exact=True).wait_for()
    expect(page.locator(".message")).to_have_count(0)
    visit.shoot("requests-lost")
    served.ask("kill_request", connid="of the next one")


def test_what_a_look_finds_to_be_over_is_told_once_and_as_it_ended(visit: Visit, served: Served) -> None:
    """The server says by a look that a request is over, before its event tells of the end."""
    sockets: list[WebSocketRoute] = []

    def stand_between(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        end = socket.connect_to_server()
        end.on_message(lambda message: None if '"ended"' in str(message) and "quick" in str(message) else socket.send(message))

    def tell(**event: Any) -> None:
        sockets[-1].send(json.dumps({"request_result": True, "result": {"number": 2, "time": 0, "job": None, **event}}))

    visit.page.route_web_socket(re.compile("watch_requests$"), stand_between)
    page = visit.go("#requests")
    page.get_by_text("Nothing runs.").wait_for()
    number = served.ask("start_request", connid="quick", time=500)["request"]
    page.get_by_text("1 request", exact=True).wait_for()
    served.ask("kill_request", connid="quick")
    tell(event="gap", missed=[1, 1])
    quick = page.get_by_role("article", name="Request quick")
    expect(quick.locator(".chip")).to_have_text("Killed")
    tell(event="ended", connid="quick", request=number, answer={"status": "Killed"})
    tell(event="ended", connid="another", request=number + 1, answer={"status": "Ok"})
    page.get_by_role("article", name="Request another").wait_for()
    expect(quick).to_have_count(1)


def test_a_refusal_is_not_said_any_longer_when_the_same_is_done_again(visit: Visit, served: Served) -> None:
    served.ask("create_workspace", name="again", type="thread")
    page = visit.go("#workspaces/again")
    page.get_by_text("No job yet").wait_for()
    page.get_by_role("textbox", name="Python code").click()
    page.keyboard.insert_text("1")
    page.get_by_label("Time limit").fill("-1")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("alert").filter(has_text="time_limit").wait_for()
    page.get_by_label("Time limit").fill("")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".message")).to_have_count(0)
    page.get_by_role("article", name="Job 0", exact=True).wait_for()


def test_a_run_that_is_gone_offers_another_one_and_nothing_else(visit: Visit, served: Served) -> None:
    python = {"number": 1, "files": [{"filename": "a.py", "content": "print('a')"}], "mainfile": "a.py"}
    session = served.ask("run", python=python)["sessionId"]
    served.ask("run_status", sessionId=session, timeout=25)
    page = visit.go(f"#runs/{session}")
    page.get_by_text("finished").first.wait_for()
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    served.ask("forget_run", sessionId=session)
    page.get_by_text("This run is no longer there").wait_for()
    for name in ("Stop", "Forget"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    page.get_by_role("link", name="Start a new run").click()
    page.get_by_role("heading", name="New run").wait_for()


def test_each_tab_keeps_what_is_typed_in_it(visit: Visit, served: Served) -> None:
    served.ask("create_workspace", name="two tabs", type="thread")
    first, second = visit.page, visit.page.context.new_page()
    code = [page.get_by_role("textbox", name="Python code") for page in (first, second)]
    for page, text, editor in zip((first, second), ("one", "two"), code, strict=True):
        page.goto(f"{visit.served.url}#workspaces/two tabs")
        editor.click()
        page.keyboard.press("Control+A")
        page.keyboard.insert_text(text)
    for page in (first, second):
        page.reload()
    expect(code[0]).to_have_text("one")
    expect(code[1]).to_have_text("two")
    with visit.page.context.expect_page() as opened:
        first.evaluate("() => void window.open(location.href, '_blank', 'noopener')")
    expect(opened.value.get_by_role("textbox", name="Python code")).to_have_text("two")
    opened.value.close()
    second.close()
