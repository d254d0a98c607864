"""bgpy.start and bgpy.connect with real servers: here, seemingly elsewhere, and on a stand-in for the other side of WSL."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.command_line import EXAMPLE, found
from support.servers import end_recorded, recorded_servers

import bgpy
from bgpy import attach
from bgpy.attach import start
from bgpy.errors import (
    AuthenticationError,
    NameTakenError,
    ServerNotFoundError,
    ServerStartError,
    TlsError,
    TokenError,
    WslError,
)
from bgpy.records import Registry
from bgpy.server import Server
from bgpy.system import kill_process, process_start_time, wait_for_end

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "a-token-of-more-than-22-characters"
INCREASE = {"command": "increase", "value_change": 1}

pytestmark = pytest.mark.process


def init_task() -> dict[str, Any]:
    return {"calls": 0, "pid": os.getpid()}


def exec_task(client_socket: bgpy.ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
    state["calls"] += 1
    bgpy.respond(client_socket, dict(state))
    return state


def exit_task(client_socket: bgpy.ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> None:
    if "wait_for" in args:
        with open(args["begun"], "w") as begun:
            begun.write("x")
        with open(args["wait_for"]) as gate:
            gate.read()


@pytest.fixture(autouse=True)
def servers(bgpy_home: Path) -> Iterator[Registry]:
    """Give the registry, and end what runs in the end."""
    with recorded_servers() as registry:
        yield registry


# Here


def test_start_gives_a_client_of_an_initialised_server(servers: Registry) -> None:
    with bgpy.start("models", EXAMPLE) as client:
        status = client.status()
        assert (status["name"], status["initialized"], status["pid"]) == ("models", True, found(servers, "models").pid)
        assert client.execute(INCREASE, await_response=True) == {"request_count": 1, "value": 1001}


@pytest.mark.parametrize("timeout", [1e7, float("inf"), None, pytest.param(10**400, id="huge")])
def test_a_very_long_timeout_is_a_long_wait(timeout: float) -> None:
    """The system's own wait takes milliseconds in 32 bits."""
    with bgpy.start("models", EXAMPLE, timeout=timeout) as client:
        assert client.execute(INCREASE, await_response=True) == {"request_count": 1, "value": 1001}


@pytest.mark.parametrize("form", ["callables", "task set", "module"])
def test_tasks_come_in_every_form(form: str) -> None:
    tasks: dict[str, Any] = {
        "callables": (init_task, exec_task, exit_task),
        "task set": (bgpy.TaskSet(init_task, exec_task, exit_task),),
        "module": (sys.modules[__name__],),
    }
    with bgpy.start("models", *tasks[form]) as client:
        response = client.execute({}, await_response=True)
    assert response["calls"] == 1
    assert response["pid"] != os.getpid()


def test_start_attaches_to_the_server_that_runs_and_leaves_its_tasks(servers: Registry) -> None:
    with bgpy.start("models", init_task, exec_task, exit_task) as first:
        first.execute({}, await_response=True)
        with bgpy.start("models", init_task, exec_task, exit_task) as second, bgpy.start("models", EXAMPLE) as third:
            assert second.execute({}, await_response=True)["calls"] == 2
            assert third.execute({}, await_response=True)["calls"] == 3
    assert len(servers.running()) == 1


def test_tasks_are_not_sent_to_a_server_that_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    bgpy.start("models", EXAMPLE).close()
    monkeypatch.setattr(bgpy.Client, "initialize", lambda *args, **options: pytest.fail("They were sent."))
    bgpy.start("models", EXAMPLE).close()


def test_start_gives_its_tasks_to_a_server_that_has_none() -> None:
    with bgpy.start("models") as bare:
        assert bare.status()["initialized"] is False
        with bgpy.start("models", EXAMPLE) as client:
            assert client.execute(INCREASE, await_response=True)["value"] == 1001


