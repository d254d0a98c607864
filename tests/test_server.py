"""Servers: how they start and with which tasks, where they listen, whom they let in, and what they tell of themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.failing import CarefulError
from support.servers import COUNTER, client_of, count, nothing, running_server, tasks

import bgpy
from bgpy.client import Client
from bgpy.errors import (
    AlreadyInitializedError,
    AuthenticationError,
    InvalidResultError,
    NotInitializedError,
    RemoteError,
    ServerStartError,
    TlsError,
    TokenError,
)
from bgpy.records import Registry
from bgpy.server import Server
from bgpy.sockets import ClientSocket
from bgpy.tls import Certificates

ROOT = str(Path(bgpy.__file__).parents[1])
Args = dict[str, Any]
State = dict[str, Any]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"log_level": "LOUD"}, ValueError, "no log level"),
        ({"log_level": 1.5}, TypeError, "A log level is a name or a whole number, not 1.5"),
        ({"log_file": "a\0b"}, ServerStartError, "its log file cannot be opened"),
        ({"name": 5}, TypeError, "A server's name is a text, not 5"),
        ({"max_message_size": 0}, ValueError, "from 1 on"),
        ({"max_message_size": 1 << 64}, ValueError, "from 1 on"),
        ({"max_message_size": 1e9}, TypeError, "whole number of bytes"),
        ({"host": None}, TypeError, "A host is a text"),
        ({"port": "8000"}, TypeError, "A port is a whole number from 0 to 65535, not '8000'"),
        ({"init_file": "tasks.py", "tasks": "bgpy.example.tasks"}, ValueError, "exclude each other"),
        ({"token": b"secret"}, TypeError, "text, not bytes"),
    ],
    ids=repr,
)
def test_a_wrong_setting_is_refused_before_anything_starts(options: Any, error: type[Exception], said: str) -> None:
    """Such a server said that it was ready and ended, or served nobody."""
    with pytest.raises(error, match=said) as caught:
        Server(**options).run_background()
    assert "secret" not in str(caught.value)
    assert Registry().running() == []


@pytest.mark.parametrize("timeout", [None, Decimal(20), pytest.param(10**400, id="huge")])
def test_a_number_of_any_class_or_none_is_the_timeout_of_a_start(timeout: Any) -> None:
    server = Server()
    server.run_background(timeout=timeout)
    Client("127.0.0.1", server.port).terminate()


@pytest.mark.parametrize(
    ("timeout", "error"), [("20", TypeError), (timedelta(seconds=20), TypeError), (-1, ValueError), (float("nan"), ValueError)]
)
def test_a_timeout_of_a_start_that_is_none_is_refused_in_words(timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="A timeout is a number of seconds"):
        Server().run_background(timeout=timeout)


def test_a_log_file_may_be_named_in_bytes(tmp_path: Path) -> None:
    server = Server(log_file=os.fsencode(tmp_path / "server.log"))  # type: ignore[arg-type]
    server.run_background()
    Client("127.0.0.1", server.port).terminate()
    assert server.log_file == str(tmp_path / "server.log")


def test_a_log_level_is_known_in_small_letters_too() -> None:
    server = Server(log_level="warning")
    server.run_background()
    with Client(server.host, server.port) as client:
        client.terminate()


LOGGING = """
import logging

def init_task():
    logging.getLogger("mine").info("loading")
    {more}
    return {{}}

def exec_task(client_socket, state, args):
    logging.getLogger("mine").info("working")
    return state

def exit_task(client_socket, state, args): pass
"""


@pytest.mark.parametrize(
    ("more", "lines"),
    [
        ("", [" INFO mine: loading", " INFO bgpy.server: Serving at", " INFO mine: working"]),
        (
            "logging.info('loaded')",
            [" INFO mine: loading", "INFO:root:loaded", "INFO:bgpy.server:Serving at", "INFO:mine:working"],
        ),
        ("logging.basicConfig(format='# %(message)s')", [" INFO mine: loading", "# Serving at", "# working"]),
    ],
)
def test_what_every_task_logs_is_in_the_log(more: str, lines: list[str], tmp_path: Path) -> None:
    """The init task's was not, from below a warning on; and one call of `logging.info` there silenced the server for good."""
    (tmp_path / "logging_tasks.py").write_text(LOGGING.format(more=more))
    server = Server(init_file=str(tmp_path / "logging_tasks.py"))
    server.run_background()
    with Client(server.host, server.port) as client:
        client.execute({})
        client.terminate()
    assert server.log_file is not None
    log = Path(server.log_file).read_text().splitlines()
    for line, wanted in zip(log, lines, strict=False):
        assert wanted in line
    assert len(log) == len(lines) + 1


def test_exec_before_init_and_init_twice() -> None:
    with running_server(None) as server, client_of(server) as client:
        for args in ({"await_response": True}, {"await_response": False}):
            with pytest.raises(NotInitializedError) as caught:
                client.execute({"add": 1}, **args)
            assert caught.value.executed is False
        assert client.initialize(COUNTER) == {"message": "Initialization successful."}
        with pytest.raises(AlreadyInitializedError):
            client.initialize(COUNTER)
        with pytest.raises(AlreadyInitializedError):
            client.initialize(init=COUNTER.init, exec=COUNTER.exec, exit=COUNTER.exit)
        assert client.initialize(COUNTER, exist_ok=True) == {"message": "Already initialized."}
        assert client.execute({"add": 2}, await_response=True)["count"] == 2


def init_with(client_socket: ClientSocket) -> State:
    client_socket.respond({"hello": "from the init task"})
    return {"count": 10}


def init_without() -> State:
    return {"count": 20}


