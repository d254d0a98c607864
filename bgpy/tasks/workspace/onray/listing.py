"""
Who lists the workspaces of a cluster, whatever their servers are: which of them have one, and which were left behind.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from bgpy.errors import BgpyError
from bgpy.tasks.workspace.channel import Kind
from bgpy.tasks.workspace.onray.cluster import Cluster
from bgpy.tasks.workspace.onray.link import connect_link

#: Seconds for a keeper to answer.
ASK_TIMEOUT = 5.0
#: Keepers that are asked at the same time.
_THREADS = 32


class Found(NamedTuple):
    """
    A workspace's actor.

    Attributes
    ----------
    actor
        Its name in Ray.
    home, workspace
        What its servers know it by, and the name of the workspace; "" while it is being made.
    server
        yes: one is connected; no: none is, it was left behind, or waits for one that starts again; unknown: it cannot be reached
        from here, or is being made.
    node, pid, created
        Where it runs, and since when, in seconds since 1970; None while it is being made.
    running
        Whether it runs a job.
    """

    actor: str
    home: str
    workspace: str
    server: str
    node: str | None
    pid: int | None
    created: float | None
    running: bool


def list_actors(cluster: Cluster) -> list[Found]:
    """Return all of a cluster, the oldest first; raises as `Cluster.ask`."""
    records = cluster.ask("records")
    with ThreadPoolExecutor(_THREADS, "bgpy-ask") as pool:
        return sorted(pool.map(_look, records), key=lambda found: found.created or time.time())


def prune(cluster: Cluster, actors: list[Found]) -> list[Found]:
    """End those of some actors that have no server, and return them; raises as `Cluster.ask`."""
    return [found for found in actors if found.server == "no" and cluster.ask("remove", home=found.home, actor=found.actor)]


def _look(record: dict[str, Any]) -> Found:
    actor, home = record["actor"], record.get("home", "")
    if not home:
        return Found(actor, "", "", "unknown", None, None, None, False)
    server, running = "unknown", False
    try:
        answer = _ask_keeper(record)
        server, running = "yes" if answer["attached"] else "no", answer["running"]
    except (BgpyError, OSError, EOFError):
        pass  # it is told as what it is: unknown
    return Found(actor, home, home.partition("/")[2], server, record["node"], record["pid"], record["created"], running)


def _ask_keeper(record: dict[str, Any]) -> dict[str, Any]:
    channel = connect_link(record["host"], record["port"], bytes.fromhex(record["secret"]), ASK_TIMEOUT)
    try:
        channel.send(Kind.ATTACH, 0, {"purpose": "ask"})
        answer = channel.receive(ASK_TIMEOUT)
        if answer is None:
            raise EOFError
        return answer.fields
    finally:
        channel.close()
