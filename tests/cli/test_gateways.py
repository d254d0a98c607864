"""bgpy gateway --server: several servers by their names, what is said of wrong use, and that no token is on a command line."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from support.commands import next_line, running_command
from support.servers import background_server

import bgpy
from bgpy.cli import main
from bgpy.token import find_token

pytestmark = pytest.mark.process
LONG = 30.0
OTHER = "another token of more than 22 characters"


@pytest.fixture(autouse=True)
def _own_home(bgpy_home: Path) -> None:
    """Let names and tokens be those of the test."""


@contextmanager
def gateway(*args: str) -> Iterator[tuple[httpx.Client, subprocess.Popen[str], str]]:
    """Run the command; give a client that shows this user's token, the process, and what it has said last."""
    with running_command("gateway", *args, "--bind", "127.0.0.1:0") as process:
        page, _, place = (next_line(process) for _ in range(3))
        headers = {"authorization": f"Bearer {find_token()}"}
        with httpx.Client(base_url=page.removeprefix("The page: "), headers=headers, timeout=LONG, trust_env=False) as http:
            yield http, process, place


def said(*args: str) -> str:
    """Return the one line of an error."""
    result = CliRunner().invoke(main, ["gateway", *args])
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    return str(line)


def workspaces(http: httpx.Client, server: str) -> Any:
    return http.post(f"/servers/{server}/get_workspace").json()["result"]


def test_servers_by_name_by_address_and_with_a_token_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{OTHER}\n")
    with (
        background_server("bgpy.tasks.workspace", name="models") as models,
        background_server("bgpy.tasks.workspace", token=OTHER) as lab,
    ):
        servers = ("--server", "models", "--server", f"lab=127.0.0.1:{lab.port}", "--server", "gone=localhost:1")
        with gateway(*servers, "--server-token-file", f"lab={tmp_path / 'token'}") as (http, process, place):
            assert place == "It passes on to models, lab, gone. Ctrl-C ends it."
            listed = http.get("/servers").json()["result"]
            assert [(one["name"], one["alive"]) for one in listed] == [("models", True), ("lab", True), ("gone", False)]
            assert listed[0]["address"] == f"127.0.0.1:{models.port}"
            assert http.post("/servers/lab/create_workspace", json={"name": "one", "type": "thread"}).json()["result"] == "one"
            assert (workspaces(http, "models"), workspaces(http, "lab")) == ([], ["one"])
            if Path("/proc/self").exists():
                for secret in (OTHER, find_token()):
                    assert secret.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=LONG)
        assert (process.returncode, output, "Traceback" in errors) == (0, "", False)
        for server, token in ((models, None), (lab, OTHER)):
            with bgpy.Client(server.host, server.port, token) as client:
                client.terminate()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--server", "127.0.0.1:5000"), "--server is NAME=HOST:PORT, or the NAME of a server that runs on this machine"),
        (("--server", "gpu=5000"), "--server gpu= is HOST:PORT, with a port from 1 to 65535"),
        (("--server", "gpu=localhost:x"), "--server gpu= is HOST:PORT"),
        (("--server", "gpu=::1:5000"), "an IPv6 address has brackets"),
        (("--server", "gpu=localhost:0"), "--server gpu= is HOST:PORT, with a port from 1 to 65535"),
        (("--server", "a b=localhost:1"), "'a b' cannot name a server: use 1 to 64 of A-Z"),
        (("--server", "a/b=localhost:1"), "'a/b' cannot name a server"),
        (("--server", "=localhost:1"), "'' cannot name a server"),
        (("--server", "a=localhost:1", "--server", "a=localhost:2"), "--server a is there twice"),
        (("--server", "nobody"), "No server 'nobody' runs"),
        (("--server", "a=localhost:1", "--name", "b"), "--server takes the place of HOST PORT and --name"),
        (("--server", "a=localhost:1", "localhost", "1"), "--server takes the place of HOST PORT and --name"),
        (("--server", "a=localhost:1", "--server-token-file", "b=x"), "there is no --server b"),
        (("--server", "a=localhost:1", "--server-token-file", "x"), "--server-token-file is NAME=FILE"),
        (("--server", "a=localhost:1", "--server-token-file", "a="), "--server-token-file is NAME=FILE"),
        (("--server", "a=localhost:1", "--server-token-file", "a=/there/is/none"), "/there/is/none"),
        (("--server-token-file", "a=x"), "there is no --server a"),
    ],
)
def test_wrong_use_says_what_is_right(args: tuple[str, ...], expected: str) -> None:
    assert expected in said(*args, "--bind", "127.0.0.1:0")


def test_a_file_without_a_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    reason = said("--server", "a=localhost:1", "--server-token-file", f"a={tmp_path / 'empty'}")
    assert "is empty: --server-token-file a= needs a file with a token" in reason


def test_a_servers_own_token_that_is_wrong_is_named_and_not_the_gateways(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{OTHER}\n")
    with background_server("bgpy.tasks.workspace", name="models") as server:
        reason = said("--server", "models", "--server-token-file", f"models={tmp_path / 'token'}", "--bind", "127.0.0.1:0")
        assert reason.endswith("Tried: the one that --server-token-file models= names.")
        with bgpy.Client(server.host, server.port) as client:
            client.terminate()
