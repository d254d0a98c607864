"""Variables between a workspace on Ray and a program that has joined its cluster: what is large goes by the object store."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from support.ray_cluster import RayCluster

from bgpy.client import Client
from bgpy.tasks.workspace.face import Workspaces

pytestmark = [pytest.mark.ray, pytest.mark.process, pytest.mark.timeout(180), pytest.mark.usefixtures("ray_agent")]

#: Prints a dict: of each step what the server was asked for it, and what came of it.
PROGRAM = """
import json, sys, numpy, ray, bgpy
from bgpy.tasks.workspace import Workspaces
from bgpy.tasks.workspace.onray import shared
from bgpy.tasks.workspace.remote import Asker

class Point:
    def __init__(self, array):
        self.array = array

class Closed:
    def __init__(self, array):
        self.array = array
    def __reduce__(self):
        return (int, ("no number",), {"array": self.array})

asked, steps = [], {}
ask = Asker.ask

def note(self, command, *arguments, **fields):
    asked.append(command)
    if old and (command == "fetch_variable" or "packed" in fields):
        raise bgpy.RefusedError("It knows nothing of that", "packed" if "packed" in fields else "command")
    return ask(self, command, *arguments, **fields)

def step(name, do):
    asked.clear()
    try:
        value = do()
    except (bgpy.BgpyError, KeyError) as error:
        value = f"{type(error).__name__}: {error}"
    steps[name] = [" ".join(asked), value]

def fails(*arguments, **options):
    raise ray.exceptions.ObjectStoreFullError("full")

def both(of, name):
    step(f"set {name}", lambda: of.__setitem__("x", big))
    step(f"get {name}", lambda: looks(of["x"]))

def looks(array):
    same = bool((array == big).all())
    array[0] = 1  # as what came by the server
    return [same, array.flags.writeable]

old, big = False, numpy.arange(200_000)
Asker.ask = note
with bgpy.connect("lab") as client:
    lab, here = (Workspaces(client)[name].variables for name in ("lab", "here"))
    both(lab, "before")
    step("closed before", lambda: lab.__setitem__("x", Closed(big)))
    ray.init(sys.argv[1], log_to_driver=False, configure_logging=False)
    both(lab, "joined")
    both(here, "in a process")
    step("set small", lambda: lab.__setitem__("y", 5))
    step("get small", lambda: lab["y"])
    step("set text", lambda: lab.__setitem__("t", "word" * 500_000))
    step("get text", lambda: lab["t"] == "word" * 500_000)
    step("set point", lambda: lab.__setitem__("p", Point(big)))
    step("get point", lambda: looks(lab["p"].array))
    step("get several", lambda: [looks(value) if name == "x" else value for name, value in lab.read("x", "y").items()])
    step("get all", lambda: sorted(lab.read()))
    step("get none", lambda: lab["missing"])
    step("set no name", lambda: lab.__setitem__("no name", big))
    step("set closed", lambda: lab.__setitem__("x", Closed(big)))
    step("set what has no pickle", lambda: lab.__setitem__("x", [big, (each for each in "ab")]))
    step("many", lambda: [lab.update(many=numpy.ones(1_000_000)) or int(lab["many"].sum()) for _ in range(12)][-1])
    step("counted", lambda: len(ray._private.worker.global_worker.core_worker.get_all_reference_counts()))
    step("elsewhere", lambda: list(client.execute({"command": "fetch_variable", "name": "lab", "variable": ["x"], "node": "00"},
                                                  await_response=True)["result"]))
    is_here, put, get = shared.is_here, ray.put, ray.get
    shared.is_here = lambda node: False
    step("set elsewhere", lambda: lab.__setitem__("x", big))
    shared.is_here = is_here
    ray.put = ray.get = fails
    both(lab, "without room")
    ray.put, ray.get = put, get
    old = True
    both(lab, "with an old server")
    print(json.dumps(steps))
"""


def test_what_is_large_goes_by_the_object_store_and_nothing_differs_but_that(
    start: Callable[..., Client], ray_cluster: RayCluster
) -> None:
    workspaces = Workspaces(start())
    lab = workspaces.create("lab", num_cpus=0)
    workspaces.create("here", "process")
    lab.run("1")
    program = [sys.executable, "-c", PROGRAM, ray_cluster.address]
    done = subprocess.run(program, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout.splitlines()[-1])
    whole = [True, True]
    closed = "RefusedError: Cannot unpickle the message: ValueError: invalid literal for int() with base 10: 'no number'."
    assert steps == {
        "set before": ["set_variable", None],
        "get before": ["get_variable", whole],
        "closed before": ["set_variable", closed],
        "set joined": ["get_status take_variable", None],
        "get joined": ["fetch_variable return_variable", whole],
        "set in a process": ["get_status set_variable", None],
        "get in a process": ["fetch_variable", whole],
        "set small": ["set_variable", None],
        "get small": ["fetch_variable", 5],
        "set text": ["get_status take_variable", None],
        "get text": ["fetch_variable return_variable", True],
        "set point": ["get_status take_variable", None],
        "get point": ["fetch_variable return_variable", whole],
        "get several": ["fetch_variable return_variable", [whole, 5]],
        "get all": ["fetch_variable return_variable", ["p", "t", "x", "y"]],
        "get none": ["fetch_variable", "KeyError: 'missing'"],
        "set no name": ["get_status take_variable", "RefusedError: 'no name' is no name of a variable."],
        "set closed": ["get_status take_variable", closed],
        "set what has no pickle": [
            "",
            "SerializationError: Cannot pickle the message: TypeError: cannot pickle 'generator' object.",
        ],
        "many": [" ".join(["get_status take_variable fetch_variable return_variable"] * 12), 1_000_000],
        "counted": ["", 0],
        "elsewhere": ["", ["values"]],
        "set elsewhere": ["get_status set_variable", None],
        "set without room": ["get_status set_variable", None],
        "get without room": ["fetch_variable return_variable get_variable", whole],
        "set with an old server": ["get_status take_variable set_variable", None],
        "get with an old server": ["fetch_variable get_variable", whole],
    }
    assert lab.run("(x.flags.writeable, int(x.sum()))") == (True, 19_999_900_000)
    assert lab.run("import ray; ray._private.worker.global_worker.core_worker.get_all_reference_counts()") == {}
