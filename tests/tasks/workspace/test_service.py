"""The workspace task set on real servers, with real workers."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from support.servers import Served, background_server, running_server

import bgpy
from bgpy.client import Client
from bgpy.system import kill_process, process_start_time, wait_for_end
from bgpy.tasks.workspace import workspace_tasks
from bgpy.tasks.workspace.values import Packed


class Asker:
    """Asks a server, and takes the envelope off."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def __call__(self, command: str, **fields: Any) -> Any:
        answer = self.client.execute({"command": command, **fields}, await_response=True)
        assert answer["request_result"] is True, answer
        return answer["result"]

    def run(self, job: str, **fields: Any) -> Any:
        return self("push_job", **{"name": "w", "job": job, "type": 1, "timeout": 20, "encoding": "json", **fields})


@pytest.fixture
def served() -> Iterator[Served]:
    with running_server(workspace_tasks()) as served:
        yield served


@pytest.fixture
def ask(served: Served) -> Asker:
    ask = Asker(served.client())
    ask("create_workspace", name="w")
    return ask


def test_variables_stay_from_job_to_job(ask: Asker) -> None:
    first = ask.run("import math\nx = [1, 2]\nprint('hello')")
    assert (first["result"], first["output"]["stdout"], first["variable"]) == (True, "hello\n", {"x": [1, 2]})
    second = ask.run("x.append(3)\nmath.floor(sum(x) + 0.5)")
    assert (second["job"], second["value"], second["variable"]) == (1, 6, {"x": [1, 2, 3]})
    packed = ask("get_variable", name="w", variable="x")
    assert packed.open() == [1, 2, 3]
    ask("set_variable", name="w", variable="y", value=Packed.of({1, 2}))
    assert ask.run("sorted(y)")["value"] == [1, 2]
    assert ask("clear", name="w", timeout=20)["result"] is True
    assert ask("get_variable", name="w") == {}


def test_fields_may_be_texts_of_numpy(ask: Asker) -> None:
    """A name that NumPy had made was sent on as it was, and ended the worker's thread that reads variables."""
    name = numpy.str_("x")
    assert ask.run(numpy.str_("x = [1, 2]"), type=numpy.str_("script"), time_limit=numpy.float64(20))["state"] == "done"
    assert ask("set_variable", name=numpy.str_("w"), variable=name, value=5) is True
    assert ask("get_variable", name="w", variable=[name], encoding="json") == {"x": 5}
    assert ask("get_value", name="w", variable=name)["value"] == 5
    assert ask("get_status", name="w")["restarts"] == 0


def test_the_record_tells_all_ends_apart(ask: Asker) -> None:
    ends = {
        "raise ValueError('no')": "failed",
        "import os; os._exit(3)": "crashed",
        "1": "done",
    }
    for number, (script, state) in enumerate(ends.items()):
        assert ask.run(script)["state"] == state
        assert ask("get_record", name="w", job=number)["state"] == state
    assert ask.run("while True: pass", time_limit=0.2)["state"] == "timed_out"
    assert ask("get_status", name="w")["restarts"] == 1
    assert ask("get_result", name="w") == [False, False, True, False]


def test_a_running_job_is_interrupted_and_another_killed_and_the_next_one_runs(ask: Asker) -> None:
    watcher = served_stream(ask, since=0)
    for command, state in (("interrupt", "interrupted"), ("kill", "killed")):
        number = ask.run("import time\nprint('up', flush=True)\ntime.sleep(1000)", timeout=0)["job"]
        assert any(event["event"] == "output" and event["job"] == number for event in watcher)
        assert ask(command, name="w", job=number) is True
        assert any(event["event"] == "finished" and event["state"] == state for event in watcher)
    assert ask.run("1")["state"] == "done"
    watcher.close()


