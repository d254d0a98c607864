"""The cookie: made from the token, never it, and of use for nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.gateway.cookie import LIFETIME, cookie_name, is_valid_cookie, make_cookie, read_cookie, set_cookie
from bgpy.token import derive_key

NOW = 1_800_000_000.5
TOKEN = "a token of more than 22 characters"
KEY = derive_key(TOKEN, "http-cookie")


def test_a_cookie_lasts_twelve_hours() -> None:
    cookie = make_cookie(KEY, "bgpy-80", NOW)
    assert LIFETIME == 12 * 3600
    assert is_valid_cookie(KEY, "bgpy-80", cookie, NOW)
    assert is_valid_cookie(KEY, "bgpy-80", cookie, NOW + LIFETIME - 1)
    assert not is_valid_cookie(KEY, "bgpy-80", cookie, NOW + LIFETIME)
    assert not is_valid_cookie(KEY, "bgpy-80", cookie, NOW - 3600)  # a clock that was set back gives no longer life


def test_a_cookie_holds_neither_token_nor_key_and_is_never_twice_the_same() -> None:
    cookie = make_cookie(KEY, "bgpy-80", NOW)
    assert TOKEN not in cookie
    assert KEY.hex() not in cookie
    assert make_cookie(KEY, "bgpy-80", NOW) != cookie


@pytest.mark.parametrize("purpose", ["proof", "client-to-server", "server-to-client", "tls-psk"])
def test_a_cookie_is_made_with_a_key_that_opens_nothing_else(purpose: str) -> None:
    assert derive_key(TOKEN, purpose) != KEY
    assert not is_valid_cookie(derive_key(TOKEN, purpose), "bgpy-80", make_cookie(KEY, "bgpy-80", NOW), NOW)


def test_a_cookie_is_bound_to_its_name_and_its_token() -> None:
    cookie = make_cookie(KEY, "bgpy-80", NOW)
    assert not is_valid_cookie(KEY, "bgpy-81", cookie, NOW)
    assert not is_valid_cookie(derive_key("another token", "http-cookie"), "bgpy-80", cookie, NOW)


@given(st.integers(0, 200), st.integers(1, 255))
def test_property_a_changed_cookie_is_none(position: int, change: int) -> None:
    cookie = make_cookie(KEY, "bgpy-80", NOW)
    at = position % len(cookie)
    changed = cookie[:at] + chr(ord(cookie[at]) ^ change) + cookie[at + 1 :]
    assert not is_valid_cookie(KEY, "bgpy-80", changed, NOW)


@given(st.text(max_size=60))
def test_property_no_text_is_a_cookie(text: str) -> None:
    assert not is_valid_cookie(KEY, "bgpy-80", text, NOW)


def test_the_name_has_the_port() -> None:
    assert cookie_name("http", 8000) == "bgpy-8000"
    assert cookie_name("https", 443) == "__Host-bgpy-443"


def test_what_a_browser_is_told() -> None:
    assert set_cookie("n", "v", secure=False) == "n=v; Max-Age=43200; Path=/; HttpOnly; SameSite=Strict"
    assert set_cookie("n", "v", secure=True) == "n=v; Max-Age=43200; Path=/; HttpOnly; SameSite=Strict; Secure"
    assert set_cookie("n", "", secure=False).startswith("n=; Max-Age=0;")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("a=1", "1"),
        ("b=2; a=1", "1"),
        (" a=1 ;b", "1"),
        ("a=x=y", "x=y"),
        ("aa=1", None),
        ("a", None),
        ("a=1; a=2", None),
        ("", None),
    ],
)
def test_a_cookie_is_read_where_it_is_there_once(header: str, expected: str | None) -> None:
    assert read_cookie(header, "a") == expected
