"""What the command line says to people where an error's own text is for programs, and which server it means unless told."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from support.command_line import INCREASE, SECRET, invoke, started
from support.commands import one_line_error, run_command

from bgpy import errors
from bgpy.cli.group import one_line
from bgpy.records import Registry
from bgpy.system import user_state_dir

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("servers")]


def said(*args: str) -> str:
    """Return the one line of an error."""
    result = invoke(*args)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    return str(line)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            errors.NameTakenError("models", 17),
            "The name 'models' is taken by process 17. Use that server, or end it: bgpy terminate --name models",
        ),
        (
            errors.ServerNotFoundError("models", ("a", "b")),
            "No server 'models' runs. Running: a, b. To start one: bgpy serve, or bgpy server.",
        ),
        (
            errors.ServerNotFoundError("default", ("a",)),
            "The server 'default' does not run. Running: a (--name). Start it: bgpy serve --background",
        ),
        (errors.NotInitializedError(), "The server has no tasks yet. Start it with --tasks, or initialise it from Python."),
        (errors.ClientClosedError(), "The connection was closed."),
    ],
)
def test_advice_for_python_programs_becomes_advice_for_a_command_line(error: errors.BgpyError, text: str) -> None:
    assert one_line(error) == text


# The server called default


@pytest.mark.parametrize("args", [("status",), ("terminate",), ("logs",), ("execute", INCREASE)])
def test_without_a_place_the_server_called_default_is_meant(args: tuple[str, ...]) -> None:
    assert said(*args) == "Error: The server 'default' does not run. Start it: bgpy serve --background"
    started("default")
    result = invoke(*args)
    assert result.exit_code == 0, result.output
    if args == ("terminate",):
        assert result.output == "Terminated default.\n"
        assert Registry().find("default") is None


def test_kill_needs_to_be_told_which_server() -> None:
    server = started("default")
    assert "Give HOST and PORT, or --name" in said("kill")
    assert Registry().find_address("127.0.0.1", server.port) is not None


# Tokens


def test_token_that_nobody_has_named_is_named_when_it_is_refused(tmp_path: Path) -> None:
    started("models", token=SECRET)
    refused = "No proof of the token with 127.0.0.1:"
    line = one_line_error(run_command("status", "--name", "models", BGPY_TOKEN=SECRET[::-1]))
    assert line.startswith(refused)
    assert line.endswith(" Tried: the one in BGPY_TOKEN; --token asks for another.")
    (tmp_path / "token").write_text(SECRET[:-1])
    named = ("--token-file", str(tmp_path / "token"))
    line = one_line_error(run_command("status", "--name", "models", *named, BGPY_TOKEN=SECRET[::-1]))
    assert line.startswith(refused)
    assert "Tried" not in line


def test_file_of_the_token_is_named_when_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    started("models", token=SECRET)
    monkeypatch.delenv("BGPY_TOKEN", raising=False)
    assert f" Tried: the one in {os.path.join(user_state_dir(), 'token')}; " in said("status", "--name", "models")


# The way there


def test_try_to_reach_a_server_takes_no_longer_than_it_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = ("127.0.0.1", str(silent.getsockname()[1]), "--connect-timeout", "0.1")
        for args in (("status",), ("terminate",), ("workspaces",), ("run", os.devnull)):
            assert "within 0.1 s" in said(*args, *place)
        assert "within 0.1 s" in said("execute", *place, "{}")
