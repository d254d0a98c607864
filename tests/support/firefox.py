"""A headless Firefox, driven over WebDriver BiDi (w3c.github.io/webdriver-bidi): Playwright drives builds of its own only."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.browsing import PATIENCE, Served

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

#: The words of the lines that a machine without the browser has among its tests; .ci/run looks for them.
NO_FIREFOX = "Firefox is not installed: .ci/run installs Debian's package firefox-esr"
CONTROL, ENTER = "\ue009", "\ue007"
#: Resolves with the first visible element that a selector finds and whose text has a text in it, once there is one.
_FIND = """(selector, text) => new Promise((resolve) => {
  const look = () => {
    const found = [...document.querySelectorAll(selector)].find((one) => one.textContent.includes(text) && one.checkVisibility());
    if (found) {
      watcher.disconnect();
      resolve(found);
    }
  };
  const watcher = new MutationObserver(look);
  watcher.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
  look();
})"""


def find_firefox() -> str:
    """Return the path of Firefox; skips the test where there is none."""
    found = shutil.which("firefox-esr") or shutil.which("firefox")
    if found is None:
        pytest.skip(NO_FIREFOX)
    return found


class Tab:
    """
    One tab of a Firefox, with what it did that it should not have.

    Attributes
    ----------
    noise
        Errors and warnings of the console, errors of scripts, and addresses of other hosts that were asked for: to be none.
    """

    def __init__(self, wire: ClientConnection, served: Served) -> None:
        self.noise: list[str] = []
        self._wire = wire
        self._served = served
        self._numbers = itertools.count(1)
        self.version = self._ask("session.new", capabilities={})["capabilities"]["browserVersion"]
        self._ask("session.subscribe", events=["log.entryAdded", "network.beforeRequestSent"])
        self._context = self._ask("browsingContext.getTree")["contexts"][0]["context"]

    def go(self, place: str = "") -> None:
        """Open the page at a place."""
        self._ask("browsingContext.navigate", context=self._context, url=self._served.url + place, wait="complete")

    def find(self, selector: str, text: str = "") -> dict[str, Any]:
        """Return the first visible element that a selector finds and that has a text, as soon as there is one."""
        arguments = [{"type": "string", "value": value} for value in (selector, text)]
        target = {"context": self._context}
        answer = self._ask(
            "script.callFunction", functionDeclaration=_FIND, arguments=arguments, target=target, awaitPromise=True
        )
        assert answer["type"] == "success", answer
        return {"sharedId": answer["result"]["sharedId"]}

    def click(self, element: dict[str, Any]) -> None:
        """Click into the middle of an element."""
        steps: list[dict[str, Any]] = [
            {"type": "pointerMove", "x": 0, "y": 0, "origin": {"type": "element", "element": element}},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        self._act({"type": "pointer", "id": "mouse", "actions": steps})

    def type(self, text: str, held: str = "") -> None:
        """Press key after key, all of them while another one is held."""
        steps = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        if held:
            steps = [{"type": "keyDown", "value": held}, *steps, {"type": "keyUp", "value": held}]
        self._act({"type": "key", "id": "keys", "actions": steps})

    def close(self) -> None:
        """End the browser."""
        self._ask("browser.close")

    def _act(self, source: dict[str, Any]) -> None:
        self._ask("input.performActions", context=self._context, actions=[source])

    def _ask(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        self._wire.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            said = json.loads(self._wire.recv(PATIENCE / 1000))
            if said.get("id") == number:
                assert said["type"] == "success", said
                return said["result"]
            if said["type"] == "event":
                self._hear(said["method"], said["params"])

    def _hear(self, event: str, details: dict[str, Any]) -> None:
        if event == "log.entryAdded":
            if details["level"] in ("error", "warn"):
                self.noise.append(details["text"])
        elif event == "network.beforeRequestSent":
            url = details["request"]["url"].replace("ws://", "http://")
            if not url.startswith((self._served.url, "about:", "blob:", "data:")):
                self.noise.append(f"asked for {url}")


@contextlib.contextmanager
def running_firefox(profile: Path, served: Served) -> Iterator[Tab]:
    """Run Firefox with a profile of its own, and yield its tab; fails where that was not quiet."""
    client = pytest.importorskip("websockets.sync.client")
    arguments = [find_firefox(), "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
    profile.mkdir()
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stderr is not None
        try:
            said = ""
            while (found := re.search(r"BiDi listening on (ws://\S+)", said)) is None and (line := process.stderr.readline()):
                said += line
            assert found is not None, said
            with client.connect(f"{found[1]}/session", max_size=None, proxy=None) as wire:
                tab = Tab(wire, served)
                yield tab
                tab.close()
            process.wait(20)
        finally:
            process.kill()
    assert not tab.noise, tab.noise
