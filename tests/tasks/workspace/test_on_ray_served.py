"""Workspaces on Ray from outside: the whole command with its gateway, the kinds of addresses, a connection that is lost."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.backends import PATIENCE, Recorder, Session
from support.commands import next_line, running_command
from support.proxies import Plan, Proxy
from support.ray_cluster import RayCluster

from bgpy.system import process_start_time, wait_for_end
from bgpy.tasks.workspace.backends import ray as ray_backend
from bgpy.tasks.workspace.backends.ray import RayBackend
from bgpy.tasks.workspace.backends.spawner import Spawner
from bgpy.tasks.workspace.onray.agent import Agent
from bgpy.tasks.workspace.onray.cluster import Cluster
from bgpy.token import find_token

pytestmark = [pytest.mark.ray, pytest.mark.process, pytest.mark.timeout(180), pytest.mark.usefixtures("ray_agent")]


def fetch(url: str, data: bytes | None = None) -> bytes:
    headers = {"Authorization": f"Bearer {find_token()}", **({"Accept": "text/html"} if data is None else {})}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=90) as answer:
        return bytes(answer.read())


def post(page: str, command: str, **fields: Any) -> Any:
    """Have a gateway carry out a command, and return the result."""
    envelope = json.loads(fetch(f"{page}{command}/", json.dumps(fields).encode()))
    assert envelope["request_result"] is True, envelope
    return envelope["result"]


@pytest.mark.parametrize("address", ["local", "auto", "HOST:PORT", "ray://HOST:PORT"])
def test_the_command_serves_a_cluster_over_http_and_ends_clean(address: str, ray_cluster: RayCluster, ray_agent: Cluster) -> None:
    environment = {"RAY_ADDRESS": ray_cluster.address} if address == "auto" else {}
    if address.startswith("ray://"):
        pytest.importorskip("grpc")
    ports = {"HOST:PORT": ray_cluster.address, "ray://HOST:PORT": f"ray://127.0.0.1:{ray_cluster.client_port}"}
    named = ports.get(address, address)
    with running_command("serve", "--bind", "127.0.0.1:0", "--ray", named, **environment) as process:
        page = next_line(process).removeprefix("The page: ")
        assert b"<html" in fetch(page)
        post(page, "create_workspace", name="lab", num_cpus=0)
        done = post(page, "push_job", name="lab", job="import os\nx = 5\nos.getpid()", type=1, timeout=60)
        assert (done["state"], done["variable"]["x"]) == ("done", 5)
        actor = (done["value"], process_start_time(done["value"]) or "")
        status = post(page, "get_status", name="lab")
        # A cluster also lists nodes that it has lost.
        node = next(each for each in post(page, "get_nodes") if each["node"] == status["node"])
        assert (status["type"], status["address"], status["pid"]) == ("ray", node["address"], actor[0])
        if address != "local":
            assert node["node"] in [each["node"] for each in ray_agent.ask("nodes")]
        assert (node["alive"], node["workspaces"]) == (True, 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert wait_for_end(*actor, PATIENCE)
    assert ray_agent.ask("records") == []


def test_a_cluster_is_reached_by_its_port_for_clients(ray_cluster: RayCluster, ray_agent: Cluster) -> None:
    pytest.importorskip("grpc")
    spawner = Spawner()
    cluster = Cluster(f"ray://127.0.0.1:{ray_cluster.client_port}", spawner)
    try:
        cluster.connect()
        nodes = {node["node"] for node in cluster.ask("nodes")}
        recorder, home = Recorder(), secrets.token_hex(8)
        backend = RayBackend(recorder, cluster=cluster, home=home, placement={"num_cpus": 0})
        backend.start()
        assert Session(backend, recorder).value("6 * 7") == 42
        assert backend.place is not None
        assert backend.place[0] in nodes
        assert [record["home"] for record in ray_agent.ask("records")] == [home]
        backend.leave()
        again = RayBackend(recorder, cluster=cluster, home=home, placement={"num_cpus": 0})
        again.start()
        assert again.adopted
        assert again.kill()
        assert recorder.death() == ("signal SIGKILL", False)
        again.close()
        assert cluster.ask("records") == []
    finally:
        cluster.close()
        spawner.close()


def test_a_cluster_that_loses_what_serves_a_client_as_it_starts_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    tries: list[str] = []

    def init(address: str, **options: Any) -> None:
        tries.append(address)
        if len(tries) == 1:
            raise ConnectionAbortedError("Initialization failure from server")

    monkeypatch.setattr(ray, "init", init)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"ray://127.0.0.1:{listener.getsockname()[1]}"
        Agent(address)
    assert tries == [address, address]


class Detour:
    """A cluster whose actors are reached through a proxy."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.proxy: Proxy | None = None

    def ask(self, method: str, *patience: float, **argument: Any) -> Any:
        answer = self.cluster.ask(method, *patience, **argument)
        if method == "create":
            self.proxy = Proxy(answer["port"], answer["host"])
            self.proxy.__enter__()
            answer = {**answer, "host": "127.0.0.1", "port": self.proxy.port}
        return answer