FAMILY = """
own = subprocess.Popen(['sleep', '1000'], start_new_session=True)
lost = int(subprocess.check_output('setsid sleep 1000 >&- & echo $!', shell=True))
deaf = subprocess.Popen(['sh', '-c', "trap '' INT; echo deaf; sleep 1000; sleep 1000"], stdout=subprocess.PIPE)
print(own.pid, lost, deaf.pid, deaf.stdout.readline(), flush=True)
while True: pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an interrupt reaches the process group only")
@pytest.mark.parametrize("state", ["interrupted", "timed_out"])
def test_what_stops_a_job_takes_along_what_it_started_and_nothing_else(ask: Asker, state: str) -> None:
    script = (
        "import subprocess, time\nkept = subprocess.Popen(['sleep', '1000'], start_new_session=True)\ntime.sleep(0.05)\nkept.pid"
    )
    kept = ask.run(script)["value"]
    start_time = process_start_time(kept)
    watcher = served_stream(ask, since=0, until=1)
    ask.run(FAMILY, timeout=0, time_limit=1 if state == "timed_out" else None)
    said = next(event["text"] for event in watcher if event["event"] == "output")
    if state == "interrupted":
        assert ask("interrupt", name="w", job=1) is True
    assert list(watcher)[-1]["state"] == state
    for pid in map(int, said.split()[:3]):
        started = process_start_time(pid)
        assert started is None or wait_for_end(pid, started, 10), f"process {pid} lives"
    assert ask.run("own.poll(), deaf.poll(), kept.poll()", variables=False)["value"] == [-9, -9, None]
    assert process_start_time(kept) == start_time


def served_stream(ask: Asker, **fields: Any) -> Any:
    for answer in ask.client.stream({"command": "watch", "name": "w", **fields}, timeout=30):
        yield answer["result"]


def test_fifty_clients_push_at_once_and_each_gets_its_own_number(served: Served, ask: Asker) -> None:
    start = threading.Barrier(50)
    answers: list[Any] = []

    def push(number: int) -> None:
        with served.client() as client:
            start.wait(20)
            answers.append((number, Asker(client).run(f"{number}", variables=False)))

    threads = [threading.Thread(target=push, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert sorted(answer["job"] for _, answer in answers) == list(range(50))
    assert all(answer["value"] == number for number, answer in answers)


def test_two_workspaces_do_not_see_each_other(ask: Asker) -> None:
    ask("create_workspace", name="v")
    ask.run("x = 1")
    ask.run("x = 2", name="v")
    ask.run("import os; os._exit(1)", name="v")
    assert ask.run("x")["value"] == 1
    assert ask.run("'x' in globals()", name="v")["value"] is False


class Deadly:
    """Ends the process that opens it."""

    def __reduce__(self) -> Any:
        return os._exit, (9,)


def test_a_variable_that_ends_its_worker_ends_one_and_nothing_else(ask: Asker) -> None:
    ask("create_workspace", name="v")
    assert ask.run("x = 1", name="v")["state"] == "done"
    watcher = served_stream(ask, since=0)
    message = {"command": "set_variable", "name": "w", "variable": "x", "value": Packed.of(Deadly())}
    refused = ask.client.execute(message, await_response=True)
    assert (refused["request_result"], "died" in refused["result"]) == (False, True)
    assert next(event for event in watcher if event["event"] == "worker_died")["restarts"] == 1
    script = "class Deadly:\n    def __reduce__(self):\n        import os; os._exit(9)\nx = Deadly()"
    assert ask.run(script, variables=False)["state"] == "done"
    refused = ask.client.execute({"command": "get_variable", "name": "w", "variable": "x"}, await_response=True)
    assert (refused["request_result"], "died" in refused["result"]) == (False, True)
    assert next(event for event in watcher if event["event"] == "worker_died")["restarts"] == 2
    watcher.close()
    assert (ask.run("2")["value"], ask.run("x", name="v")["value"]) == (2, 1)


def test_a_thread_workspace_runs_jobs_and_says_what_it_cannot(ask: Asker) -> None:
    ask("create_workspace", name="t", type="thread")
    assert ask.run("x = 2\nx + 1", name="t")["value"] == 3
    assert ask("get_status", name="t")["abilities"]["kill"] is False
    answer = ask.client.execute({"command": "kill", "name": "t"}, await_response=True)
    assert answer["request_result"] is False
    assert "cannot be killed" in answer["result"]


@pytest.mark.process
def test_a_server_is_started_by_the_name_of_the_task_set() -> None:
    with bgpy.start("house", "bgpy.tasks.workspace") as client:
        ask = Asker(client)
        ask("create_workspace", name="w")
        assert ask.run("1 + 1")["value"] == 2
        client.terminate()


def test_a_client_initialises_a_server_by_the_name_of_the_task_set() -> None:
    with running_server(None) as served:
        client = served.client()
        client.initialize("bgpy.tasks.workspace")
        assert Asker(client)("get_workspace") == []


@pytest.mark.process
def test_after_a_sigkill_every_acknowledged_job_is_there_and_none_runs_twice(tmp_path: Path) -> None:
    tasks = workspace_tasks(store=str(tmp_path / "store"))
    mark = tmp_path / "mark"
    with background_server(tasks) as server, Client(server.host, server.port) as client:
        ask = Asker(client)
        ask("create_workspace", name="w")
        assert ask.run("print('kept')\n6 * 7")["value"] == 42
        worker = ask("get_status", name="w")["pid"]
        worker_start = process_start_time(worker)
        stream = served_stream(ask, since=0)
        ask.run(f"open({str(mark)!r}, 'a').write('ran')\nprint('up', flush=True)\nimport time; time.sleep(1000)", timeout=0)
        assert any(event["event"] == "output" and event["job"] == 1 for event in stream)
        for number in range(2, 5):
            assert ask.run(f"{number}", timeout=0)["job"] == number
        assert server.pid is not None
        start_time = process_start_time(server.pid)
        assert start_time is not None
        kill_process(server.pid, start_time)
        assert wait_for_end(server.pid, start_time, 10)
        assert worker_start is not None
        assert wait_for_end(worker, worker_start, 10), "an orphan stayed"
    with background_server(tasks) as server, Client(server.host, server.port) as client:
        ask = Asker(client)
        states = [ask("get_record", name="w", job=number)["state"] for number in range(5)]
        assert states == ["done", "interrupted", "held", "held", "held"]
        record = ask("get_record", name="w", job=0, encoding="json")
        assert (record["value"], record["output"]["stdout"]) == (42, "kept\n")
        assert ask("cancel", name="w", job=3) is True
        assert ask("resume", name="w") == 2
        assert ask.run("5")["job"] == 5
        assert ask("get_result", name="w") == [True, False, True, False, True, True]
        assert mark.read_text() == "ran"
        client.terminate()
