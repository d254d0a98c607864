"""A client in a forked child: connections and numbers of its own, for all of its threads."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.servers import Served, running_server, tasks

import bgpy
from bgpy.client import Client
from bgpy.sockets import ClientSocket
from bgpy.system import forks

Args = dict[str, Any]
State = dict[str, Any]
ROOT = str(Path(bgpy.__file__).parents[1])
FORKING = """
import os, sys, threading
from bgpy.client import Client

client = Client(port=int(sys.argv[1]), timeout=20)
print(client.execute({"add": 1}, await_response=True)["count"], flush=True)
held, free = threading.Event(), threading.Event()

def hold():
    with client._status_pool._lock:
        held.set()
        free.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if not child:
    # The lock that another thread of the parent held at the fork does not hold the child up.
    client.status()
    print(client.execute({"add": 1}, await_response=True)["count"], flush=True)
    client.close()
    os._exit(0)
free.set()
thread.join()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(client.execute({"add": 1}, await_response=True)["count"], flush=True)
client.close()
"""


def run_script(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
        timeout=50,
    )


def test_a_forked_child_uses_connections_and_numbers_of_its_own(server: Served, tmp_path: Path) -> None:
    script = tmp_path / "forking.py"
    script.write_text(FORKING)
    done = run_script(script, server.port)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n2\n3\n", "", 0)


FORKED_THREADS = """
import os, sys, threading
from bgpy.client import Client

client = Client(port=int(sys.argv[1]), timeout=20)
client.execute({"who": "parent"}, await_response=True)
child = os.fork()
if not child:
    sys.setswitchinterval(1e-6)
    barrier = threading.Barrier(12)
    wrong = []

    def work(who):
        barrier.wait()
        for _ in range(2):
            try:
                answer = client.execute({"who": who}, await_response=True)
            except Exception as error:
                answer = error
            if answer != {"who": who}:
                wrong.append(answer)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os._exit(min(len(wrong), 100))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def echo_who(client_socket: ClientSocket, state: State, args: Args) -> State:
    client_socket.respond({"who": args["who"]})
    return state


def test_threads_of_a_forked_child_do_not_share_a_lane(tmp_path: Path) -> None:
    """Two of them began anew at once, with one id and two pools: each got answers of the other."""
    script = tmp_path / "forking.py"
    script.write_text(FORKED_THREADS)
    with running_server(tasks(echo_who)) as server:
        for _ in range(5):
            done = run_script(script, server.port)
            assert (done.stdout, done.stderr) == ("0\n", "")


FORKED_IN_A_STREAM = """
import os, sys
from bgpy.client import Client
from bgpy.errors import ConnectionLostError

client = Client(port=int(sys.argv[1]), timeout=20)
seen, child = [], 0
responses = client.stream({"up_to": 4})
for response in responses:
    seen.append(response["at"])
    if len(seen) == 2:
        child = os.fork()
        if not child:
            try:
                next(responses)
            except ConnectionLostError as error:
                assert error.executed is None, error
                print(error.reason, flush=True)
            again = [response["at"] for response in client.stream({"up_to": 2})]
            print(again, client.execute({"up_to": 1}, await_response=True), flush=True)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(seen)
"""


def count_up(client_socket: ClientSocket, state: State, args: Args) -> State:
    for number in range(args["up_to"]):
        client_socket.respond({"at": number}, more=number + 1 < args["up_to"])
    return state


def test_a_child_that_is_forked_within_a_stream_takes_nothing_of_it(tmp_path: Path) -> None:
    script = tmp_path / "forking.py"
    script.write_text(FORKED_IN_A_STREAM)
    with running_server(tasks(count_up)) as server:
        done = run_script(script, server.port)
    expected = ["this process was forked after it had asked", "[0, 1] {'at': 0}", "[0, 1, 2, 3]"]
    assert (done.stdout.splitlines(), done.stderr) == (expected, "")


FORKED_ASYNC = """
import asyncio, os, sys
from bgpy import AsyncClient

client = AsyncClient(port=int(sys.argv[1]), timeout=20)

async def ask(who):
    answer = await client.execute({"who": who}, await_response=True)
    print(answer == {"who": who}, flush=True)

if sys.argv[2] == "used":
    asyncio.run(ask("parent"))
for who in range(2):
    child = os.fork()
    if not child:
        asyncio.run(ask(who))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.parametrize("before", ["used", "unused"])
def test_each_forked_child_of_an_asyncio_client_has_its_own_numbers(tmp_path: Path, before: str) -> None:
    """The second child was told what the first one had been answered, and its own request never ran."""
    script = tmp_path / "forking.py"
    script.write_text(FORKED_ASYNC)
    with running_server(tasks(echo_who)) as server:
        done = run_script(script, server.port, before)
    assert (done.stdout, done.stderr, done.returncode) == ("True\n" * (2 + (before == "used")), "", 0)


FORKED_AND_CLOSED = """
import os, sys
os.register_at_fork(after_in_child=lambda: os.closerange(3, 256))
from bgpy.client import Client
from bgpy.system import call_after_fork

class Failing:
    def fail(self):
        raise RuntimeError("this one cannot")

failing = Failing()
call_after_fork(failing, Failing.fail)
clients = [Client(port=int(sys.argv[1]), timeout=20) for _ in range(3)]
for client in clients:
    client.execute({"who": "parent"}, await_response=True)
child = os.fork()
if not child:
    print([client.execute({"who": number}, await_response=True)["who"] for number, client in enumerate(clients)], flush=True)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print([client.execute({"who": "parent"}, await_response=True)["who"] for client in clients])
"""


def test_what_fails_after_a_fork_keeps_no_client_from_beginning_anew(tmp_path: Path) -> None:
    """All later ones went on with the numbers of the parent."""
    script = tmp_path / "forking.py"
    script.write_text(FORKED_AND_CLOSED)
    with running_server(tasks(echo_who)) as server:
        done = run_script(script, server.port)
    assert done.stdout == "[0, 1, 2]\n['parent', 'parent', 'parent']\n"
    assert "this one cannot" in done.stderr
    assert "Bad file descriptor" not in done.stderr


def test_clients_that_are_gone_leave_nothing_for_a_fork_to_do() -> None:
    gc.collect()  # what earlier tests have left, which could go at any moment
    before = len(forks._owners())
    client = Client(port=1)
    assert len(forks._owners()) == before + 1
    client.close()
    del client
    gc.collect()
    assert len(forks._owners()) == before
