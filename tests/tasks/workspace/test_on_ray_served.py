"""Workspaces on Ray from outside: the whole command with its gateway, the kinds of addresses, a connection that is lost."""

from __future__ import annotations

import json
import secrets
import signal
import socket
import urllib.request
from typing import Any

import pytest
from support.backends import PATIENCE, Recorder, Session
from support.commands import next_line, running_command
from support.proxies import Proxy
from support.ray_cluster import RayCluster

from bgpy.system import process_start_time, wait_for_end
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


@pytest.mark.parametrize("address", ["local", "auto", "HOST:PORT"])
def test_the_command_serves_a_cluster_over_http_and_ends_clean(address: str, ray_cluster: RayCluster, ray_agent: Cluster) -> None:
    environment = {"RAY_ADDRESS": ray_cluster.address} if address == "auto" else {}
    named = ray_cluster.address if address == "HOST:PORT" else address
    with running_command("serve", "--bind", "127.0.0.1:0", "--ray", named, **environment) as process:
        page = next_line(process).removeprefix("The page: ")
        assert b"<html" in fetch(page)
        post(page, "create_workspace", name="lab", num_cpus=0)
        done = post(page, "push_job", name="lab", job="import os\nx = 5\nos.getpid()", type=1, timeout=60)
        assert (done["state"], done["variable"]["x"]) == ("done", 5)
        actor = (done["value"], process_start_time(done["value"]) or "")
        status, (node, *_) = post(page, "get_status", name="lab"), post(page, "get_nodes")
        assert (status["type"], status["node"], status["address"]) == ("ray", node["node"], node["address"])
        assert status["pid"] == actor[0]
        if address != "local":
            assert [node["node"]] == [each["node"] for each in ray_agent.ask("nodes")]
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


def test_a_workspace_whose_connection_is_lost_has_died_and_leaves_no_actor(ray_agent: Cluster) -> None:
    detour, recorder = Detour(ray_agent), Recorder()
    backend = RayBackend(recorder, cluster=detour, home=secrets.token_hex(8), placement={"num_cpus": 0})  # type: ignore[arg-type]
    backend.start()
    assert detour.proxy is not None
    try:
        number = Session(backend, recorder).begin("import os\nprint(os.getpid(), flush=True)\nwhile True: pass")
        recorder.wait_for_text(number, "\n")
        pid = int(recorder.text(number))
        start_time = process_start_time(pid) or ""
        detour.proxy.cut()
        assert recorder.death() == ("the connection to its node broke", False)
        assert wait_for_end(pid, start_time, PATIENCE)
        assert ray_agent.ask("records") == []
    finally:
        backend.close()
        detour.proxy.__exit__()
