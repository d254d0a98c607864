"""The gateway as a process and as a thread: what it refuses to serve, how it ends, and what outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.certificates import Files
from support.gateway_process import Process
from support.gateways import BEARER, TOKEN, RunningGateway, Workspaces, running_gateway, wait_until
from support.servers import Served, background_server, running_server, tasks
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from bgpy.errors import ServerStartError, TlsError, TokenError
from bgpy.gateway import GatewayServer, Limits, Settings, serve_gateway
from bgpy.gateway.settings import check_settings

ALL = "0.0.0.0"


@pytest.mark.parametrize(
    ("settings", "error", "reason"),
    [
        ({"bind_host": ALL, "token": TOKEN}, TlsError, "needs TLS"),
        ({"bind_host": ALL, "token": TOKEN, "no_token": True, "insecure": True}, TokenError, "loopback only"),
        ({"bind_host": ALL, "token": "", "insecure": True}, TokenError, "loopback only"),
        ({"bind_host": ALL, "token": "short", "insecure": True}, TokenError, "too short"),
        ({"no_token": True, "proxy": ("127.0.0.1",)}, TokenError, "reverse proxy"),
        ({"token": TOKEN, "proxy": ("*",)}, ServerStartError, "no address of a reverse proxy"),
        ({"token": TOKEN, "allow_hosts": ("http://lab",)}, ServerStartError, "no name of a host"),
        ({"token": TOKEN, "allow_hosts": ("lab:80",)}, ServerStartError, "no name of a host"),
        ({"bind_host": "no.such.host.invalid", "token": TOKEN}, ServerStartError, "cannot listen"),
        ({"bind_port": 70000, "token": TOKEN}, ServerStartError, "from 0 to 65535"),
    ],
)
def test_what_would_open_the_machine_is_refused(settings: dict[str, Any], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        check_settings(Settings(**settings))
    with pytest.raises(error, match=reason):
        serve_gateway(Settings(**{"bind_port": 0, **settings}))


def test_what_is_safe_is_let_be() -> None:
    for settings in (
        Settings(token=TOKEN),
        Settings(no_token=True),
        Settings(token=""),
        Settings(token=TOKEN, bind_host=ALL, insecure=True),
        Settings(token=TOKEN, bind_host=ALL, certfile="cert.pem"),
        Settings(token=TOKEN, proxy=("10.0.0.1", "::1")),
    ):
        assert check_settings(settings).token is not None


def test_certificates_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(TlsError, match="cannot be used"):
        GatewayServer(Settings(token=TOKEN, bind_port=0, certfile=str(tmp_path / "none.pem")))


def test_a_port_in_use_is_an_error_with_its_reason() -> None:
    server = GatewayServer(Settings(token=TOKEN, bind_port=0))
    try:
        with pytest.raises(ServerStartError, match="in use"):
            serve_gateway(Settings(token=TOKEN, bind_port=server.address[1]))
    finally:
        server.close()


def test_the_listener_says_that_it_is_tcp() -> None:
    """Else asyncio leaves Nagle's algorithm on, and an answer in two pieces takes 40 ms."""
    server = GatewayServer(Settings(token=TOKEN, bind_port=0))
    try:
        assert server._listener.proto == socket.IPPROTO_TCP
    finally:
        server.close()


def test_listening_off_loopback_without_tls_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    GatewayServer(Settings(token=TOKEN, bind_host=ALL, bind_port=0, insecure=True)).close()
    assert "has no TLS" in caplog.text
    assert TOKEN not in caplog.text


@contextmanager
def served() -> Iterator[Served]:
    with running_server(tasks(Workspaces().run), token=TOKEN) as server:
        yield server


