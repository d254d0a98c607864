"""
The process of a server that is connected to Ray. It answers questions over one channel, several at a time, and ends with it.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from bgpy.system.spawning import take_inherited
from bgpy.tasks.workspace.channel import Channel, Kind, Message
from bgpy.tasks.workspace.onray.actor import NAMESPACE, WorkspaceActor, forget_record, read_record

#: Questions that are answered at the same time, and actors that are waited for beside them.
_THREADS = _STARTS = 32
#: Seconds for the cluster's port to be reached.
_REACH_TIMEOUT = 10.0
#: What Ray says of an actor that died, up to where it begins to guess.
_NODE_DIED = re.compile(r"node has died\.? *(?:Node Id: *(?P<node>\w+))?")
_WORKER_DIED = re.compile(r"Worker exit detail: (?P<detail>.*?)(?: Some common causes|$)", re.DOTALL)
#: Of what an actor is placed by, what says nothing of the room that it needs.
_UNSAID = ("runtime_env", "spread")
_KILLED = "killed by `ray.kill`"
_OUT_OF_MEMORY = re.compile(r"out of memory|OOM|memory usage threshold|memory monitor", re.IGNORECASE)


def main(arguments: list[str]) -> int:
    """Connect to Ray, say how that went, and answer until there is nobody to ask."""
    fd, address = int(arguments[0]), arguments[1]
    channel = Channel(take_inherited([fd])[0])
    try:
        agent = Agent(address)
    except BaseException as error:  # noqa: BLE001 - Ray raises what it likes, SystemExit included; all of it is the answer
        channel.send(Kind.READY, 0, {"reason": _text(error), "missing": isinstance(error, ModuleNotFoundError)})
        return 1
    channel.send(Kind.READY, 0, {"reason": None, "missing": False})
    try:
        agent.serve(channel)
    finally:
        agent.close()
    return 0


class Agent:
    """
    What a server asks of Ray.

    Parameters
    ----------
    address
        auto, local, HOST:PORT or ray://HOST:PORT.
    """

    def __init__(self, address: str) -> None:
        import ray

        options: dict[str, Any] = {}
        place = address.removeprefix("ray://")
        if ":" in place:
            host, _, port = place.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), _REACH_TIMEOUT).close()  # Ray itself would try for a minute
        if address == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            options["include_dashboard"] = False
        connect = partial(ray.init, address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False, **options)
        try:
            connect()
        except ConnectionAbortedError:
            # What the cluster starts for a client over there at times dies at once: it is forked beside threads of gRPC's.
            connect()
        self._ray = ray
        self._lock = threading.Lock()
        self._served: dict[str, Any] = {}  # by actor: what is known at once when it dies
        self._coming: dict[str, Any] = {}  # actors that no server knows yet
        self._came = 0.0  # when the last one was ready

    def serve(self, channel: Channel) -> None:
        """Answer questions until the channel ends."""
        with ThreadPoolExecutor(_THREADS, "bgpy-ray") as pool, ThreadPoolExecutor(_STARTS, "bgpy-ray-start") as starts:
            while (message := channel.receive()) is not None:
                (starts if message.fields["method"] == "create" else pool).submit(self._answer, channel, message)
            starts.shutdown(wait=False, cancel_futures=True)
            with self._lock:
                coming = list(self._coming.values())
            for handle in coming:
                self._ray.kill(handle)  # else it would wait for a node, or live there, without a server

    def close(self) -> None:
        """Let go of the cluster; ends one that was started here."""
        self._ray.shutdown()

    def _answer(self, channel: Channel, message: Message) -> None:
        try:
            fields = {"value": _METHODS[message.fields["method"]](self, **message.fields["argument"])}
        except BaseException as error:  # noqa: BLE001 - whatever Ray raises is the answer
            fields = {"error": _text(error)}
        try:
            channel.send(Kind.ANSWER, message.number, fields)
        except OSError:
            pass  # the server has gone, and the main thread hears of it

    def create(self, home: str, about: dict[str, Any], placement: dict[str, Any], timeout: float, until: float) -> dict[str, Any]:
        """
        Start an actor, and return what it has written down of itself.

        It is given up after a time in which no other one was ready either: of a crowd each waits for those before it; and when
        the clock of this machine says `until`.
        """
        begun = time.monotonic()
        while True:
            name = f"{home}.{secrets.token_hex(4)}"
            options = {"name": name, "namespace": NAMESPACE, "lifetime": "detached", "max_restarts": 0, "max_concurrency": 1}
            handle = self._ray.remote(WorkspaceActor).options(**options, **self._placement(placement)).remote(home, about)
            with self._lock:
                self._coming[name] = handle
            try:
                ready = handle.address.remote()
                while not self._ray.wait([ready], timeout=self._left(begun, timeout, until))[0]:
                    if not self._left(begun, timeout, until):
                        self._ray.kill(handle)
                        raise TimeoutError(self._no_room(placement, time.monotonic() - begun))
                record: dict[str, Any] = self._ray.get(ready)
            except self._ray.exceptions.RayActorError as error:
                death = describe_death(str(error))
                # It takes Ray a while to see that a node is gone; until then it may place actors there.
                if death["node"] is None or "node" in placement or time.monotonic() > begun + timeout:
                    raise RuntimeError(death["reason"]) from None
            else:
                with self._lock:
                    self._came = time.monotonic()
                    self._served[name] = handle.serve.remote()
                return record
            finally:
                with self._lock:
                    del self._coming[name]

    def _left(self, begun: float, timeout: float, until: float) -> float:
        return seconds_left(begun, self._came, timeout, until, time.monotonic())

    def find(self, home: str) -> dict[str, Any] | None:
        """Return what the living actor of a workspace has written down, None where there is none."""
        record = read_record(home)
        return record if record is not None and self._handle(record["actor"]) is not None else None

    def remove(self, home: str, actor: str | None = None) -> bool:
        """Kill the actor of a workspace, that one alone where it is named; returns whether there was one."""
        record = read_record(home)
        name = record["actor"] if actor is None and record is not None else actor
        if name is None:
            return False
        with self._lock:
            self._served.pop(name, None)
        if record is not None and record["actor"] == name:
            forget_record(home)
        handle = self._handle(name)
        if handle is not None:
            self._ray.kill(handle)
        return handle is not None

    def cause(self, actor: str, timeout: float) -> dict[str, Any]:
        """Say why an actor has died; `alive` where it has not within a time."""
        deadline = time.monotonic() + timeout
        errors = self._ray.exceptions
        handle = self._handle(actor)
        with self._lock:
            served = self._served.get(actor)
        try:
            if served is not None:
                try:
                    self._ray.get(served, timeout=timeout)
                except errors.ActorUnavailableError:
                    pass  # Ray is not sure yet: another call waits until it is
            if handle is not None:
                self._ray.get(handle.address.remote(), timeout=max(deadline - time.monotonic(), 0))
        except errors.GetTimeoutError:
            return {"alive": True, "reason": "", "memory": False}
        except errors.RayError as error:
            return {"alive": False, **describe_death(str(error))}
        return {"alive": False, "reason": "its actor has ended", "memory": False}

    def records(self) -> list[dict[str, Any]]:
        """Return what all living actors of workspaces have written down; of one that is not ready yet its name alone."""
        found = []
        for each in self._ray.util.list_named_actors(all_namespaces=True):
            if each["namespace"] == NAMESPACE:
                record = read_record(each["name"].rpartition(".")[0])
                found.append(record if record is not None and record["actor"] == each["name"] else {"actor": each["name"]})
        return found

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes of the cluster, the living ones first: id, address, name, whether it lives, resources."""
        nodes = [
            {
                "node": node["NodeID"],
                "address": node["NodeManagerAddress"],
                "name": node["NodeManagerHostname"],
                "alive": node["Alive"],
                # Beside these each node has resources that are its own name.
                "resources": {name: float(amount) for name, amount in node["Resources"].items() if not name.startswith("node:")},
            }
            for node in self._ray.nodes()
        ]
        return sorted(nodes, key=lambda node: (not node["alive"], node["address"], node["node"]))

    def _handle(self, actor: str) -> Any:
        try:
            return self._ray.get_actor(actor, NAMESPACE)
        except ValueError:
            return None

    def _placement(self, placement: dict[str, Any]) -> dict[str, Any]:
        options = dict(placement)
        node, spread = options.pop("node", None), options.pop("spread", None)
        if node is None and spread is None:
            return options
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if node is not None:
            strategy = NodeAffinitySchedulingStrategy(self._node(node), soft=False)
        else:
            # Of an actor that needs no room Ray does not heed such a wish; and there is room for it anywhere.
            needs = options.get("num_cpus") != 0 or any(options.get(field) for field in ("num_gpus", "memory", "resources"))
            strategy = NodeAffinitySchedulingStrategy(self._next_node(spread, options), soft=needs, _spill_on_unavailable=needs)
        return {**options, "scheduling_strategy": strategy}

    def _next_node(self, spread: Mapping[str, Any], options: Mapping[str, Any]) -> str:
        """Return the node so many further than another one, of those that have what is needed: Ray's own SPREAD may pile up."""
        needed = {**(options.get("resources") or {}), "GPU": options.get("num_gpus") or 0}
        living = [node for node in self.nodes() if node["alive"]]
        having = [node for node in living if all(node["resources"].get(name, 0) >= needed[name] for name in needed)]
        names = sorted(node["node"] for node in having or living)
        start = names.index(spread["beside"]) if spread["beside"] in names else 0
        return str(names[(start + spread["number"]) % len(names)])

    def _node(self, wanted: str) -> str:
        living = [node for node in self.nodes() if node["alive"]]
        for node in living:
            if wanted in (node["node"], node["address"], node["name"]):
                return str(node["node"])
        known = ", ".join(f"{node['node']} ({node['address']})" for node in living)
        raise ValueError(f"the cluster has no node {wanted!r}; it has {known}")

    def _no_room(self, placement: dict[str, Any], timeout: float) -> str:
        resources = sorted(self._ray.available_resources().items())
        free = ", ".join(f"{name} {amount:g}" for name, amount in resources if ":" not in name)
        wanted = ", ".join(f"{name} {value}" for name, value in placement.items() if name not in _UNSAID) or "1 CPU"
        return f"no node of the cluster had room for it within {timeout:.0f} s: it asks for {wanted}; free are {free or 'none'}"


def seconds_left(begun: float, came: float, timeout: float, until: float, now: float) -> float:
    """Return how much longer a start is waited for: a time since it began or another one `came`, but to `until` at most."""
    return max(min(max(begun, came) + timeout, until) - now, 0.0)


def describe_death(text: str) -> dict[str, Any]:
    """Say in a few words what Ray tells of the death of an actor, whether for want of memory, and with which node it died."""
    if (found := _NODE_DIED.search(text)) is not None:
        return {
            "reason": f"its node has died ({found['node'] or 'of unknown name'})",
            "memory": False,
            "node": found["node"] or "",
        }
    if _KILLED in text:
        return {"reason": "it was ended by Ray's kill", "memory": False, "node": None}
    detail = _WORKER_DIED.search(text)
    said = " ".join((detail["detail"] if detail is not None else text).split()).rstrip(".")
    return {"reason": f"its actor died: {said}", "memory": bool(_OUT_OF_MEMORY.search(said)), "node": None}


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


_METHODS: Mapping[str, Callable[..., Any]] = {
    "create": Agent.create,
    "find": Agent.find,
    "remove": Agent.remove,
    "cause": Agent.cause,
    "records": Agent.records,
    "nodes": Agent.nodes,
}