def init_badly(client_socket: ClientSocket) -> State:
    raise CarefulError("not today")


def init_no_dict() -> Any:
    return 7


def test_an_init_task_takes_its_client_or_nothing_and_may_fail_first() -> None:
    with running_server(None) as server, client_of(server) as client:
        with pytest.raises(RemoteError, match="not today"):
            client.initialize(init_badly, count, nothing)
        with pytest.raises(InvalidResultError, match="init_task returned int"):
            client.initialize(init_no_dict, count, nothing)
        assert client.initialize(init_with, count, nothing) == {"hello": "from the init task"}
        assert client.execute({"add": 1}, await_response=True)["count"] == 11
    with running_server(None) as server, client_of(server) as client:
        client.initialize(init_without, count, nothing)
        assert client.execute({"add": 1}, await_response=True)["count"] == 21


def test_a_foreground_server_in_the_main_thread_says_its_port_and_ends_on_a_signal(tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    script.write_text(
        "import sys\nfrom bgpy.server import Server\n"
        "server = Server(tasks='bgpy.example.tasks')\n"
        "code = server.run(ready=lambda: print(server.port, server.pid, flush=True))\n"
        "print('code', code)\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ROOT}
    ) as process:
        assert process.stdout is not None
        port, pid = map(int, process.stdout.readline().split())
        assert pid == process.pid
        with Client(port=port, timeout=20) as client:
            response = client.execute({"command": "increase", "value_change": 10}, await_response=True)
            assert response == {"request_count": 1, "value": 1010}
        process.terminate()
        assert process.stdout.read() == "code 0\n"
        assert process.wait(20) == 0


def test_status_tells_what_there_is_to_know() -> None:
    with running_server(None, log_file="some.log") as server, client_of(server) as client:
        status = client.status()
        assert status["initialized"] is False
        client.initialize(COUNTER)
        client.execute({"add": 1}, await_response=True)
        status = client.status()
    assert {
        key: status[key]
        for key in ("name", "host", "port", "pid", "initialized", "requests", "failed", "failures", "connections")
    } == {
        "name": None,
        "host": "127.0.0.1",
        "port": server.port,
        "pid": os.getpid(),
        "initialized": True,
        "requests": 2,
        "failed": 0,
        "failures": [],
        "connections": 2,
    }
    assert status["uptime"] > 0
    assert status["memory"] > 1 << 20


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_server_listens_on_addresses_of_both_families_and_on_names(host: str) -> None:
    with running_server(host=host) as server, Client(host, server.port, timeout=20) as client:
        assert client.execute({"add": 1}, await_response=True) == {"count": 1}


def test_a_port_in_use_a_strange_host_and_bad_tasks_do_not_start() -> None:
    with running_server() as server, pytest.raises(ServerStartError, match=f"cannot listen on 127.0.0.1:{server.port}"):
        Server(port=server.port).run()
    with pytest.raises(ServerStartError, match="cannot listen"):
        Server("192.0.2.1", token="x" * 32).run()
    with pytest.raises(ServerStartError, match="not known"):
        Server("no-such-host.invalid").run()
    with pytest.raises(CarefulError):
        Server(tasks=tasks(count, init_badly)).run()
    with pytest.raises(InvalidResultError):
        Server(tasks=tasks(count, init_no_dict)).run()


@pytest.mark.parametrize(
    "options", [{"tls": "token", "token": ""}, {"tls": "strange"}, {"tls": Certificates("no.pem", "no.pem")}]
)
def test_a_start_that_fails_keeps_neither_its_name_nor_its_port(options: Any) -> None:
    with pytest.raises(TlsError):
        Server(name="held", **options).run()
    held = Registry().hold("held", "00")
    held.release()


@pytest.mark.parametrize(("host", "token"), [("0.0.0.0", "short"), ("0.0.0.0", ""), ("::", "")])
def test_off_loopback_a_real_token_is_needed(host: str, token: str) -> None:
    with pytest.raises(TokenError):
        Server(host, token=token).run()


def test_insecure_says_so_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with running_server(host="0.0.0.0", token="", insecure=True, entrance={"host": "127.0.0.1"}) as server:
        assert server.client().execute({"add": 1}, await_response=True) == {"count": 1}
    assert "without a token" in caplog.text
    caplog.clear()
    with running_server(host="0.0.0.0", token="t" * 22, entrance={"host": "127.0.0.1"}) as server:
        assert server.client().execute({"add": 1}, await_response=True) == {"count": 1}
    assert "can be read on the way" in caplog.text
    assert "t" * 22 not in caplog.text


@pytest.mark.parametrize(("ours", "theirs"), [("a" * 22, "b" * 22), ("a" * 22, ""), ("", "b" * 22), ("a" * 22, "a" * 23)])
def test_a_wrong_missing_or_empty_token_is_told_to_the_client(ours: str, theirs: str) -> None:
    with running_server(token=ours) as server:
        with Client(port=server.port, token=theirs) as client, pytest.raises(AuthenticationError) as caught:
            client.execute({"add": 1}, await_response=True)
        assert caught.value.executed is False
        assert ours not in str(caught.value) or not ours
        status = server.client().status()
        assert status["requests"] == 1


def show_token(client_socket: ClientSocket, state: State, args: Args) -> State:
    client_socket.respond({"token": os.environ.get("BGPY_TOKEN")})
    return state


def test_the_token_in_the_environment_is_gone_before_a_task_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment goes to every process that a task starts."""
    token = "t" * 40
    monkeypatch.setenv("BGPY_TOKEN", token)
    with running_server(tasks(show_token), entrance={"token": token}) as server:
        assert server.client().execute({}, await_response=True) == {"token": None}
