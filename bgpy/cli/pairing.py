"""
A server and its gateway as a pair of processes: whichever ends first ends the other.

The gateway is the server's child. Its configuration, the token included, comes over its standard input, which then is its
lifeline: it ends where that ends, however the server did. It answers with a line of JSON, where it is or why it is not.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

from bgpy import errors
from bgpy.errors import BgpyError, ServerStartError
from bgpy.logs import log_to_standard_error
from bgpy.sockets import ClientSocket
from bgpy.system import read_pipe, write_pipe
from bgpy.taskset import TaskSet

#: Seconds for the gateway to be ready, and to be gone.
START_TIMEOUT = 30.0
END_TIMEOUT = 10.0
#: The same modules are found as here; and none in the working directory, which `-m` would put first.
_START = "import sys; sys.path[:] = sys.argv.pop().split({separator!r}); from bgpy.cli import main; main()"

#: The task sets of a server of which nothing else is said: that of models has all that the one of workspaces has.
DEFAULT_TASKS = ("tensorflow", "runtime", "requests")
#: The package's task sets with workspaces, which a store keeps.
STORING = ("workspace", "tensorflow")

Config = dict[str, Any]


class Pair:
    """
    The gateway beside a server that runs in this process, in the main thread.

    Parameters
    ----------
    config
        The fields of `bgpy.gateway.Settings` but `port`, plain data.
    token
        The server's.
    """

    def __init__(self, config: Config, token: str) -> None:
        self._config = {**config, "token": token}
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None
        self._ender: threading.Thread | None = None
        self._stopping = False
        #: Why both end, where nobody has asked for it.
        self.failure: BgpyError | None = None

    def tasks(self, tasks: TaskSet) -> TaskSet:
        """Return the server's tasks so that the gateway ends with the exit task: whoever ends the server then finds both gone."""

        def exit_task(client_socket: ClientSocket, state: Config, args: Config) -> None:
            self.stop()
            tasks.exit(client_socket, state, args)

        return TaskSet(tasks.init, tasks.exec, exit_task, tasks.commands)

    def start(self, port: int) -> str | None:
        """
        Start the gateway of the server at that port, and return its address; blocks until it is ready.

        Where it does not start, `failure` says why and the server is told to end, in order: its workers end with it.
        """
        self._config["port"] = port
        try:
            return self._start()
        except (BgpyError, OSError) as error:
            self.failure = error if isinstance(error, BgpyError) else ServerStartError(f"the gateway did not start: {error}")
            self._end_server()
            return None

    def stop(self) -> None:
        """End the gateway, once the server ends, and wait for it. Again is fine."""
        self._stopping = True
        process, watcher = self._process, self._watcher
        if process is not None:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            if watcher is not None:
                watcher.join(END_TIMEOUT)
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        if watcher is not None:
            watcher.join(END_TIMEOUT)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """Once the server has ended: end the gateway, wait for what else runs here, and raise `failure`."""
        self.stop()
        if self._ender is not None:
            self._ender.join(END_TIMEOUT)
        if self.failure is not None and kind is None:
            raise self.failure

    def _start(self) -> str:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        code = _START.format(separator=os.pathsep)
        # The environment is the server's own, which has forgotten BGPY_TOKEN.
        process = self._process = subprocess.Popen(
            [sys.executable, "-c", code, "_gateway", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        deadline = time.monotonic() + START_TIMEOUT
        with contextlib.suppress(BrokenPipeError):  # it has ended; perhaps it says why
            write_pipe(process.stdin.fileno(), json.dumps(self._config).encode("ascii") + b"\n", START_TIMEOUT)
        answer = _read_line(process, deadline)
        if not answer["ok"]:
            raise _failure(answer)
        self._watcher = threading.Thread(target=self._watch, args=(process,), name="bgpy-gateway-watch", daemon=True)
        self._watcher.start()
        url: str = answer["url"]
        return url

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if not self._stopping:
            self.failure = BgpyError(f"The gateway has ended (exit code {code}), and the server with it. Start both again.")
            self._end_server()

    def _end_server(self) -> None:
        self._ender = threading.Thread(target=self._terminate, name="bgpy-pair-end", daemon=True)
        self._ender.start()

    def _terminate(self) -> None:
        from bgpy.client import Client

        with Client(self._config["host"], self._config["port"], self._config["token"]) as client:
            with contextlib.suppress(BgpyError):  # it is ending already
                client.terminate()


def serve_detached_pair(config: Config, ready: Callable[[Config], None]) -> int:
    """
    Serve as the process that `bgpy.background.launch` has started, with a gateway beside; blocks until the end.

    Parameters
    ----------
    config
        The fields of the server's settings; and "pair": "gateway", as for `Pair`, and "tasks", "store", "ray" as for
        `make_tasks`.
    ready
        Called once with the server's address, and the gateway's under "page".

    Raises the gateway's failure; returns as `bgpy.server.serve_detached`.
    """
    from bgpy.server import serve_detached

    more = config.pop("pair")
    pair = Pair(more["gateway"], config["token"])
    tasks = pair.tasks(make_tasks(more["tasks"], more["store"], more["ray"]))

    def both_ready(address: Config) -> None:
        page = pair.start(address["port"])
        if page is not None:
            ready({**address, "page": page})

    with pair:
        return serve_detached({**config, "tasks": tasks}, both_ready)


def installed_tasks() -> list[str]:
    """Return the names of the task sets that come with the package."""
    import pkgutil

    import bgpy.tasks

    return [module.name for module in pkgutil.iter_modules(bgpy.tasks.__path__) if module.ispkg]


def make_tasks(names: list[str], store: str | None, ray: str | None = None) -> TaskSet:
    """
    Return the task set of those names: of the package's own, or of modules.

    Parameters
    ----------
    store
        Where workspaces are kept: for the first of `names` that is in `STORING`, which makes them for the others.
    ray
        The Ray cluster that they run on, for the same one.

    Raises ServerStartError for what is none, and where two would have one name.
    """
    own, sets = installed_tasks(), {}
    for name in names:
        key = name.rpartition(".")[2]
        if key in sets:
            raise ServerStartError(f"two task sets are called {key!r}")
        try:
            sets[key] = TaskSet.of(f"bgpy.tasks.{name}" if name in own else name)
        except Exception as error:  # whatever a module raises while it is imported
            why, where = f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
            raise ServerStartError(f"the task set {name!r} cannot be loaded: {why}", where) from error
    options = {name: value for name, value in (("store", store), ("ray", ray)) if value is not None}
    if options:
        first = next(name for name in names if name in STORING)
        module = importlib.import_module(f"bgpy.tasks.{first}")
        sets[first] = getattr(module, f"{first}_tasks")(**options)
    return TaskSet.combine(sets) if len(sets) > 1 else next(iter(sets.values()))


def serve_paired() -> int:
    """Be the gateway of a pair; blocks until its standard input ends, or SIGTERM. Returns the exit code."""
    config = json.loads(sys.stdin.buffer.readline())
    # Ctrl-C is for the server, which then ends this process in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    level = config.pop("log_level")
    try:
        from bgpy.gateway import GatewayServer, Settings

        server = GatewayServer(Settings(**config))
    except Exception as error:  # noqa: BLE001 - whatever it is, the starter must hear of it
        _answer({"ok": False, **_describe(error)})
        return 1
    signal.signal(signal.SIGTERM, lambda number, frame: server.stop())
    log_to_standard_error(level)
    threading.Thread(target=_wait_for_end_of_input, args=(server.stop,), name="bgpy-lifeline", daemon=True).start()
    exit_codes: list[int] = []
    # Not in this thread, in which it would take Ctrl-C for its own.
    thread = threading.Thread(target=_run, args=(server, exit_codes), name="bgpy-gateway")
    thread.start()
    thread.join()
    return exit_codes[0] if exit_codes else 1


def _run(server: Any, exit_codes: list[int]) -> None:
    said: list[str] = []

    def ready(url: str) -> None:
        said.append(url)
        _answer({"ok": True, "url": url})

    try:
        exit_codes.append(server.run(ready))
    except Exception as error:
        if said:
            raise
        _answer({"ok": False, **_describe(error)})


def _wait_for_end_of_input(stop: Callable[[], None]) -> None:
    # Not through sys.stdin: the end of the interpreter would wait for its lock.
    while os.read(0, 1):
        pass
    stop()


def _answer(message: dict[str, Any]) -> None:
    """Send the one line to the starter; what is printed afterwards goes to standard error."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    os.dup2(2, 1)


def _describe(error: Exception) -> dict[str, Any]:
    own = isinstance(error, BgpyError)
    return {"type": type(error).__name__, "args": list(error.args) if own else [], "text": str(error)}


def _failure(answer: dict[str, Any]) -> BgpyError:
    kind = getattr(errors, answer["type"], None)
    if isinstance(kind, type) and issubclass(kind, BgpyError):
        return kind(*answer["args"])
    return ServerStartError(f"the gateway did not start: {answer['type']}: {answer['text']}")


def _read_line(process: subprocess.Popen[bytes], deadline: float) -> dict[str, Any]:
    assert process.stdout is not None
    received = b""
    while not received.endswith(b"\n"):
        chunk = read_pipe(process.stdout.fileno(), max(deadline - time.monotonic(), 0.0))
        if not chunk:
            why = "it ended before it was ready" if chunk is not None else f"it was not ready after {START_TIMEOUT:g} s"
            raise ServerStartError(f"the gateway did not start: {why}")
        received += chunk
    answer: dict[str, Any] = json.loads(received)
    return answer
