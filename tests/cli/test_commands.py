"""The commands of bgpy: parsing and texts with click's runner, the rest as real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import EXAMPLE, INCREASE, SECRET, failed, found, invoke, started
from support.commands import ROOT, command, environment, run_command

import bgpy
from bgpy.cli import showing
from bgpy.cli.group import one_line
from bgpy.errors import ConnectError, RemoteError, ServerStartError
from bgpy.records import Registry
from bgpy.system import kill_process, process_start_time, wait_for_end

pytestmark = pytest.mark.usefixtures("servers")
COMMANDS = (
    "serve run workspaces gateway server terminate kill execute status list logs token demo doctor completion version".split()
)


# What is said without a server


def test_help_lists_the_commands_that_matter_first() -> None:
    listed = invoke().output.partition("Commands:\n")[2]
    assert [line.split()[0] for line in listed.splitlines()] == COMMANDS
    assert invoke("--help").output == invoke().output


@pytest.mark.parametrize("name", [*COMMANDS, "_far"])
def test_every_command_explains_itself(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: main {name}")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["status", "--nonsense"], "No such option"),
        (["kill"], "Give HOST and PORT, or --name"),
        (["status", "127.0.0.1"], "Give HOST and PORT, or --name"),
        (["status", "127.0.0.1", "5", "6"], "Give HOST and PORT, or --name"),
        (["server"], "Give HOST and PORT, or --name"),
        (["status", "127.0.0.1", "65536"], "PORT is a number from 0 to 65535"),
        (["status", "127.0.0.1", "-1"], "No such option"),
        (["status", "127.0.0.1", "5", "--name", "models"], "--name takes the place of HOST and PORT"),
        (["status", "--name", "a b"], "cannot name a server"),
        (["kill", "--name", "windows:models"], "cannot name a server"),
        (["status", "--name", "mars:models"], "is no name of a server"),
        (["server", "--name", "../models"], "cannot name a server"),
        (["server", "127.0.0.1", "0", "-i", "a.py", "--tasks", "a"], "exclude each other"),
        (["server", "127.0.0.1", "0", "-l", "LOUD"], "'LOUD' is not one of"),
        (["status", "127.0.0.1", "5", "--no-token", "-t"], "exclude each other"),
        (["status", "127.0.0.1", "5", "--tls", "token", "--cafile", "ca.pem"], "exclude each other"),
        (["status", "127.0.0.1", "5", "--token-file", "/no/such/file"], "No such file"),
        (["status", "127.0.0.1", "5", "--cafile", "/no/such/file"], "The certificates cannot be used"),
        (["execute", "127.0.0.1", "5", "[1]"], "JSON must be an object"),
        (["execute", "127.0.0.1", "5", "{,}"], "JSON cannot be read (line 1, column 2)"),
        (["execute", "127.0.0.1", "5"], "Give HOST and PORT, or --name"),
        (["completion", "csh"], "'csh' is not one of"),
        (["_far", "stop", "models"], "'stop' is not one of"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_one(args: list[str], said: str) -> None:
    assert said in failed(invoke(*args))


@pytest.mark.parametrize(
    "args", [["status", "127.0.0.1", "1"], ["execute", "127.0.0.1", "1", "{}"], ["terminate", "127.0.0.1", "1"]]
)
def test_nobody_there_is_one_line(args: list[str]) -> None:
    assert failed(invoke(*args)).startswith("Cannot connect to 127.0.0.1:1: ")


@pytest.mark.parametrize("name", ["status", "kill", "logs", "terminate"])
def test_unknown_name_is_one_line_with_the_names_that_run(name: str) -> None:
    started("models")
    assert failed(invoke(name, "--name", "model")).startswith("No server 'model' runs. Running: models.")


def test_kill_without_a_record_says_so() -> None:
    assert failed(invoke("kill", "127.0.0.1", "1")).startswith("No server '127.0.0.1:1' runs.")


@pytest.mark.parametrize(
    "args",
    [
        ["status", "127.0.0.1", "1", f"--token={SECRET}"],
        ["status", "127.0.0.1", "1", "--token", SECRET],
        ["status", "127.0.0.1", "-t", SECRET],
        ["execute", "127.0.0.1", "1", "-t", SECRET],
        ["execute", "127.0.0.1", "1", "{}", "--token", SECRET],
        ["server", "127.0.0.1", "0", "-t", SECRET],
    ],
)
def test_token_is_not_taken_from_the_arguments_and_not_shown(args: list[str]) -> None:
    assert SECRET not in failed(invoke(*args))


def test_no_answer_to_the_question_for_the_token_is_one_line() -> None:
    """Standard input at its end, as under cron: the command ended without a word."""
    result = invoke("status", "127.0.0.1", "1", "--token", text="")
    assert result.exit_code == 1
    assert result.stderr.endswith("\nError: There is nobody to ask for the token; --token-file - reads it\n")


def test_token_prints_a_new_one_each_time() -> None:
    first, second = (invoke("token").output for _ in range(2))
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}\n", first)
    assert first != second


def test_version_names_bgpy_and_python() -> None:
    python = ".".join(map(str, sys.version_info[:3]))
    assert run_command("version").stdout == f"bgpy {bgpy.__version__}, Python {python}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_what_the_shell_runs(shell: str) -> None:
    assert f"_BGPY_COMPLETE={shell}_complete" in invoke("completion", shell).output


def test_shell_completes_the_names_of_running_servers() -> None:
    started("models")
    done = run_command(_BGPY_COMPLETE="bash_complete", COMP_WORDS="bgpy status --name mo", COMP_CWORD="3")
    assert done.stdout == "plain,models\n"


def test_list_without_servers_says_so() -> None:
    assert invoke("list").output == "None of your servers runs on this machine.\n"
    assert json.loads(invoke("list", "--json").output) == []


def test_doctor_tells_side_and_folder_and_no_secret(bgpy_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BGPY_TOKEN", SECRET)
    output = invoke("doctor", "--port", "8765").output
    assert str(bgpy_home) in output
    assert "Side: " in output
    assert "BGPY_TOKEN" in output
    assert SECRET not in output


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RemoteError("KeyError", "'a'\nb", "Traceback:\n  KeyError"), "A task raised KeyError: 'a' b"),
        (ServerStartError("it died", "Traceback", "/log"), "The server did not start: it died. Its log: /log."),
        (ConnectError("a:1", "no"), str(ConnectError("a:1", "no"))),
        (FileNotFoundError(2, "No such file", "x"), "x: No such file"),
        (OSError("odd"), "OSError: odd"),
        (ValueError("a\nb"), "ValueError: a b"),
        (ValueError(), "ValueError"),
    ],
)
def test_error_in_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90061, "1 d 1 h"), (-1, "0 s")]
)
def test_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert showing.duration(seconds) == text


# With a server


def test_execute_prints_the_response_as_json() -> None:
    server = started("models")
    place = ("127.0.0.1", str(server.port))
    assert invoke("execute", *place, INCREASE).output == '{"request_count": 1, "value": 1010}\n'
    assert run_command("execute", "--name", "models", "-", text=INCREASE).stdout == '{"request_count": 2, "value": 1020}\n'


def test_execute_prints_the_confirmation_where_there_is_no_response(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    started("models", "mine")
    assert invoke("execute", "--name", "models", "{}").output == '{"message": "Received \'EXEC\'"}\n'


def test_response_that_json_lacks_words_for_is_printed_all_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    started("models", "mine")
    args = ("execute", "--name", "models", '{"respond": "\\u00e9\\ud83d\\ude00"}')
    assert run_command(*args).stdout == '{"echo": "é😀", "odd": null}\n'
    assert run_command(*args, PYTHONIOENCODING="ascii").stdout == '{"echo": "\\u00e9\\ud83d\\ude00", "odd": null}\n'


def test_failing_task_is_one_line_and_its_traceback_on_demand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    started("models", "mine")
    line = "A task raised ValueError: first line second line"
    assert failed(invoke("execute", "--name", "models", '{"fail": 1}')) == f"{line} (--traceback shows where.)"
    shown = invoke("execute", "--name", "models", '{"fail": 1}', "--traceback")
    assert shown.stderr.startswith("Traceback (most recent call last):\n")
    assert shown.stderr.endswith(f"second line\nError: {line}\n")
    status = invoke("status", "--name", "models").output
    assert "(2 failed)" in status
    assert "Last failure  EXEC: ValueError: first line second line" in status


def test_status_tells_people_and_programs() -> None:
    server = started("models")
    found = json.loads(invoke("status", "127.0.0.1", str(server.port), "--json").output)
    assert (found["pid"], found["name"], found["initialized"], found["port"]) == (server.pid, "models", True, server.port)
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in invoke("status", "--name", "models").output.splitlines())
    assert list(lines) == ["Name", "Address", "Process", "Uptime", "Initialised", "Requests", "Connections", "Memory", "Log"]
    assert lines["Address"] == f"127.0.0.1:{server.port}"
    assert lines["Process"].startswith(f"{server.pid} (Python ")
    assert lines["Memory"].endswith(" MB")


def test_list_shows_each_server_in_its_row() -> None:
    named, unnamed = started("models"), started()
    head, *rows = (re.split(r"  +", line) for line in invoke("list").output.splitlines())
    assert head == ["NAME", "ADDRESS", "PID", "UPTIME", "LOG"]
    assert [row[:3] + row[4:] for row in rows] == [
        ["models", f"127.0.0.1:{named.port}", str(named.pid), named.log_file],
        ["-", f"127.0.0.1:{unnamed.port}", str(unnamed.pid), unnamed.log_file],
    ]
    assert [record["pid"] for record in json.loads(invoke("list", "--json").output)] == [named.pid, unnamed.pid]


@pytest.mark.parametrize("by_name", [True, False])
def test_terminate_runs_the_exit_task(by_name: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, servers: Registry) -> None:
    monkeypatch.chdir(folder)
    server = started("models", "mine")
    place = ("--name", "models") if by_name else ("127.0.0.1", str(server.port))
    assert invoke("terminate", *place, "--timeout", "5").output.startswith("Terminated ")
    assert servers.running() == []
    assert "exit task\n" in invoke("logs", "--name", "models").output


@pytest.mark.parametrize("by_name", [True, False])
def test_kill_ends_a_server_without_its_exit_task(by_name: bool, servers: Registry) -> None:
    server = started("models")
    place = ("--name", "models") if by_name else ("127.0.0.1", str(server.port))
    assert invoke("kill", *place).output.endswith(f", process {server.pid}.\n")
    assert process_start_time(server.pid or 0) is None
    assert os.listdir(servers.folder).count("models.json") == 0
    assert invoke("kill", *place).exit_code == 1


def test_kill_ends_a_server_that_does_not_listen(servers: Registry) -> None:
    server = started("models")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    assert invoke("kill", "--name", "models").exit_code == 0
    assert servers.running() == []


@pytest.mark.parametrize("command", [("status",), ("execute", "{}")])
def test_a_timeout_bounds_the_way_to_a_named_server_too(command: tuple[str, ...], servers: Registry) -> None:
    """A server that does not listen was waited for as long as a connection may take: ten seconds."""
    server = started("models")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    result = invoke(*command, "--name", "models", "--timeout", "0.1")
    assert result.exit_code == 1
    assert "within 0.1 s" in result.output


def test_killing_a_process_that_has_just_ended_is_no_error(servers: Registry) -> None:
    started("models")
    record = found(servers, "models")
    kill_process(record.pid, record.start_time)
    wait_for_end(record.pid, record.start_time, 10)
    held = servers.hold("models", record.id)
    held.publish(record)  # as if its end had come between the look at the record and the signal
    result = invoke("kill", "--name", "models")
    held.release()
    assert result.output == f"Process {record.pid} of models had ended already.\n"


# Tokens


def test_asked_token_is_used_and_not_shown() -> None:
    server = started(token=SECRET)
    result = invoke("status", "127.0.0.1", str(server.port), "-t", "--json", text=f"{SECRET}\n")
    assert result.exit_code == 0
    assert SECRET not in result.output
    assert "No proof of the token" in failed(run_command("status", "127.0.0.1", str(server.port)))


def test_token_comes_from_a_file_or_standard_input(tmp_path: Path) -> None:
    server = started("models", token=SECRET)
    (tmp_path / "token").write_text(f"{SECRET}\n")
    place = ("127.0.0.1", str(server.port))
    assert run_command("status", *place, "--token-file", str(tmp_path / "token")).returncode == 0
    assert run_command("status", "--name", "models", "--token-file", "-", text=SECRET).returncode == 0
    (tmp_path / "token").write_text("\n")
    assert "is empty" in failed(run_command("status", *place, "--token-file", str(tmp_path / "token")))


def test_no_token_reaches_a_server_without_one() -> None:
    server = started(token="")
    assert invoke("status", "127.0.0.1", str(server.port), "--no-token").exit_code == 0
    assert "No proof of the token" in failed(invoke("status", "127.0.0.1", str(server.port)))


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_terminal_does_not_show_the_token_that_is_typed() -> None:
    server = started(token=SECRET)
    terminal = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    args = [sys.executable, "-c", terminal, *command("status", "127.0.0.1", str(server.port), "--token", "--json")]
    pipe = subprocess.PIPE
    with subprocess.Popen(args, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT, env=environment()) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        shown = b""
        while not shown.endswith(b"Token: "):
            shown += process.stdout.read(1)
        output, errors = process.communicate(f"{SECRET}\n".encode(), timeout=30)
    assert process.returncode == 0
    assert json.loads(output)["pid"] == server.pid
    assert SECRET.encode() not in shown + output + errors


@pytest.mark.skipif(not getattr(ssl, "HAS_PSK", False), reason="pre-shared keys came with Python 3.13")
def test_tls_from_the_token() -> None:
    assert run_command("server", "--name", "models", "-b", "--tls", "token", "--tasks", EXAMPLE).returncode == 0
    assert (
        run_command("execute", "--name", "models", "--tls", "token", INCREASE).stdout == '{"request_count": 1, "value": 1010}\n'
    )
    assert run_command("terminate", "--name", "models", "--tls", "token").returncode == 0
