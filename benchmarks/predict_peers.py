"""
The other servers of the benchmark of predictions: what they are started with, and how they are ended.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import venv
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

HERE = Path(__file__).parent
#: MLServer 1.7 does not start with newer versions of uvloop.
PACKAGES = ("tensorflow-cpu", "litserve", "mlserver", "uvloop<0.22")
PATIENCE = 120.0


class Kind(NamedTuple):
    """
    A peer in one configuration.

    Attributes
    ----------
    system
        litserve or mlserver.
    batch
        How many requests are joined at most; 1 for none.
    wait
        Seconds that it waits for more to join.
    """

    system: str
    batch: int
    wait: float

    @property
    def name(self) -> str:
        """What the tables call it."""
        name = {"litserve": "LitServe", "mlserver": "MLServer"}[self.system]
        return name if self.batch == 1 else f"{name}, batches {self.wait * 1000:g} ms"


KINDS = (
    Kind("litserve", 1, 0),
    Kind("litserve", 32, 0.005),
    Kind("mlserver", 1, 0),
    Kind("mlserver", 32, 0.005),
)


class Peer:
    """
    A peer that runs and has one model. Stopped by `pause` until it is measured, so that what one does when idle costs no other.

    Parameters
    ----------
    kind
        Which.
    python
        The interpreter that has it installed.
    path
        The SavedModel.
    folder
        For its settings and what it prints.
    """

    def __init__(self, kind: Kind, python: str, path: str, folder: Path) -> None:
        self.kind = kind
        folder.mkdir(parents=True)
        self.port = _free_port()
        if kind.system == "litserve":
            self.path, self.form = "/predict", "rows"
            words = [python, str(HERE / "peer_litserve.py"), path, str(self.port), str(kind.batch), str(kind.wait)]
            alive = "/health"
        else:
            self.path, self.form = "/v2/models/model/infer", "v2"
            self._write_settings(folder, path)
            words = [str(Path(python).with_name("mlserver")), "start", str(folder)]
            alive = "/v2/models/model/ready"
        # What they leave behind goes with the folder.
        environment = {**os.environ, "PYTHONPATH": str(HERE), "TMPDIR": str(folder)}
        with open(folder / "output.txt", "wb") as self._output:
            self._process = subprocess.Popen(
                words, stdout=self._output, stderr=subprocess.STDOUT, env=environment, cwd=folder, start_new_session=True
            )
        self._folder = folder
        self._wait_until_ready(alive)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        # All of them are in the one process group: a kill leaves none behind, stopped ones neither.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)

    def pause(self) -> None:
        """Stop all its processes."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def _write_settings(self, folder: Path, path: str) -> None:
        ports = {"http_port": self.port, "grpc_port": _free_port(), "metrics_port": _free_port()}
        # The fastest of its settings on a small machine: the model in the server's own process.
        settings = {"host": "127.0.0.1", "debug": False, "parallel_workers": 0, **ports}
        model: dict[str, Any] = {"name": "model", "implementation": "peer_mlserver.Signature", "parameters": {"uri": path}}
        if self.kind.batch > 1:
            model |= {"max_batch_size": self.kind.batch, "max_batch_time": self.kind.wait}
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "model-settings.json").write_text(json.dumps(model))

    def _wait_until_ready(self, path: str) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", path)
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            finally:
                connection.close()
            try:  # peers do not tell when they are ready: look again in a while, unless it has ended
                self._process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            break
        said = (self._folder / "output.txt").read_text(errors="replace")[-3000:]
        self.__exit__(None, None, None)
        raise SystemExit(f"{self.kind.name} did not start:\n{said}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def install(folder: Path) -> str:
    """Make a virtual environment with the peers, about 2 GB, and return its Python."""
    print(f"Installing {', '.join(PACKAGES)}", file=sys.stderr)
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return python