def test_start_after_the_client_and_its_process_have_gone(servers: Registry) -> None:
    code = f"import bgpy; bgpy.start('models', {EXAMPLE!r}).execute({INCREASE!r}, await_response=True)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    with bgpy.connect("models") as client:
        assert client.execute(INCREASE, await_response=True) == {"request_count": 2, "value": 1002}


def test_twenty_processes_that_start_at_once_get_one_server(servers: Registry) -> None:
    code = f"""if True:
        import sys
        from bgpy import start  # before the barrier: they shall all look while the first one starts its server
        print("here", flush=True)
        sys.stdin.read()
        with start("models", {EXAMPLE!r}) as client:
            client.execute({INCREASE!r}, await_response=True)
            print(client.status()["id"])
    """
    gate, release = os.pipe()
    pipe = subprocess.PIPE
    processes = [subprocess.Popen([sys.executable, "-c", code], stdin=gate, stdout=pipe, text=True, cwd=ROOT) for _ in range(20)]
    os.close(gate)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
    os.close(release)  # the end of their input, for all of them at once
    outputs = [process.communicate(timeout=50)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 20
    assert set(outputs) == {f"{found(servers, 'models').id}\n"}
    with bgpy.connect("models") as client:
        assert client.terminate(await_response=True) == {"request_count": 21, "value": 1020, "status": "Exited."}


def test_client_by_name_refuses_the_next_server_of_that_name_and_address() -> None:
    with bgpy.start("models", EXAMPLE) as old:
        old.terminate()
        with bgpy.start("models", EXAMPLE, port=old.port) as new:
            with pytest.raises(ServerNotFoundError):
                old.execute(INCREASE)
            assert new.execute(INCREASE, await_response=True) == {"request_count": 1, "value": 1001}


def test_failing_init_task_is_the_error_and_leaves_nothing(servers: Registry) -> None:
    def failing() -> dict[str, Any]:
        raise RuntimeError("no model here")

    with pytest.raises(ServerStartError, match="no model here"):
        bgpy.start("models", failing, exec_task, exit_task)
    assert servers.running() == []


def test_name_held_by_a_server_that_is_not_ready_is_taken(servers: Registry) -> None:
    held = servers.hold("models", "ab" * 16)
    try:
        with pytest.raises(NameTakenError):
            bgpy.start("models", EXAMPLE)
    finally:
        held.release()


def test_start_waits_for_a_server_that_is_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, begun = str(tmp_path / "gate"), str(tmp_path / "begun")
    os.mkfifo(gate)
    os.mkfifo(begun)
    old = bgpy.start("models", init_task, exec_task, exit_task)
    old_pid = old.execute({}, await_response=True)["pid"]
    ending = threading.Thread(target=old.terminate, args=({"wait_for": gate, "begun": begun},))
    ending.start()
    Path(begun).read_text()  # the exit task runs now, with the name held and the port free

    def let_it_end_and_wait(pid: int, start_time: str, timeout: float) -> bool:
        assert pid == old_pid
        Path(gate).write_text("end")
        return wait_for_end(pid, start_time, timeout)

    monkeypatch.setattr(attach, "wait_for_end", let_it_end_and_wait)
    with bgpy.start("models", init_task, exec_task, exit_task) as new:
        assert new.execute({}, await_response=True)["pid"] != old_pid
    ending.join()
    old.close()


def test_wrong_token_is_an_error_and_no_second_server(servers: Registry) -> None:
    with bgpy.start("models", token=TOKEN), pytest.raises(AuthenticationError):
        bgpy.start("models", token=TOKEN[::-1])
    assert len(servers.running()) == 1


def test_secret_is_neither_in_arguments_nor_environment_nor_log_nor_record(
    servers: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BGPY_TOKEN", TOKEN)
    with bgpy.start("models", EXAMPLE) as client:
        record = found(servers, "models")
        places = [Path(f"/proc/{record.pid}/{file}").read_bytes() for file in ("cmdline", "environ")]
        assert record.log_file is not None
        places += [Path(record.log_file).read_bytes(), repr(client).encode(), json.dumps(record).encode()]
    assert not [place for place in places if TOKEN.encode() in place]
    assert TOKEN not in repr(attach._Access(TOKEN))


@pytest.mark.parametrize(
    ("host", "dialled"), [("0.0.0.0", "127.0.0.1"), ("::1", "::1"), ("::", "::1"), ("localhost", "localhost")]
)
def test_server_is_reached_however_it_listens(host: str, dialled: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("no IPv6 here")
    with bgpy.start("models", EXAMPLE, host=host, token=TOKEN), bgpy.connect("models", token=TOKEN) as client:
        assert client.host == dialled
        assert client.execute(INCREASE, await_response=True)["value"] == 1001


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_open_address_without_a_token_is_refused() -> None:
    with pytest.raises(TokenError):
        bgpy.start("models", host="0.0.0.0", token="")


def test_context_cannot_travel_to_a_new_server() -> None:
    with pytest.raises(TlsError):
        bgpy.start("models", ssl_context=ssl.create_default_context())


@pytest.mark.skipif(not getattr(ssl, "HAS_PSK", False), reason="pre-shared keys came with Python 3.13")
def test_tls_from_the_token_serves_start_and_connect() -> None:
    with bgpy.start("models", EXAMPLE, tls="token"), bgpy.connect("models", tls="token") as client:
        assert client.execute(INCREASE, await_response=True)["value"] == 1001


@pytest.mark.parametrize("name", ["", "a b", "../x", ".x", "x" * 65])
def test_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a server"):
        bgpy.start(name, EXAMPLE)
    with pytest.raises(ValueError, match="cannot name a server"):
        bgpy.connect(name)


@pytest.mark.parametrize("name", [None, 7, Path("models"), b"models"])
def test_a_name_that_is_no_text_is_refused_in_words(name: Any) -> None:
    for call in (lambda: bgpy.connect(name), lambda: bgpy.start(name, "bgpy.example.tasks")):
        with pytest.raises(TypeError, match="A server's name is a text"):
            call()


@pytest.mark.parametrize("host", [b"127.0.0.1", 127])
def test_a_host_that_is_no_text_is_refused_in_words(host: Any) -> None:
    with pytest.raises(TypeError, match="A host is a text"):
        bgpy.start("models", host=host)
    with pytest.raises(TypeError, match="A host is a text"):
        bgpy.connect("models", host=host, port=1)


@pytest.mark.parametrize("timeout", [timedelta(seconds=5), "5"])
def test_a_timeout_that_is_no_number_is_refused_in_words(timeout: Any) -> None:
    with pytest.raises(TypeError, match="A timeout is a number of seconds"):
        bgpy.start("models", "bgpy.example.tasks", timeout=timeout)


# By record


def test_connect_to_a_name_that_does_not_run_lists_those_that_do() -> None:
    with bgpy.start("models"), bgpy.start("frames"), pytest.raises(ServerNotFoundError) as caught:
        bgpy.connect("model")
    assert caught.value.running == ("frames", "models")


def test_killed_server_misleads_nobody(servers: Registry) -> None:
    bgpy.start("models", EXAMPLE).close()
    record = found(servers, "models")
    kill_process(record.pid, record.start_time)
    wait_for_end(record.pid, record.start_time, 10)
    with pytest.raises(ServerNotFoundError):
        bgpy.connect("models")
    with bgpy.start("models", EXAMPLE) as client:
        assert client.status()["pid"] != record.pid


def test_reused_pid_misleads_nobody(servers: Registry) -> None:
    with bgpy.start("other", EXAMPLE):
        other = found(servers, "other")
        # As a killed server leaves it, only that the pid belongs to a living process now: nobody holds the lock.
        (Path(servers.folder) / "models.json").write_text(json.dumps(other._replace(name="models")._asdict()))
        with pytest.raises(ServerNotFoundError) as caught:
            bgpy.connect("models")
        assert caught.value.running == ("other",)


def test_old_record_whose_port_belongs_to_another_server_misleads_nobody(servers: Registry) -> None:
    with bgpy.start("other", EXAMPLE) as other:
        held = servers.hold("models", "ab" * 16)
        record = found(servers, "other")._replace(name="models", id="ab" * 16, pid=os.getpid(), start_time=start_time())
        held.publish(record)
        try:
            with pytest.raises(ServerNotFoundError) as caught:
                bgpy.connect("models")
            assert caught.value.running == ("other",)
            with pytest.raises(ServerStartError, match="another server has its address"):
                bgpy.start("models", EXAMPLE, timeout=0.3)
        finally:
            held.release()
        assert other.status()["requests"] >= 1


def start_time() -> str:
    found = process_start_time(os.getpid())
    assert found is not None
    return found


# Elsewhere


@pytest.mark.parametrize(("host", "ours"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", True), ("192.0.2.1", False)])
def test_own_addresses_are_those_that_can_be_bound(host: str, ours: bool) -> None:
    assert attach._is_ours(host) is ours


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every address for another machine's."""
    monkeypatch.setattr(attach, "_is_ours", lambda host: False)


def test_start_elsewhere_attaches_and_initialises(servers: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    server = bgpy.Server("127.0.0.1", 0)
    server.run_background()
    monkeypatch.setattr(attach, "_is_ours", lambda host: False)
    with bgpy.start("models", EXAMPLE, host="127.0.0.1", port=server.port) as client:
        assert client.execute(INCREASE, await_response=True)["value"] == 1001
    with bgpy.connect("models", "127.0.0.1", server.port) as client, bgpy.connect("models", port=server.port) as same:
        assert client.status()["id"] == same.status()["id"]
    assert len(servers.running()) == 1


@pytest.mark.usefixtures("elsewhere")
def test_start_elsewhere_says_that_it_cannot_spawn_there() -> None:
    with pytest.raises(ServerStartError, match="give the port"):
        bgpy.start("models", EXAMPLE, host="127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ServerStartError, match=f"run 'bgpy server 127.0.0.1 {port} --name models' there"):
        bgpy.start("models", EXAMPLE, host="127.0.0.1", port=port)


def test_address_of_a_server_with_another_name_is_refused() -> None:
    with bgpy.start("other") as other, pytest.raises(ServerNotFoundError) as caught:
        bgpy.connect("models", "127.0.0.1", other.port)
    assert (caught.value.name, caught.value.running) == ("models", ("other",))


def test_host_without_port_is_refused() -> None:
    with pytest.raises(ValueError, match="needs its port"):
        bgpy.connect("models", host="127.0.0.1")


# The other side of WSL


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Be in a WSL with mirrored networking, whose Windows is this machine with another home; give the registry of that side."""
    programs, home = tmp_path / "programs", tmp_path / "far home"
    programs.mkdir()
    home.mkdir()
    scripts = {
        "wslinfo": "echo mirrored",
        "python.exe": f"""
            echo "$*" >> {tmp_path / "calls"}
            unset WSL_DISTRO_NAME BGPY_TOKEN
            export PYTHONPATH={ROOT} BGPY_HOME='{home / "state"}' HOME='{home}'
            exec {sys.executable} "$@"
        """,
    }
    for name, text in scripts.items():
        (programs / name).write_text("#!/bin/sh\n" + textwrap.dedent(text))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("WSL_DISTRO_NAME", "Ubuntu")
    near = os.environ["BGPY_HOME"]
    yield Registry(str(far_folder(home / "state")))
    monkeypatch.setenv("BGPY_HOME", str(home / "state"))
    end_recorded(Registry())
    monkeypatch.setenv("BGPY_HOME", near)


def far_folder(state: Path) -> Path:
    before = os.environ["BGPY_HOME"]
    os.environ["BGPY_HOME"] = str(state)
    try:
        return Path(Registry().folder)
    finally:
        os.environ["BGPY_HOME"] = before


def test_server_on_the_other_side_is_started_found_and_used(windows: Registry, servers: Registry, tmp_path: Path) -> None:
    with bgpy.start("windows:models", init_task, exec_task, exit_task) as client:
        assert client.execute({}, await_response=True)["pid"] == found(windows, "models").pid
        with bgpy.start("windows:models", EXAMPLE) as again, bgpy.connect("windows:models") as other:
            assert again.execute({}, await_response=True)["calls"] == 2
            assert other.execute({}, await_response=True)["calls"] == 3
    assert servers.running() == []
    record = found(windows, "models")
    assert record.host == "127.0.0.1"  # as the two sides share it with mirrored networking
    assert os.readlink(f"/proc/{record.pid}/cwd") == str(tmp_path / "far home")


def test_token_crosses_by_standard_input_only(windows: Registry, tmp_path: Path) -> None:
    with bgpy.start("windows:models", EXAMPLE, token=TOKEN) as client:
        assert client.status()["initialized"]
    assert (tmp_path / "calls").read_text() == "-m bgpy _far start models\n"


def test_error_of_the_other_side_comes_back(windows: Registry) -> None:
    def failing() -> dict[str, Any]:
        raise RuntimeError("no model there")

    with pytest.raises(ServerStartError, match="no model there"):
        bgpy.start("windows:models", failing, exec_task, exit_task)
    with bgpy.start("windows:frames"), pytest.raises(ServerNotFoundError) as caught:
        bgpy.connect("windows:models")
    assert caught.value.running == ("frames",)


def test_other_token_of_the_other_side_is_told(windows: Registry) -> None:
    with bgpy.start("windows:models"), pytest.raises(WslError, match="the token differs"):
        bgpy.connect("windows:models", token=TOKEN)


def test_server_of_our_own_at_the_far_address_is_not_taken_for_the_far_one(windows: Registry, servers: Registry) -> None:
    with bgpy.start("models", EXAMPLE) as near:
        held = windows.hold("models", "ab" * 16)
        held.publish(found(servers, "models")._replace(id="ab" * 16))
        try:
            with pytest.raises(WslError, match="no address leads to it"):
                bgpy.connect("windows:models")
        finally:
            held.release()
        assert near.status()["pid"] != os.getpid()


def test_name_with_our_own_side_is_the_plain_name(windows: Registry, servers: Registry) -> None:
    with bgpy.start("wsl:Ubuntu/models", EXAMPLE), bgpy.connect("wsl:models") as client:
        assert client.status()["pid"] == found(servers, "models").pid


def test_certificates_do_not_cross(windows: Registry) -> None:
    with pytest.raises(TlsError):
        bgpy.start("windows:models", tls=bgpy.Certificates("cert.pem", "key.pem"))


def test_code_of_another_python_is_refused_before_it_is_touched(servers: Registry) -> None:
    request = {"tasks": "bm8gcGlja2xl", "python": "2.7", "timeout": 10, "host": "127.0.0.1", "port": 0, "token": TOKEN}
    answer = attach.answer_far("start", "models", request)
    assert (answer["ok"], answer["type"]) == (False, "PythonVersionError")
    assert servers.running() == []


def test_a_start_waits_for_a_server_of_that_name_that_is_started_by_other_means(servers: Registry, tmp_path: Path) -> None:
    """It found the name taken: the other one had its lock, and no record yet."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    file = tmp_path / "tasks.py"
    file.write_text(f"""
from bgpy.example.tasks import exec_task, exit_task

def init_task():
    with open({str(gate)!r}) as gate:
        gate.read()  # until whoever has opened it for writing closes it
    return {{"request_count": 0, "value": 7}}
""")
    with ThreadPoolExecutor(2) as threads:
        other = threads.submit(Server(name="gated", init_file=str(file)).run_background)
        entered = os.open(gate, os.O_WRONLY)  # blocks until the init task has come there
        late = threads.submit(start, "gated", timeout=20)
        assert not wait([late], 0.3).done
        os.close(entered)
        other.result(20)
        with late.result(20) as client:
            assert client.status()["initialized"]
            client.terminate()
