"""The commands that start a server, follow its log, and show what it is for."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.command_line import EXAMPLE, INCREASE, SECRET, TASKS, failed, found, invoke, started
from support.commands import ROOT, command, environment, run_command

from bgpy.cli import demo
from bgpy.errors import ConnectError
from bgpy.records import Registry
from bgpy.system import process_start_time

pytestmark = pytest.mark.usefixtures("servers")


# bgpy server


def test_background_server_is_told_where_it_is_and_outlives_its_starter(servers: Registry) -> None:
    done = run_command(
        "server", "127.0.0.1", "0", "--background", "--tasks", EXAMPLE, "--name", "models", "--token-file", "-", text=SECRET
    )
    record = found(servers, "models")
    assert done.stdout == f"Serving at 127.0.0.1:{record.port}, process {record.pid}, log {record.log_file}\n"
    assert SECRET.encode() not in Path(f"/proc/{record.pid}/cmdline").read_bytes()
    assert SECRET not in invoke("logs", "--name", "models").output
    assert run_command("execute", "--name", "models", INCREASE, "--token-file", "-", text=SECRET).returncode == 0


def test_background_server_logs_where_it_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run_command("server", "--name", "models", "-b", "-f", str(log), "-l", "debug").returncode == 0
    invoke("terminate", "--name", "models")
    assert "Serving at" in log.read_text()


@pytest.mark.parametrize("background", [(), ("-b",)], ids=["foreground", "background"])
def test_server_that_cannot_start_says_why_in_one_line(background: tuple[str, ...], tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('no model')")
    assert "RuntimeError: no model" in failed(run_command("server", "127.0.0.1", "0", "-i", str(broken), *background))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "Address already in use" in failed(run_command("server", "127.0.0.1", str(port), *background))
    assert "is known" not in failed(run_command("server", "no.such.host.invalid", "0", *background))


def test_open_server_without_a_token_must_be_meant() -> None:
    assert "Without a token" in failed(run_command("server", "0.0.0.0", "0", "--no-token"))
    assert run_command("server", "0.0.0.0", "0", "--no-token", "--insecure", "-b", "--name", "open").returncode == 0


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_foreground_server_tells_its_address_and_ends_by_signal(end: signal.Signals, folder: Path) -> None:
    pipe = subprocess.PIPE
    args = command("server", "127.0.0.1", "0", "--tasks", "mine", "--name", "models")
    with subprocess.Popen(args, stdout=pipe, stderr=pipe, text=True, cwd=folder, env=environment()) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        place = re.fullmatch(r"Serving at 127\.0\.0\.1:(\d+), process (\d+)\. Ctrl-C ends it\.\n", line)
        assert place is not None, line
        assert int(place[2]) == process.pid
        assert run_command("execute", "127.0.0.1", place[1], "{}").returncode == 0
        assert "runs in the foreground" in failed(invoke("logs", "--name", "models"))
        process.send_signal(end)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert output == "nothing\nexit task\n"
    assert "INFO bgpy.server: Serving at" in errors
    assert "Traceback" not in errors


def test_installed_command_finds_modules_in_the_working_directory(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    script = tmp_path_factory.mktemp("bin") / "bgpy"  # python -m would put the working directory on the path by itself
    script.write_text("from bgpy.cli import main\nmain()\n")
    args = [sys.executable, str(script), "server", "127.0.0.1", "0", "--tasks", "mine"]
    pipe = subprocess.PIPE
    with subprocess.Popen(args, stdout=pipe, stderr=pipe, text=True, cwd=folder, env=environment()) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert line.startswith("Serving at "), errors


def test_foreground_server_logs_to_a_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    pipe = subprocess.PIPE
    tasks = tmp_path / "tasks.py"
    tasks.write_text(f"import logging\n{TASKS}".replace("return {}", "return logging.getLogger('mine').info('loading') or {}"))
    args = command("server", "127.0.0.1", "0", "-f", str(log), "-i", str(tasks))
    with subprocess.Popen(args, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment()) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.communicate(timeout=30) == ("exit task\n", "")
    assert re.search(r"INFO mine: loading\n.*INFO bgpy.server: Serving at", log.read_text())


# Logs


def test_logs_follow_until_the_server_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    started("models", "mine")
    args = command("logs", "--name", "models", "-f")
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        assert "Serving at" in process.stdout.readline()
        invoke("execute", "--name", "models", '{"say": "one"}')
        assert process.stdout.readline() == "one\n"
        invoke("execute", "--name", "models", '{"say": "two"}')
        assert process.stdout.readline() == "two\n"
        invoke("terminate", "--name", "models")
        rest = process.communicate(timeout=30)[0]
    assert rest.endswith("exit task\n")
    assert process.returncode == 0


def test_ctrl_c_ends_logs_quietly() -> None:
    started("models")
    pipe = subprocess.PIPE
    args = command("logs", "--name", "models", "-f")
    with subprocess.Popen(args, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment()) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 130


def test_logs_of_a_named_server_that_has_been_killed_can_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    started("models", "mine")
    invoke("execute", "--name", "models", '{"say": "the last words"}')
    invoke("kill", "--name", "models")
    assert "the last words\n" in invoke("logs", "--name", "models").output
    assert failed(invoke("logs", "--name", "models", "-f")).startswith("No server 'models' runs.")


# The demonstration


def test_demo_shows_a_state_that_outlives_its_clients_and_leaves_nothing(tmp_path: Path, bgpy_home: Path) -> None:
    before = sorted(bgpy_home.rglob("*"))
    done = run_command("demo", TMPDIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert '{"request_count": 1, "value": 1010}' in done.stdout
    assert '{"request_count": 3, "value": 910, "status": "Exited."}' in done.stdout
    server, first, second = re.findall(r"process (\d+)", done.stdout)
    assert len({server, first, second}) == 3
    assert [process_start_time(int(pid)) for pid in (server, first, second)] == [None] * 3
    assert list(tmp_path.iterdir()) == []
    assert sorted(bgpy_home.rglob("*")) == before


def test_demo_that_fails_leaves_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(host: str, port: int, args: dict[str, Any]) -> None:
        raise ConnectError(f"{host}:{port}", "no")

    monkeypatch.setattr(demo, "_client", failing)
    monkeypatch.setattr(demo.tempfile, "tempdir", str(tmp_path))
    home = os.environ["BGPY_HOME"]
    result = invoke("demo")
    assert (result.exit_code, result.stderr.startswith("Error: Cannot connect to")) == (1, True)
    (server,) = re.findall(r"process (\d+)", result.stdout)
    assert process_start_time(int(server)) is None
    assert list(tmp_path.iterdir()) == []
    assert os.environ["BGPY_HOME"] == home


# For the other side of WSL


def test_far_answers_in_one_line_of_ascii_json(tmp_path: Path) -> None:
    started("frames")
    done = run_command("_far", "find", "models", text="{}\n", HOME=str(tmp_path))
    assert done.stdout.isascii()
    assert json.loads(done.stdout) == {
        "ok": False,
        "type": "ServerNotFoundError",
        "reason": json.loads(done.stdout)["reason"],
        "running": ["frames"],
    }
    done = run_command("_far", "find", "frames", text="\ufeff{}\r\n", HOME=str(tmp_path))
    assert set(json.loads(done.stdout)) == {"ok", "pid", "host", "port", "id", "name"}


def test_far_does_not_repeat_what_it_cannot_read() -> None:
    assert SECRET not in failed(run_command("_far", "start", "models", text=f'{{"token": "{SECRET}"'))


def test_the_doctor_says_what_is_wrong_with_the_folder_of_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other command refused it, and the doctor found everything fine."""
    home = tmp_path / "open to all"
    home.mkdir(mode=0o755)
    monkeypatch.setenv("BGPY_HOME", str(home))
    assert "Wrong with it:" in invoke("doctor").output
    home.chmod(0o700)
    assert "Wrong with it:" not in invoke("doctor").output
    (home / "token").touch(0o600)
    assert "is empty" in invoke("doctor").output
