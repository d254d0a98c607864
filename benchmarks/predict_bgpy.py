"""
bgpy in the benchmark of predictions: a server with a workspace for each model, and a gateway.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
from predict_models import inputs

from bgpy import Client, Server
from bgpy.tasks.tensorflow import Workspaces

CYCLES = 20
#: The cycle after which memory is looked at first: what is loaded once is there then.
SETTLED = 2
#: A job that tells the resident bytes of its worker.
RESIDENT = """
with open("/proc/self/status", encoding="ascii") as status:
    resident = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
resident
"""


class Bgpy:
    """A background server with the TensorFlow task set, and a gateway for it; all as they are without options."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        self._stack = ExitStack()
        server = Server(token=self.token, tasks="bgpy.tasks.tensorflow")
        server.run_background()
        self.port = server.port
        self._client = self._stack.enter_context(Client(port=server.port, token=self.token))
        self._stack.callback(self._client.terminate)
        self.workspaces = Workspaces(self._client)
        words = [sys.executable, __file__, str(self.port)]
        self._gateway = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._stack.callback(self._end_gateway)
        assert self._gateway.stdin is not None
        assert self._gateway.stdout is not None
        self._gateway.stdin.write(self.token.encode() + b"\n")
        self._gateway.stdin.flush()
        self.gateway_port = int(self._gateway.stdout.readline())

    def __enter__(self) -> Bgpy:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def deploy(self, name: str, path: str) -> None:
        """Deploy a model in a workspace of that name."""
        self.workspaces.create(name).deploy(path)

    def _end_gateway(self) -> None:
        self._gateway.terminate()
        self._gateway.wait(20)
        assert self._gateway.stdin is not None
        assert self._gateway.stdout is not None
        self._gateway.stdin.close()
        self._gateway.stdout.close()


def memory(bgpy: Bgpy, paths: list[str]) -> dict[str, Any]:
    """Deploy, update and undeploy again and again in one worker; return its resident bytes after the 2nd and the last time."""
    workspace = bgpy.workspaces.create()
    rows = inputs(1)[0].astype(np.float32)
    resident = []
    for _ in range(CYCLES):
        model = workspace.deploy(paths[0])
        (name,) = model.inputs
        model.predict({name: rows})
        model.update(paths[1])
        model.predict({name: rows})
        model.undeploy()
        resident.append(workspace.run(RESIDENT))
    workspace.destroy()
    first, last = resident[SETTLED - 1], resident[-1]
    return {"first": first, "last": last, "growth": last / first - 1, "all": resident}


def serve_gateway_here(port: int) -> None:
    """Be the gateway, and print the port once it accepts connections."""
    from bgpy.gateway import Settings, serve_gateway

    settings = Settings(port=port, token=sys.stdin.readline().strip(), bind_port=0)
    serve_gateway(settings, ready=lambda address: print(address.rstrip("/").rpartition(":")[2], flush=True))


if __name__ == "__main__":
    serve_gateway_here(int(sys.argv[1]))
