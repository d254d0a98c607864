"""The frame of the page: who gets in, where one can go, and what a browser is told not to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.browsing import TOKEN, Served, Visit, expect, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_a_token_opens_the_page_and_a_wrong_one_does_not(browser: Browser, served: Served) -> None:
    with visiting(browser, served, logged_in=False) as visit:
        page = visit.go()
        expect(page).to_have_title("Log in · bgpy")
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        page.get_by_text("The token is wrong.").wait_for()
        assert [noise for noise in visit.noise if "401" not in noise] == []
        visit.noise.clear()  # the browser itself notes the refusal
        visit.shoot("login")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_label("Token").press("Enter")
        page.get_by_role("heading", name="Workspaces", level=1).wait_for()


def test_it_stays_logged_in_until_logged_out(visit: Visit) -> None:
    page = visit.go("#server")
    page.get_by_role("heading", name="Server", level=1).wait_for()
    page.reload()
    page.get_by_role("heading", name="Server", level=1).wait_for()
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Token").wait_for()
    page.reload()
    page.get_by_label("Token").wait_for()


def test_who_was_logged_out_elsewhere_is_asked_for_the_token_and_comes_back_to_the_same_place(visit: Visit) -> None:
    page = visit.go("#server")
    page.get_by_text("Latency", exact=True).wait_for()
    page.context.clear_cookies()
    page.get_by_text("Log in again").wait_for()
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_label("Token").press("Enter")
    page.get_by_role("heading", name="Server", level=1).wait_for()
    assert [noise for noise in visit.noise if "401" not in noise] == []
    visit.noise.clear()  # the browser itself notes the refusal


def test_the_navigation_says_where_one_is_and_the_focus_goes_along(visit: Visit) -> None:
    page = visit.go("#server")
    page.get_by_role("heading", name="Server", level=1).wait_for()
    for name in ("Workspaces", "Runs", "Requests", "Models", "Server"):
        page.get_by_role("link", name=name, exact=True).first.click()
        expect(page).to_have_title(f"{name} · bgpy")
        expect(page.get_by_role("navigation").get_by_role("link", name=name)).to_have_attribute("aria-current", "page")
        expect(page.get_by_role("main")).to_be_focused()
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
    page.go_back()
    expect(page).to_have_title("Models · bgpy")


def test_a_connection_that_opens_ends_the_word_that_there_is_none(visit: Visit) -> None:
    page = visit.go("#requests")  # which asks nothing but over its WebSockets, once it has looked
    page.get_by_text("Nothing runs.").wait_for()
    # Looked at in the same step: one of those WebSockets may open at any time.
    said = page.evaluate(
        """async () => {
            const [api, fetched] = [await import('./api.js'), window.fetch];
            window.fetch = () => Promise.reject(new Error('gone'));
            await api.ask('get_status').catch(() => {});
            window.fetch = fetched;
            return document.getElementById('connection').textContent;
        }"""
    )
    assert "No connection" in said
    page.evaluate(
        """async () => {
            const api = await import('./api.js');
            let conversation;
            await new Promise((opened) => { conversation = api.converse('runtime', () => {}, opened); });
            conversation.close();
        }"""
    )
    expect(page.get_by_text("No connection")).to_have_count(0)
