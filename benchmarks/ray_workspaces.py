"""
Workspaces on Ray beside a bare Ray actor that does the same, and beside a workspace in a process, in one run.

Prints medians and ratios as a table, or as JSON with ``--json``. A time means nothing by itself: compare within one run.
The bare actor executes each script that comes in one namespace, and sets and returns what lies there; who calls it is connected
to the same cluster, as this program is. Starts a Ray of its own on this machine, and ends it. Needs the extra ``ray``, and numpy.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
from measuring import interleave, ratio

import bgpy
from bgpy.records import Registry
from bgpy.tasks.workspace import workspace_tasks
from bgpy.tasks.workspace.face import Workspace, Workspaces
from bgpy.tasks.workspace.values import Packed

SCRIPT = "x = 1"
PUSHED = 1000
WORKERS = 8
CALLS = 200
CLIENTS = 500
ARRAY_BYTES = 64 << 20
MEBIBYTE = 1 << 20


class Bare:
    """The floor: an actor with a namespace."""

    def __init__(self) -> None:
        self.namespace: dict[str, Any] = {"__name__": "__main__"}

    def run(self, script: str) -> None:
        """Execute a script."""
        exec(compile(script, "<job>", "exec"), self.namespace)

    def set(self, name: str, value: Any) -> None:
        """Set a variable."""
        self.namespace[name] = value

    def get(self, name: str) -> Any:
        """Return a variable."""
        return self.namespace[name]

    def set_copy(self, name: str, value: Any) -> None:
        """Set a variable to what can be written: what comes out of the object store cannot."""
        self.namespace[name] = np.array(value)


class Stand(Workspaces):
    """All that takes part: a server with workspaces on the cluster and in processes, and bare actors."""

    def __init__(self, client: bgpy.Client) -> None:
        super().__init__(client)
        record = Registry().find("bench")
        assert record is not None
        self.pid = record.pid
        self._actor = ray.remote(num_cpus=0)(Bare)

    def bare(self) -> Any:
        """Start a bare actor, and wait until it is there."""
        actor = self._actor.remote()
        ray.get(actor.run.remote(SCRIPT))
        return actor

    def workspace(self, name: str, kind: str = "ray") -> Workspace:
        """Create a workspace, and wait until it is there."""
        lab = self.create(name, kind, **({"num_cpus": 0} if kind == "ray" else {}))
        lab.run(SCRIPT)
        return lab


@contextmanager
def stand() -> Iterator[Stand]:
    """Start a cluster and a server."""
    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        address = ray.get_runtime_context().gcs_address
        with bgpy.start("bench", workspace_tasks(ray=address), timeout=120) as client:
            made = Stand(client)
            try:
                yield made
            finally:
                made.destroy()
                client.terminate(timeout=120)
    finally:
        ray.shutdown()


def jobs(made: Stand, rounds: int) -> dict[str, float]:
    """Measure one job after the other with its end waited for, and many that are pushed before one is waited for."""
    actor, lab, process = made.bare(), made.workspace("jobs"), made.workspace("jobs in a process", "process")
    one_by_one: dict[str, Callable[[], Any]] = {
        "bare actor": lambda: ray.get(actor.run.remote(SCRIPT)),
        "on Ray": lambda: lab.run(SCRIPT),
        "process": lambda: process.run(SCRIPT),
    }
    pushed: dict[str, Callable[[], Any]] = {
        "bare actor": lambda: ray.get([actor.run.remote(SCRIPT) for _ in range(PUSHED)]),
        "on Ray": lambda: push(lab),
        "process": lambda: push(process),
    }
    interleave(one_by_one, 2, 50)
    interleave(pushed, 1)
    one = interleave(one_by_one, rounds, 50)
    many = interleave(pushed, max(rounds // 2, 3))
    made.destroy()
    ray.kill(actor)
    return {
        **{f"one at a time, {name}, jobs/s": 1 / statistics.median(times) for name, times in one.items()},
        **ratios(one, "one at a time"),
        **{f"pushed, {name}, jobs/s": PUSHED / statistics.median(times) for name, times in many.items()},
        **ratios(many, "pushed"),
    }


def push(lab: Workspace) -> None:
    """Push jobs without waiting, but for the last one."""
    for _ in range(PUSHED - 1):
        lab.push_job(SCRIPT)
    lab.run(SCRIPT)


def ratios(figures: dict[str, list[float]], what: str) -> dict[str, float]:
    """Return what is asked of the times: the share of those of a bare actor, of a process, and of other ways."""
    bases = ("bare actor", "bare actor with a copy", "process", "on Ray, by the server")
    return {f"{what}, on Ray / {base}": ratio(figures, "on Ray", base) for base in bases if base in figures}


def hand_over(made: Stand, rounds: int) -> dict[str, float]:
    """Measure 64 MB to a workspace, from it, and from one to another."""
    array = np.random.default_rng(0).random(ARRAY_BYTES // 8)
    kinds: dict[str, Any] = {"on Ray": "ray", "process": "process"}
    labs = {name: [made.workspace(f"{number} {kind}", kind) for number in "ab"] for name, kind in kinds.items()}
    actors = [made.bare(), made.bare()]
    figures: dict[str, float] = {}
    for what, value in (("array", array), ("bytes", array.tobytes())):
        ways: dict[str, dict[str, Callable[[], Any]]] = {
            "set": {"bare actor": lambda value=value: ray.get(actors[0].set.remote("x", value))},
            "get": {"bare actor": lambda: ray.get(actors[0].get.remote("x"))},
            "shared set": {"bare actor": lambda value=value: ray.get(actors[0].set.remote("x", value))},
            "shared get": {"bare actor": lambda: ray.get(actors[0].get.remote("x"))},
            "copy": {"bare actor": lambda: ray.get(actors[1].set.remote("x", actors[0].get.remote("x")))},
        }
        for name, (first, second) in labs.items():
            ways["set"][name] = lambda first=first, value=value: first.variables.update({"x": value})
            ways["get"][name] = lambda first=first: first.variables["x"]
            ways["copy"][name] = lambda first=first, second=second: first.copy_variable("x", second)
        if what == "array":
            # What can be written there is an array that was copied out of the object store, as a workspace's variables are.
            ways["set"]["bare actor with a copy"] = lambda: ray.get(actors[0].set_copy.remote("x", array))
            ways["get"]["bare actor with a copy"] = lambda: np.array(ray.get(actors[0].get.remote("x")))
        lab = labs["on Ray"][0]
        ways["set"]["on Ray, by the server"] = lambda lab=lab, value=value: set_by_server(made, lab, value)
        ways["get"]["on Ray, by the server"] = lambda lab=lab: get_by_server(made, lab)
        ways["shared set"]["on Ray"] = lambda lab=lab, value=value: lab.shared.__setitem__("x", value)
        ways["shared get"]["on Ray"] = lambda lab=lab: lab.shared["x"]
        for way, calls in ways.items():
            interleave(calls, 2)
            times = interleave(calls, rounds)
            figures |= {f"{way} {what}, {name}, ms": statistics.median(each) * 1e3 for name, each in times.items()}
            figures |= ratios(times, f"{way} {what}")
    assert (labs["on Ray"][1].variables["x"], labs["process"][1].variables["x"]) == (value, value)
    made.destroy()
    for actor in actors:
        ray.kill(actor)
    return figures


def set_by_server(made: Stand, lab: Workspace, value: Any) -> None:
    """Set a variable as a program does that is on no cluster."""
    message = {"command": "set_variable", "name": lab.name, "variable": "x", "value": Packed.of(value)}
    assert made.client.execute(message, await_response=True)["request_result"] is True


def get_by_server(made: Stand, lab: Workspace) -> Any:
    """Return a variable as to a program that is on no cluster."""
    message = {"command": "get_variable", "name": lab.name, "variable": "x"}
    return made.client.execute(message, await_response=True)["result"].open()


def many(made: Stand, number: int, kind: str) -> dict[str, float]:
    """Create many workspaces of one type at once, run a job on each, and look what they take."""
    before = Usage.of(made.pid)
    start = time.perf_counter()
    labs = [made.create(f"{index}", kind, **({"num_cpus": 0} if kind == "ray" else {})) for index in range(number)]
    created = time.perf_counter() - start
    pushed = [lab.push_job("import os\n(os.getpid(), os.getppid())") for lab in labs]
    workers = [job.result(600) for job in pushed]
    first = time.perf_counter() - start
    start = time.perf_counter()
    for lab in labs:
        lab.run(SCRIPT)
    again = time.perf_counter() - start
    after = Usage.of(made.pid)
    if kind == "ray":
        beside = [pid for worker, _ in workers for pid in processes(b"keeper", str(worker).encode())]
        assert len(beside) == number, "keepers were not found"
    else:
        beside = [parent for _, parent in workers]
    memory = [statistics.median(pss(pid) for pid in pids) / MEBIBYTE for pids in ([worker for worker, _ in workers], beside)]
    start = time.perf_counter()
    made.destroy()
    return {
        "workspaces": float(number),
        "accepted, s": created,
        "one job on each has ended, s": first,
        "another job on each, one after the other, s": again,
        "all destroyed, s": time.perf_counter() - start,
        "interpreter, MB PSS": memory[0],
        "keeper or reaper beside it, MB PSS": memory[1],
        **shares(before, after, number),
    }


def shares(before: Usage, after: Usage, number: int) -> dict[str, float]:
    """Return what each of so many things takes of a server."""
    return {
        "server, KB PSS for each": (after.pss - before.pss) / number / 1024,
        "server, threads for each": (after.threads - before.threads) / number,
        "server, descriptors for each": (after.descriptors - before.descriptors) / number,
    }


def one_server(made: Stand, rounds: int) -> dict[str, float]:
    """Measure how many requests a server answers, how many jobs run in all of its workspaces, and what a client takes."""
    made.workspace("one")
    labs = [made.workspace(f"{number}", "process") for number in range(WORKERS)]
    lab = labs[0]
    rates: dict[str, list[float]] = {
        "requests/s, one thread": [],
        "requests/s, threads": [],
        "jobs/s, one workspace per thread": [],
    }
    for _ in range(max(rounds // 2, 3)):
        for what, threads, call in (
            ("requests/s, one thread", 1, lambda number: lab.status()),
            ("requests/s, threads", WORKERS, lambda number: lab.status()),
            ("jobs/s, one workspace per thread", WORKERS, lambda number: labs[number].run(SCRIPT)),
        ):
            start = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda number, call=call: [call(number) for _ in range(CALLS)], range(threads)))
            rates[what].append(threads * CALLS / (time.perf_counter() - start))
    before = Usage.of(made.pid)
    clients = [bgpy.connect("bench") for _ in range(CLIENTS)]
    for client in clients:
        client.execute({"command": "get_workspace"}, await_response=True)
    after = Usage.of(made.pid)
    for client in clients:
        client.close()
    (agent,) = [pid for pid in processes(b"agent") if parent(pid) == made.pid]
    figures = {name: statistics.median(each) for name, each in rates.items()}
    figures |= {"threads": float(WORKERS), "clients": float(CLIENTS), **shares(before, after, CLIENTS)}
    made.destroy()
    return {**figures, "server's process beside it that speaks with Ray, MB PSS": pss(agent) / MEBIBYTE}


class Usage:
    """What a process takes."""

    def __init__(self, pss: int, threads: int, descriptors: int) -> None:
        self.pss, self.threads, self.descriptors = pss, threads, descriptors

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Look at a process."""
        return cls(pss(pid), len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd")))


def pss(pid: int) -> int:
    """Return the bytes of memory of a process, of what it shares its part."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def parent(pid: int) -> int:
    """Return the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def processes(*wanted: bytes) -> list[int]:
    """Return those that were started with some words."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if all(word in words for word in wanted):
            found.append(int(folder.name))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of each comparison")
    parser.add_argument(
        "--only", choices=("jobs", "hand over", "one server", "many"), action="append", help="measure this section only"
    )
    parser.add_argument("--many", type=int, default=100, help="how many workspaces are created at once")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        Path(home, "ray-token").write_text(secrets.token_hex(32))
        os.environ.update(BGPY_HOME=home, RAY_AUTH_TOKEN_PATH=f"{home}/ray-token", RAY_USAGE_STATS_ENABLED="0")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
        sections: dict[str, Callable[[Stand], dict[str, float]]] = {
            "jobs": lambda made: jobs(made, options.rounds),
            "hand over": lambda made: hand_over(made, options.rounds),
            "one server": lambda made: one_server(made, options.rounds),
            "many on Ray": lambda made: many(made, options.many, "ray"),
            "many in processes": lambda made: many(made, options.many, "process"),
        }
        wanted = tuple(options.only or ("",))
        with stand() as made:
            results = {name: measure(made) for name, measure in sections.items() if name.startswith(wanted)}
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for section, figures in results.items():
        print(f"\n{section}")
        for name, value in figures.items():
            print(f"  {name:56} {value:12.2f}")


if __name__ == "__main__":
    main()
