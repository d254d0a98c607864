"""The page of several servers: one log-in, then the page of each; with the keyboard alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from support.browsing import TOKEN, Served, Visit, expect, visiting

from bgpy.gateway import GatewayServer, ServerPlace, Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@contextlib.contextmanager
def fronting(port: int) -> Iterator[Served]:
    """Run a gateway in front of the server at a port, by the name of lab, and of one that is not there."""
    server = GatewayServer(
        Settings(token=TOKEN, bind_port=0, servers={"lab": ServerPlace(port=port), "gone": ServerPlace(port=1)})
    )
    ready = threading.Event()
    thread = threading.Thread(target=server.run, args=(lambda url: ready.set(),), name="test-gateway")
    thread.start()
    try:
        assert ready.wait(20)
        yield Served(server.url, port, {})
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def visit(browser: Browser, served: Served) -> Iterator[Visit]:
    with fronting(served.port) as several, visiting(browser, several, logged_in=False) as visit:
        yield visit


def test_one_log_in_opens_the_list_and_the_page_of_each_server(visit: Visit, served: Served) -> None:
    served.ask("create_workspace", name="mine", type="thread")
    page = visit.go()
    expect(page.get_by_label("Token")).to_be_focused()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The token is wrong")
    visit.noise.clear()  # the browser's own word for the 401
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Servers")).to_be_visible()
    lab, gone = page.get_by_role("row", name="lab"), page.get_by_role("row", name="gone")
    expect(lab).to_contain_text("answers")
    expect(lab).to_contain_text("1 workspace")
    expect(gone).to_contain_text("does not answer")
    expect(gone).to_contain_text("Cannot connect to 127.0.0.1:1")
    visit.shoot("servers")
    page.get_by_role("link", name="lab").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="mine")).to_be_visible()
    assert page.url.startswith(f"{visit.served.url}servers/lab/")
    page.go_back()
    page.get_by_role("button", name="Log out").press("Enter")
    expect(page.get_by_label("Token")).to_be_focused()


def test_it_is_said_that_the_gateway_does_not_answer_until_it_does(visit: Visit) -> None:
    look = "() => document.dispatchEvent(new Event('visibilitychange'))"
    page = visit.go()
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.get_by_role("link", name="lab").wait_for()
    page.route("**/servers", lambda route: route.abort())
    page.evaluate(look)
    page.get_by_role("alert").get_by_text("The gateway did not answer.").wait_for()
    page.get_by_text("No connection").wait_for()
    page.unroute("**/servers")
    page.evaluate(look)
    for text in ("The gateway did not answer.", "No connection"):
        expect(page.get_by_text(text)).to_have_count(0)
    assert [noise for noise in visit.noise if "ERR_FAILED" not in noise] == []
    visit.noise.clear()  # the browser itself notes what did not come