@pytest.fixture
def detour(ray_agent: Cluster) -> Iterator[Detour]:
    detour = Detour(ray_agent)
    yield detour
    if detour.proxy is not None:
        detour.proxy.__exit__()


@pytest.fixture
def session(detour: Detour) -> Iterator[Session]:
    recorder = Recorder()
    backend = RayBackend(recorder, cluster=detour, home=secrets.token_hex(8), placement={"num_cpus": 0})  # type: ignore[arg-type]
    backend.start()
    yield Session(backend, recorder)
    backend.close()


WRITES = """
import os
print("first", flush=True)
with open({pipe!r}) as gate:
    gate.read()
print("second", flush=True)
x = 5
os.getpid()
"""


WRITES_ON = """
import threading, time
def write():
    while True:
        print("tick", flush=True)
        time.sleep(0.05)
threading.Thread(target=write, daemon=True).start()
"""


def test_a_connection_that_breaks_is_taken_up_again_and_the_job_goes_on(session: Session, detour: Detour, tmp_path: Path) -> None:
    assert detour.proxy is not None
    pid = session.value("import os; os.getpid()")
    pipe = tmp_path / "gate"
    os.mkfifo(pipe)
    number = session.begin(WRITES.format(pipe=str(pipe)))
    session.recorder.wait_for_text(number, "first\n")
    links = len(detour.proxy.links)
    detour.proxy.gate.clear()
    detour.proxy.cut()
    pipe.write_text("go on")  # nobody hears of the rest at first
    detour.proxy.gate.set()
    outcome = session.recorder.outcome(number)
    assert outcome.value is not None
    assert outcome.value.json == pid
    assert session.recorder.text(number) == "first\nsecond\n"
    assert len(detour.proxy.links) == links + 3
    assert session.backend.read(["x"], "json", None, PATIENCE) == {"x": 5}
    number = session.begin("import time\nprint(1, flush=True)\ntime.sleep(1000)")
    session.recorder.wait_for_text(number, "1")
    assert session.backend.interrupt(number)
    assert session.recorder.outcome(number).state == "interrupted"


@pytest.mark.parametrize("lost", [Plan(to_server=0), Plan(to_client=0)], ids=["the job", "its end"])
def test_what_a_connection_loses_as_it_breaks_is_sent_again_and_no_job_runs_twice(
    lost: Plan, session: Session, detour: Detour
) -> None:
    assert detour.proxy is not None
    session.run("count = 0")
    detour.proxy.replan(lost)
    assert session.value("print('once')\ncount += 1\ncount") == 1
    assert detour.proxy.has_cut.is_set()
    assert session.text() == "once\n"
    assert session.value("count") == 1


def test_an_idle_workspace_whose_connection_breaks_tells_on_what_threads_write(
    session: Session, detour: Detour, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert detour.proxy is not None
    go_on, gone_on = RayBackend._go_on, threading.Event()

    def note(self: RayBackend, *arguments: Any) -> None:
        go_on(self, *arguments)
        gone_on.set()

    monkeypatch.setattr(RayBackend, "_go_on", note)
    session.run(WRITES_ON)
    session.recorder.wait_for_text(None, "tick")
    detour.proxy.cut()
    assert gone_on.wait(PATIENCE)
    before = len(session.recorder.text(None))
    session.recorder.wait_for(lambda: len(session.recorder.text(None)) > before)


def test_a_workspace_whose_connection_is_lost_for_good_has_died_and_leaves_no_actor(
    session: Session, detour: Detour, ray_agent: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_backend, "RECONNECT_TIMEOUT", 0.0)
    assert detour.proxy is not None
    number = session.begin("import os\nprint(os.getpid(), flush=True)\nwhile True: pass")
    session.recorder.wait_for_text(number, "\n")
    pid = int(session.recorder.text(number))
    start_time = process_start_time(pid) or ""
    detour.proxy.__exit__()
    detour.proxy = None
    assert session.recorder.death() == ("the connection to its node broke", False)
    assert wait_for_end(pid, start_time, PATIENCE)
    assert ray_agent.ask("records") == []


def test_a_workspace_that_is_killed_while_its_connection_is_broken_is_gone(
    session: Session, detour: Detour, ray_agent: Cluster
) -> None:
    assert detour.proxy is not None
    pid = session.value("import os\nos.getpid()")
    start_time = process_start_time(pid) or ""
    session.begin("while True: pass")
    detour.proxy.__exit__()
    detour.proxy = None
    assert session.backend.kill()
    assert session.recorder.death() == ("signal SIGKILL", False)
    assert wait_for_end(pid, start_time, PATIENCE)
    assert ray_agent.ask("records") == []