def test_over_tls_the_cookie_is_secure(certificates: Files) -> None:
    tls: dict[str, Any] = {"certfile": certificates.certificate, "keyfile": certificates.key}
    with running_gateway(**tls) as gateway:
        context = ssl.create_default_context(cafile=certificates.certificate)
        url = gateway.url.replace("127.0.0.1", "localhost")
        assert url.startswith("https://localhost:")
        with httpx.Client(base_url=url, verify=context, trust_env=False) as http:
            answer = http.post("/login", json={"token": TOKEN}, headers={"origin": url.rstrip("/")})
            cookie = answer.headers["set-cookie"]
            assert cookie.startswith(f"__Host-bgpy-{gateway.port}=")
            assert "; Secure" in cookie
            assert http.post("/get_workspace", headers={"origin": url.rstrip("/")}).status_code == 200
            assert http.post("/get_workspace", headers={"origin": url.rstrip("/").replace("s", "", 1)}).status_code == 403


def test_a_gateway_that_is_started_again_knows_its_cookies_and_the_server_has_not_noticed() -> None:
    with served() as server:
        gateway = RunningGateway(server)
        port = gateway.port
        with gateway.client(token=None) as http:
            origin = {"origin": gateway.url.rstrip("/")}
            http.post("/login", json={"token": TOKEN}, headers=origin)
            gateway.end()
            gateway = RunningGateway(server, bind_port=port)
            try:
                assert http.post("/get_workspace", headers=origin).json() == {"request_result": True, "result": {}}
            finally:
                gateway.end()


def test_without_a_token_the_page_itself_gets_in_and_nobody_elses() -> None:
    with running_gateway(no_token=True) as gateway, gateway.client(token=None) as http:
        origin = {"origin": gateway.url.rstrip("/")}
        assert http.post("/get_workspace", json={}, headers=origin).status_code == 200
        assert http.post("/get_workspace", json={}).status_code == 403
        assert http.post("/get_workspace", content=b"{}", headers=origin).status_code == 415
        assert http.post("/get_workspace", json={}, headers={**origin, "x-forwarded-for": "1.2.3.4"}).status_code == 403
        assert http.get("/metrics", headers={"sec-fetch-site": "cross-site"}).status_code == 403
        assert http.get("/metrics", headers={"host": f"evil.example:{gateway.port}"}).status_code == 403
        assert http.post("/login", json={}, headers=origin).json() == {"request_result": True, "result": True}


def test_what_a_proxy_says_is_believed_from_the_proxy_only() -> None:
    """The scheme is what it is about: with https said by the proxy, the Origin of the page is that of https."""
    behind = {**BEARER, "x-forwarded-proto": "https", "host": "big.example", "origin": "https://big.example"}
    for proxy, status in ((("127.0.0.1",), 200), ((), 403), (("10.0.0.1",), 403)):
        with running_gateway(allow_hosts=("Big.example",), proxy=proxy) as gateway, gateway.client() as http:
            assert http.post("/get_workspace", headers=behind).status_code == status


