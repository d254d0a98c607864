"""
A concurrent task that hands its work to a pool: nobody waits in line, and whoever finishes first is answered first.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import bgpy


def init_task():
    return {"pool": ThreadPoolExecutor(4), "lock": threading.Lock(), "done": [], "gate": threading.Event()}


def work(client_socket, state, job):
    """Run in a thread of the pool, and answer from there."""
    if job == "slow":
        state["gate"].wait()
    with state["lock"]:  # the state is shared: it has its own guard
        state["done"].append(job)
        done = list(state["done"])
    bgpy.respond(client_socket, {"done": done})
    if job == "quick":
        state["gate"].set()


@bgpy.concurrent
def exec_task(client_socket, state, args):
    client_socket.defer()  # the task returns before the work is done
    state["pool"].submit(work, client_socket, state, args["job"])


def exit_task(client_socket, state, args):
    state["pool"].shutdown()


with bgpy.start("jobs", init_task, exec_task, exit_task) as client:
    slow = client.submit({"job": "slow"})  # a future
    print("quick:", client.execute({"job": "quick"}, await_response=True))
    print("slow: ", slow.result())
    client.terminate()
