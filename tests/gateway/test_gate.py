"""Who passes the gate: each rule as a table, without a network."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.gateway.cookie import LIFETIME, make_cookie
from bgpy.gateway.gate import Allow, Refusal, Rules, judge, read_facts, split_host, split_origin

NOW = 1_800_000_000.0
TOKEN = "a token of more than 22 characters"
KEY = b"k" * 32
HOST = ("host", "localhost:8000")
ORIGIN = ("origin", "http://localhost:8000")
JSON = ("content-type", "application/json")
BODY = ("content-length", "2")
BEARER = ("authorization", f"Bearer {TOKEN}")
COOKIE = ("cookie", f"bgpy-8000={make_cookie(KEY, 'bgpy-8000', NOW)}")
OPEN = frozenset({("GET", "/healthz"), ("POST", "/login")})
RULES = Rules(TOKEN, KEY, frozenset({"big.example"}), OPEN, frozenset({"/"}), frozenset({"/runtime"}))
NO_TOKEN = RULES._replace(token="", cookie_key=b"")


def outcome(
    *headers: tuple[str, str],
    kind: Any = "http",
    method: str = "POST",
    path: str = "/push_job",
    scheme: str = "http",
    rules: Rules = RULES,
    now: float = NOW,
) -> str | int:
    """Return on what ground a request passes, or the status that it is refused with."""
    raw = [(name.encode(), value.encode()) for name, value in headers]
    verdict = judge(read_facts(kind, method, scheme, path, raw), rules, now)
    return verdict.by if isinstance(verdict, Allow) else verdict.status


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost:8000", "bearer"),
        ("LOCALHOST", "bearer"),
        ("127.0.0.1:8000", "bearer"),
        ("192.168.1.7", "bearer"),
        ("[::1]:8000", "bearer"),
        ("Big.Example:443", "bearer"),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.", 403),
        ("127.1", 403),
        ("0x7f000001", 403),
        ("", 400),
        ("localhost:", 400),
        ("localhost:80x", 400),
        ("localhost:99999", 400),
        ("::1", 400),
        ("[::1", 400),
        ("[localhost]", 400),
        ("[127.0.0.1]", 400),
        ("[fe80::1%eth0]", 400),
        ("localhost:8000@evil.example", 400),
        ("user@localhost", 400),
        ("localhost, evil.example", 400),
    ],
)
def test_the_host_is_an_address_or_a_known_name(host: str, expected: str | int) -> None:
    assert outcome(("host", host), BEARER) == expected


def test_there_is_exactly_one_host() -> None:
    assert outcome(BEARER) == 400
    assert outcome(HOST, HOST, BEARER) == 400
    assert outcome(HOST, ("host", "evil.example"), BEARER) == 400


def test_the_host_is_looked_at_before_what_is_open_to_everybody() -> None:
    assert outcome(("host", "evil.example"), method="GET", path="/healthz") == 403


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:8000", "bearer"),
        ("HTTP://Localhost:8000", 403),  # browsers write it in lower case; whatever this is, it is none of them
        ("http://localhost", 403),
        ("http://localhost:8001", 403),
        ("https://localhost:8000", 403),
        ("http://127.0.0.1:8000", 403),
        ("http://evil.example", 403),
        ("http://localhost:8000.evil.example", 403),
        ("http://localhost:8000/", 403),
        ("file://", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_an_origin_is_that_of_the_host_also_with_a_bearer_token(origin: str, expected: str | int) -> None:
    assert outcome(HOST, BEARER, ("origin", origin)) == expected


def test_an_origin_may_leave_the_usual_port_out() -> None:
    assert outcome(("host", "localhost:80"), ("origin", "http://localhost"), BEARER) == "bearer"
    assert outcome(("host", "localhost"), ("origin", "https://localhost:443"), BEARER, scheme="https") == "bearer"


def test_two_origins_are_none() -> None:
    assert outcome(HOST, BEARER, ORIGIN, ORIGIN) == 403


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], 401),
        ([("authorization", f"Bearer {TOKEN}")], "bearer"),
        ([("authorization", f"bearer  {TOKEN}")], "bearer"),
        ([("authorization", f"Bearer {TOKEN}x")], 401),
        ([("authorization", f"Bearer {TOKEN[:-1]}")], 401),
        ([("authorization", "Bearer ")], 401),
        ([("authorization", "Bearer")], 401),
        ([("authorization", f"Basic {TOKEN}")], 401),
        ([("authorization", TOKEN)], 401),
        ([("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")], 401),
        ([("x-token", TOKEN)], 401),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_bearer_token_is_the_whole_token(kind: str, headers: list[tuple[str, str]], expected: str | int) -> None:
    assert outcome(HOST, *headers, kind=kind) == expected


def test_a_wrong_bearer_token_is_not_made_good_by_a_cookie() -> None:
    assert outcome(HOST, ORIGIN, COOKIE, ("authorization", "Bearer wrong")) == 401


def test_the_password_of_another_gate_does_not_hide_the_cookie() -> None:
    assert outcome(HOST, ORIGIN, COOKIE, ("authorization", "Basic dTpw")) == "cookie"


def test_a_bearer_request_needs_neither_origin_nor_content_type() -> None:
    assert outcome(HOST, BEARER, BODY) == "bearer"
    assert outcome(HOST, BEARER, BODY, ("content-type", "application/x-www-form-urlencoded")) == "bearer"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "ANY"])
@pytest.mark.parametrize(("rules", "by", "login"), [(RULES, "cookie", [COOKIE]), (NO_TOKEN, "no-token", [])])
def test_without_a_bearer_token_all_but_get_needs_an_origin(
    method: str, rules: Rules, by: str, login: list[tuple[str, str]]
) -> None:
    assert outcome(HOST, *login, method=method, rules=rules) == 403
    assert outcome(HOST, *login, ORIGIN, method=method, rules=rules) == by


@pytest.mark.parametrize(("rules", "by", "login"), [(RULES, "cookie", [COOKIE]), (NO_TOKEN, "no-token", [])])
def test_without_a_bearer_token_a_websocket_needs_an_origin(rules: Rules, by: str, login: list[tuple[str, str]]) -> None:
    assert outcome(HOST, *login, kind="websocket", scheme="ws", method="GET", rules=rules) == 403
    assert outcome(HOST, *login, ORIGIN, kind="websocket", scheme="ws", method="GET", rules=rules) == by


@pytest.mark.parametrize(
    ("site", "expected"), [("same-origin", "ok"), ("none", "ok"), ("same-site", 403), ("cross-site", 403), ("", 403)]
)
@pytest.mark.parametrize(("rules", "by", "login"), [(RULES, "cookie", [COOKIE]), (NO_TOKEN, "no-token", [])])
def test_without_a_bearer_token_a_get_comes_from_the_page_itself(
    site: str, expected: str | int, rules: Rules, by: str, login: list[tuple[str, str]]
) -> None:
    want = by if expected == "ok" else expected
    assert outcome(HOST, *login, ("sec-fetch-site", site), method="GET", path="/metrics", rules=rules) == want
    assert outcome(HOST, *login, method="GET", path="/metrics", rules=rules) == by


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([BODY, JSON], "ok"),
        ([BODY, ("content-type", "Application/JSON; charset=utf-8")], "ok"),
        ([("content-length", "0")], "ok"),
        ([BODY], 415),
        ([BODY, ("content-type", "text/plain")], 415),
        ([BODY, ("content-type", "application/jsonx")], 415),
        ([BODY, JSON, ("content-type", "text/plain")], 415),
        ([("transfer-encoding", "chunked")], 415),
        ([("transfer-encoding", "chunked"), ("content-length", "0")], 415),
        ([("transfer-encoding", "chunked"), JSON], "ok"),
    ],
)
@pytest.mark.parametrize(("rules", "by", "login"), [(RULES, "cookie", [COOKIE]), (NO_TOKEN, "no-token", [])])
def test_without_a_bearer_token_a_body_is_json(
    headers: list[tuple[str, str]], expected: str | int, rules: Rules, by: str, login: list[tuple[str, str]]
) -> None:
    assert outcome(HOST, ORIGIN, *login, *headers, rules=rules) == (by if expected == "ok" else expected)


@pytest.mark.parametrize(
    "value",
    [
        "bgpy-8001={good}",  # of another gateway on this host
        "bgpy-8000={good}x",
        "bgpy-8000=",
        "bgpy-8000=1.2.3",
        f"bgpy-8000={TOKEN}",
        "bgpy-8000={good}; bgpy-8000={good}",
        "__Host-bgpy-8000={good}",
    ],
)
def test_another_cookie_is_none(value: str) -> None:
    good = make_cookie(KEY, "bgpy-8000", NOW)
    assert outcome(HOST, ORIGIN, ("cookie", value.format(good=good))) == 401


def test_a_cookie_ends() -> None:
    assert outcome(HOST, ORIGIN, COOKIE, now=NOW + LIFETIME - 1) == "cookie"
    assert outcome(HOST, ORIGIN, COOKIE, now=NOW + LIFETIME) == 401


def test_a_cookie_of_https_has_the_name_of_https() -> None:
    name = "__Host-bgpy-443"
    cookie = ("cookie", f"other=1; {name}={make_cookie(KEY, name, NOW)}")
    host, origin = ("host", "big.example"), ("origin", "https://big.example")
    assert outcome(host, origin, cookie, scheme="https") == "cookie"
    assert outcome(host, ("origin", "http://big.example"), cookie) == 401


@pytest.mark.parametrize("name", ["forwarded", "via", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip"])
def test_without_a_token_nothing_passes_that_came_through_a_proxy(name: str) -> None:
    assert outcome(HOST, ORIGIN, rules=NO_TOKEN) == "no-token"
    assert outcome(HOST, ORIGIN, (name, "x"), rules=NO_TOKEN) == 403
    assert outcome(HOST, (name, "x"), method="GET", path="/healthz", rules=NO_TOKEN) == 403
    assert outcome(HOST, BEARER, (name, "x")) == "bearer"


def test_what_is_open_is_open_by_method_and_path() -> None:
    assert outcome(HOST, method="GET", path="/healthz") == "open"
    assert outcome(HOST, method="HEAD", path="/healthz") == "open"
    assert outcome(HOST, method="POST", path="/healthz") == 401
    assert outcome(HOST, method="GET", path="/login") == 401
    assert outcome(HOST, method="GET", path="/healthz/x") == 401
    assert outcome(HOST, kind="websocket", scheme="ws", method="GET", path="/healthz") == 401


def test_the_page_is_open_to_browsers_only() -> None:
    assert outcome(HOST, ("accept", "text/html,*/*"), method="GET", path="/") == "open"
    assert outcome(HOST, ("accept", "*/*"), method="GET", path="/") == 401
    assert outcome(HOST, ("accept", "text/html"), method="POST", path="/") == 401
    assert outcome(HOST, ("accept", "text/html"), method="GET", path="/metrics") == 401


def talking(*headers: tuple[str, str], path: str = "/runtime", rules: Rules = RULES) -> str | int:
    """Return the outcome for a WebSocket on which the token may be the first message."""
    return outcome(*headers, kind="websocket", scheme="ws", method="GET", path=path, rules=rules)


def test_who_shows_nothing_may_say_the_token_on_the_websockets_that_are_for_it() -> None:
    assert talking(HOST) == "first-message"
    assert talking(HOST, ORIGIN) == "first-message"
    assert talking(HOST, ("cookie", "bgpy-8000=1.2.3.4")) == "first-message"  # a page whose cookie has ended
    assert talking(HOST, ("authorization", "Basic dTpw")) == "first-message"
    assert talking(HOST, path="/watch") == 401
    assert talking(HOST, path="/runtime/x") == 401
    for method in ("GET", "POST"):
        assert outcome(HOST, method=method, path="/runtime") == 401


def test_who_shows_something_is_judged_by_that() -> None:
    assert talking(HOST, BEARER) == "bearer"
    assert talking(HOST, ("authorization", "Bearer wrong")) == 401
    assert talking(HOST, BEARER, BEARER) == 401
    assert talking(HOST, COOKIE, ORIGIN) == "cookie"
    assert talking(HOST, COOKIE) == 403


def test_the_rules_of_host_origin_and_proxies_come_before_the_first_message() -> None:
    assert talking() == 400
    assert talking(HOST, HOST) == 400
    assert talking(("host", "evil.example")) == 403
    assert talking(HOST, ("origin", "http://evil.example")) == 403
    assert talking(HOST, ("origin", "null")) == 403
    assert talking(HOST, ("origin", "https://localhost:8000")) == 403
    assert talking(HOST, ORIGIN, ("via", "x"), rules=NO_TOKEN) == 403
    assert talking(HOST, rules=NO_TOKEN) == 403  # nobody needs to say it; a page says where it is from
    assert talking(HOST, ORIGIN, rules=NO_TOKEN) == "no-token"


def test_a_refusal_does_not_show_the_token() -> None:
    raw = [(b"host", b"localhost"), (b"authorization", b"Bearer wrong")]
    verdict = judge(read_facts("http", "POST", "http", "/", raw), RULES, NOW)
    assert isinstance(verdict, Refusal)
    assert TOKEN not in verdict.reason
    assert "wrong" in verdict.reason  # the word of the sentence, not what was shown
    assert "Bearer wrong" not in verdict.reason


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["host", "origin", "authorization", "cookie", "content-type", "x-forwarded-for", "accept", "via"]),
            st.one_of(st.text(max_size=40), st.sampled_from(["localhost", "null", "Bearer ", "bgpy-80=1.2.3.4", "text/html"])),
        ),
        max_size=6,
    ),
    st.sampled_from(["GET", "POST", "HEAD"]),
    st.sampled_from(["/", "/push_job", "/healthz", "/runtime"]),
    st.sampled_from(["http", "websocket"]),
)
def test_property_nothing_but_the_open_passes_without_a_login(
    headers: list[tuple[str, str]], method: str, path: str, kind: Any
) -> None:
    raw = [(name.encode(), value.encode("utf-8", "surrogatepass")) for name, value in headers]
    verdict = judge(read_facts(kind, method, "http", path, raw), RULES, NOW)
    if isinstance(verdict, Allow) and kind == "websocket":
        assert (verdict.by, path) == ("first-message", "/runtime")
    elif isinstance(verdict, Allow):
        assert (verdict.by, method in ("GET", "HEAD"), path in ("/", "/healthz")) == ("open", True, True)


def test_hosts_and_origins_are_split_by_one_rule() -> None:
    assert split_host("[::1]:80") == ("::1", 80)
    assert split_host("a_b.example") == ("a_b.example", None)
    assert split_host("a b") is None
    assert split_origin("https://[::1]") == ("https", "::1", 443)
    assert split_origin("ftp://localhost") is None
    assert split_origin("localhost") is None