@pytest.mark.parametrize(("requests", "part"), [(0, b""), (0, b"GET /healthz HTTP/1.1\r\nHost: loc"), (2, b"G")])
def test_who_does_not_finish_the_head_of_a_request_is_let_go(requests: int, part: bytes) -> None:
    """Else whoever opens enough connections shuts out all others, also without a token."""
    with running_gateway(limits=Limits(head_timeout=0.5)) as gateway:
        with socket.create_connection(("127.0.0.1", gateway.port), 20) as sock:
            sock.settimeout(20)
            for _ in range(requests):
                sock.sendall(b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert sock.recv(65536).startswith(b"HTTP/1.1 200")
            sock.sendall(part)
            assert sock.recv(65536) == b""


def test_only_the_head_of_a_request_has_to_come_soon() -> None:
    workspaces = Workspaces()
    with running_gateway(workspaces, limits=Limits(head_timeout=1.0)) as gateway:
        with socket.create_connection(("127.0.0.1", gateway.port), 20) as sock, gateway.client() as http:
            head = f"POST /json_test HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 4\r\n\r\n"
            sock.settimeout(20)
            sock.sendall(head.encode() + b"1")
            wait_for_head_timeouts(gateway.port)
            sock.sendall(b"234")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
            with connect(gateway.url.replace("http", "ws") + "watch", additional_headers=BEARER, proxy=None) as watcher:
                wait_for_head_timeouts(gateway.port)
                watcher.send('{"name": "lab"}')
                assert json.loads(watcher.recv(timeout=20))["result"]["event"] == "begun"
            assert http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "pieces",
    [
        [b"x-long: " + b"a" * 70_000 + b"\r\n\r\n"],
        [b"x-long: ", *[b"a" * 10_000] * 8],
        [b"x-%d: a\r\n" % number * 100 for number in range(100)],
    ],
    ids=["at once", "without an end", "many"],
)
def test_a_head_without_an_end_is_refused(pieces: list[bytes]) -> None:
    """Else whoever reaches the port could fill the memory, also without a token."""
    with running_gateway() as gateway, socket.create_connection(("127.0.0.1", gateway.port), 20) as sock:
        sock.settimeout(20)
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        with contextlib.suppress(OSError):  # it may be closed before all is out
            for piece in pieces:
                sock.sendall(piece)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(65536).startswith(b"HTTP/1.1 431")
            assert sock.recv(65536) == b""


