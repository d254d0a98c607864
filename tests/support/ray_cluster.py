"""A Ray cluster of this machine in a process of its own, small, for the tests: run as a script it is that process."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Bytes of shared memory of each node.
OBJECT_STORE = 80 << 20


class RayCluster:
    """
    Start a cluster; nodes can be added and removed.

    Parameters
    ----------
    folder
        Where the token is that Ray asks for, so that the tests leave nothing in the user's own folder.
    client_port
        Where it takes clients, which are no part of the cluster; None for nowhere.
    """

    def __init__(self, folder: Path, client_port: int | None = None, **head: Any) -> None:
        self.client_port = client_port
        token = folder / "ray-token"
        if not token.exists():
            token.write_text(secrets.token_hex(32))
            token.chmod(0o600)
        #: What a process needs to get in.
        self.environment = {"RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self.environment},
            text=True,
        )
        self.address: str = self._ask("start", ray_client_server_port=client_port, **head)

    def add_node(self, **options: Any) -> str:
        """Add a node, and return its id."""
        return str(self._ask("add", **options))

    def remove_node(self, node: str) -> None:
        """Kill a node with all that runs there."""
        self._ask("remove", node=node)

    def close(self) -> None:
        """End all nodes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def _ask(self, what: str, **options: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([what, options]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _main() -> None:
    # What Ray prints must not be taken for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    nodes: dict[str, Any] = {}
    try:
        for line in sys.stdin:
            what, options = json.loads(line)
            if what in ("start", "add"):
                small = {"num_cpus": 1, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
                node = cluster.add_node(**{**small, **options})
                nodes[node.node_id] = node
                answer = cluster.address if what == "start" else node.node_id
            else:
                cluster.remove_node(nodes.pop(options["node"]), allow_graceful=False)
                answer = None
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    _main()
