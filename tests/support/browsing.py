"""`bgpy serve` as a process, and pages of it in a headless Chromium, with an eye on what they should not do."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from bgpy.gateway import create_app
from support.commands import ROOT, command, environment

try:
    from playwright.sync_api import expect
except ImportError:
    expect = None  # type: ignore[assignment]  # there is no browser either: what would use it is skipped

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

__all__ = ["NO_CHROMIUM", "TOKEN", "Served", "Visit", "expect", "mounted", "running_browser", "serving", "visiting"]

TOKEN = "a token of more than 22 characters"
#: The words of the lines that a machine without the browser has among its tests; .ci/run looks for them.
NO_CHROMIUM = "Chromium is not installed: .ci/run installs Debian's package chromium"
#: Where screenshots go; docs/images are made with BGPY_SCREENSHOTS=docs/images
SCREENSHOTS = Path(os.environ.get("BGPY_SCREENSHOTS") or ROOT / "artifacts")
#: Milliseconds that a page may take for what a test waits for.
PATIENCE = 30_000
VIEWPORT = {"width": 1280, "height": 800}


def find_chromium() -> str:
    """Return the path of Chromium; skips the test where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip(NO_CHROMIUM)
    return found


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """Run Chromium; skips the test where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = find_chromium()
    sync_api.expect.set_options(timeout=PATIENCE)
    # Its own sandbox does not work for root, as whom containers run.
    options = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        try:
            yield browser
        finally:
            browser.close()


class Served(NamedTuple):
    """
    A `bgpy serve` that runs.

    Attributes
    ----------
    url
        Of the page, with a slash at its end.
    port
        Of the server behind the gateway.
    cookie
        One of a browser that is logged in.
    """

    url: str
    port: int
    cookie: Mapping[str, str]

    def ask(self, path: str, **fields: Any) -> Any:
        """Send a command and return its result; fails where it is refused."""
        headers = {"authorization": f"Bearer {TOKEN}"}
        answer = httpx.post(self.url + path, json=fields, headers=headers, timeout=30, trust_env=False).json()
        assert answer["request_result"] is True, answer
        return answer["result"]


@contextlib.contextmanager
def serving(home: Path, *args: str) -> Iterator[Served]:
    """Run ``bgpy serve ARGS`` in the foreground; it ends with all that it has started."""
    home.mkdir(mode=0o700, exist_ok=True)
    with open(home / "log.txt", "w") as log:
        process = subprocess.Popen(
            command("serve", "--bind", "127.0.0.1:0", *args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment(BGPY_HOME=str(home), BGPY_TOKEN=TOKEN),
        )
    with process:
        try:
            assert process.stdout is not None
            said = "".join(process.stdout.readline() for _ in range(3))
            found = re.search(r"The page: (\S+)\n[^\0]*the server at \S+:(\d+)", said)
            assert found is not None, said + (home / "log.txt").read_text()
            url, port = found[1], int(found[2])
            login = httpx.post(f"{url}login", json={"token": TOKEN}, headers={"origin": url.rstrip("/")}, trust_env=False)
            name, value = next(iter(login.cookies.items()))
            yield Served(url, port, {"name": name, "value": value, "url": url})
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            finally:
                process.kill()


@contextlib.contextmanager
def mounted(served: Served, **options: Any) -> Iterator[str]:
    """Run an app that has a gateway of its own below a path; yield the address of that."""
    gateway = create_app(port=served.port, token=TOKEN, **options)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await gateway.close()

    app = Starlette(routes=[Mount("/in/the lab", gateway)], lifespan=lifespan)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", loop="asyncio", timeout_graceful_shutdown=3))
        thread = threading.Thread(target=server.run, args=([listening],), name="mounted")
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/in/the%20lab/"  # who comes before it is ready waits
        finally:
            server.should_exit = True
            thread.join(20)


class Visit:
    """
    One tab, with what it did that it should not have.

    Attributes
    ----------
    noise
        Errors and warnings of the console, errors of scripts, and addresses of other hosts that were asked for: to be none.
    """

    def __init__(self, context: BrowserContext, served: Served) -> None:
        self.served = served
        self.noise: list[str] = []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.noise.append(said.text))
        self.page.on("pageerror", lambda error: self.noise.append(str(error)))
        self.page.on("request", lambda request: self._look(request.url))
        self.page.on("websocket", lambda socket: self._look(socket.url))

    def _look(self, url: str) -> None:
        if not url.replace("ws://", "http://").startswith(self.served.url):
            self.noise.append(f"asked for {url}")

    def go(self, place: str = "") -> Page:
        """Open the page at a place, such as ``#server``, and return it."""
        self.page.goto(self.served.url + place)
        return self.page

    def shoot(self, name: str) -> None:
        """Keep a picture of what a person sees now."""
        from PIL import Image  # comes with matplotlib

        # Not by its `path`: for that Playwright starts a thread, which stays.
        with Image.open(io.BytesIO(self.page.screenshot(animations="disabled"))) as picture:
            small = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        small.save(SCREENSHOTS / f"{name}.png", optimize=True)


@contextlib.contextmanager
def visiting(browser: Browser, served: Served, *, logged_in: bool = True, **options: Any) -> Iterator[Visit]:
    """Open a tab of a browser of its own; fails where it was not quiet."""
    context = browser.new_context(**{"viewport": VIEWPORT, "locale": "en-GB", "timezone_id": "UTC", **options})
    try:
        if logged_in:
            context.add_cookies([dict(served.cookie)])  # type: ignore[list-item]
        visit = Visit(context, served)
        yield visit
        visit.page.close()
    finally:
        context.close()
    assert not visit.noise, visit.noise