def test_what_follows_a_chunked_body_has_an_end() -> None:
    head = f"POST /json_test HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with running_gateway() as gateway, socket.create_connection(("127.0.0.1", gateway.port), 20) as sock:
        sock.settimeout(20)
        sock.sendall(head.encode() + b"4\r\n1234\r\n0\r\nx-last: yes\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        sock.sendall(head.encode() + b"4\r\n1234\r\n0\r\nx-long: ")
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(b"a" * 10_000)
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(65536):
                pass


def wait_for_head_timeouts(port: int) -> None:
    """Return when connections that are opened now, and all before them, would have been let go."""
    with socket.create_connection(("127.0.0.1", port), 20) as sock:
        sock.settimeout(20)
        assert sock.recv(1) == b""


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_gateway_with_watchers_and_requests_within_five_seconds(number: int) -> None:
    workspaces = Workspaces()
    workspaces.answers["get_status"] = workspaces.wait_at_the_gate
    with running_server(tasks(workspaces.run), token=TOKEN) as server:
        process = Process(port=server.port)
        with (
            connect(process.url.replace("http", "ws") + "watch", additional_headers=BEARER, proxy=None) as watcher,
            httpx.Client(base_url=process.url, headers=BEARER, trust_env=False) as http,
            http.stream("POST", "/watch", json={"name": "lab"}) as stream,
            http.stream("POST", "/watch", json={"name": "lab"}),
        ):
            watcher.send('{"name": "lab"}')
            watcher.recv(timeout=20)
            ask_in_background(process.url, workspaces)
            began = time.monotonic()
            process.signal(number)
            exit_code, errors = process.end()
            assert time.monotonic() - began < 5
            assert exit_code == 0
            assert errors == ""
            stream.read()
            with pytest.raises(ConnectionClosed):
                watcher.recv(timeout=20)
        workspaces.open.set()
        for _ in range(3):
            workspaces.events.put(None)


@pytest.mark.process
def test_a_watcher_that_takes_no_bytes_does_not_hold_up_the_end() -> None:
    workspaces = Workspaces()
    with running_server(tasks(workspaces.run), token=TOKEN) as server:
        process = Process(port=server.port)
        try:
            with stalled_watcher(process.url, workspaces):
                began = time.monotonic()
                process.signal(signal.SIGTERM)
                exit_code, errors = process.end()
                assert time.monotonic() - began < 5
                assert exit_code == 0
                assert "Traceback" not in errors
        finally:
            workspaces.events.put(None)


@contextmanager
def stalled_watcher(url: str, workspaces: Workspaces) -> Iterator[None]:
    """Watch, read nothing, and go on once far more is under way than any buffer holds."""
    body = b'{"name": "lab"}'
    head = f"POST /watch HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), 20) as sock:
        sock.sendall(head.encode() + body)
        assert workspaces.watched.wait(20)
        for number in range(30):
            workspaces.events.put({"event": "output", "number": number, "text": "x" * 1_000_000})
        wait_until(lambda: 0 < workspaces.events.qsize() < 25)
        yield


def ask_in_background(url: str, workspaces: Workspaces) -> None:
    """Send a request that the server holds, and go on while it is under way."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    body = b'{"name": "lab"}'
    head = f"POST /get_status HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), 20) as sock:
        sock.sendall(head.encode() + body)
        assert workspaces.begun.acquire(timeout=20)
        kept = sock.dup()
    kept.close()


JOB = """
import socket
with socket.create_connection(("127.0.0.1", {port})) as asking:
    seen = asking.recv(1)
"""


@pytest.mark.process
def test_a_gateway_that_is_killed_while_a_push_waits_takes_nothing_with_it() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(20)
    job = {"name": "lab", "job": JOB.format(port=listening.getsockname()[1]), "type": 1, "timeout": 60}
    with background_server("bgpy.tasks.workspace", token=TOKEN) as server, listening:
        process = Process(port=server.port)
        asking = {"headers": BEARER, "trust_env": False, "timeout": 30.0}
        httpx.post(f"{process.url}create_workspace", json={"name": "lab"}, **asking)  # type: ignore[arg-type]
        with ThreadPoolExecutor(1) as threads:
            pushed = threads.submit(httpx.post, f"{process.url}push_job", json=job, **asking)  # type: ignore[arg-type]
            with listening.accept()[0] as running:
                process.signal(signal.SIGKILL)
                assert process.end()[0] == -signal.SIGKILL
                with pytest.raises(httpx.TransportError):
                    pushed.result(20)
                process = Process(port=server.port)
                with httpx.Client(base_url=process.url, **asking) as http:  # type: ignore[arg-type]
                    assert http.post("/get_status", json={"name": "lab"}).json()["result"]["STATUS"] == "BUSY"
                    running.sendall(b"x")
                    record = http.post("/get_record", json={"name": "lab", "timeout": 20}).json()["result"]
                    assert (record["number"], record["state"]) == (0, "done")
                    seen = http.post("/get_variable", json={"name": "lab", "variable": "seen"}).json()["result"]
                    assert seen == "eA=="
        process.signal(signal.SIGTERM)
        assert process.end() == (0, "")


@pytest.mark.parametrize("there", [True, False])
def test_it_runs_on_uvloop_and_where_there_is_none_on_asyncio(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if there:
        pytest.importorskip("uvloop", reason="there is none for Windows")
    else:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    loops: queue.SimpleQueue[str] = queue.SimpleQueue()
    with running_server(tasks(Workspaces().run), token=TOKEN) as served, ThreadPoolExecutor(1) as pool:
        gateway = GatewayServer(Settings(port=served.port, token=TOKEN, bind_port=0))
        run = pool.submit(gateway.run, lambda url: loops.put(type(asyncio.get_running_loop()).__module__))
        try:
            assert loops.get(timeout=20).partition(".")[0] == ("uvloop" if there else "asyncio")
            answer = httpx.post(f"{gateway.url}get_workspace/", json={}, headers=BEARER, timeout=20, trust_env=False)
            assert answer.json()["request_result"] is True
        finally:
            gateway.stop()
        assert run.result(20) == 0


def test_a_gateway_may_be_stopped_before_it_serves_and_twice() -> None:
    stopped: list[Callable[[], None]] = []
    server = GatewayServer(Settings(token=TOKEN, port=1, bind_port=0))
    stopped.append(server.stop)
    assert server.run(lambda url: stopped[0]()) == 0
    server.stop()
