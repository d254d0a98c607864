"""
The server's end of its agent, which is connected to Ray.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from bgpy.errors import ClusterError, MissingExtraError
from bgpy.system import workers
from bgpy.tasks.workspace.backends.spawner import Spawner
from bgpy.tasks.workspace.channel import Channel, Kind
from bgpy.tasks.workspace.onray import entry

#: Seconds for an agent to be connected; an embedded Ray is started meanwhile.
CONNECT_TIMEOUT = 60.0
#: Seconds for an agent to end, and with it a Ray that it has started.
END_TIMEOUT = 15.0
#: Seconds beside what a question itself may take.
_MARGIN = 5.0


class Cluster:
    """
    Ask what Ray knows and have it do things. Any thread.

    Parameters
    ----------
    address
        auto, local, HOST:PORT or ray://HOST:PORT.
    spawner
        Starts the agent; must outlive this.
    """

    def __init__(self, address: str, spawner: Spawner) -> None:
        self.address = address
        self._spawner = spawner
        self._lock = threading.Lock()
        self._agent: _Agent | None = None
        self._closed = False

    def connect(self) -> None:
        """
        Make sure that the agent is connected; blocks until then.

        Raises
        ------
        MissingExtraError
            Ray is not installed.
        ClusterError
            There is no such cluster.
        """
        self._connected()

    def ask(self, method: str, patience: float = 30.0, **argument: Any) -> Any:
        """Return what the agent's method says; raises as `connect`, and ClusterError for whatever it raised, or too late."""
        return self._connected().ask(method, argument, patience + _MARGIN, self.address)

    def close(self) -> None:
        """End the agent, and with it an embedded Ray; blocks for a bounded time. Again is fine."""
        with self._lock:
            self._closed = True
            agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()

    def _connected(self) -> _Agent:
        with self._lock:
            if self._closed:
                raise ClusterError(self.address, "the server is ending", "Start it again")
            if self._agent is not None and self._agent.gone:
                self._agent.close()  # Ray ends whoever is connected to a node that dies: another one takes its place
                self._agent = None
            if self._agent is None:
                check_installed()
                self._agent = _Agent(self.address, self._spawner)
            return self._agent


def check_installed() -> None:
    """Raise MissingExtraError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("Workspaces on Ray", "ray")


class _Question:
    """One that waits for its answer."""

    def __init__(self) -> None:
        self.answered = threading.Event()
        self.fields: dict[str, Any] | None = None


class _Agent:
    """The process, and the thread that hears it."""

    def __init__(self, address: str, spawner: Spawner) -> None:
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
        arguments = [sys.executable, entry.__file__, "agent", str(theirs.fileno()), address]
        try:
            # Its words go where the server's own go.
            self._process = spawner.spawn(arguments, [theirs], 2, 2)
        except BaseException:
            self._channel.close()
            raise
        finally:
            theirs.close()
        self._lock = threading.Lock()
        self._questions: dict[int, _Question] = {}
        self._number = 0
        self.gone = False
        try:
            self._await_ready(address)
        except BaseException:
            self._end()
            self._channel.close()
            raise
        self._thread = threading.Thread(target=self._hear, name="bgpy-ray", daemon=True)
        self._thread.start()

    def ask(self, method: str, argument: dict[str, Any], timeout: float, address: str) -> Any:
        question = _Question()
        with self._lock:
            self._number += 1
            number = self._number
            self._questions[number] = question
        try:
            if not self.gone:
                self._channel.send(Kind.ASK, number, {"method": method, "argument": argument})
                if not question.answered.wait(timeout):
                    raise ClusterError(address, f"it did not answer within {timeout:g} s", "See whether the cluster is well")
        except OSError:
            pass  # it has ended, which is told below
        finally:
            with self._lock:
                del self._questions[number]
        if question.fields is None:
            raise ClusterError(address, "the connection to it ended", "See whether the cluster is well, and try again")
        if "error" in question.fields:
            raise ClusterError(address, question.fields["error"])
        return question.fields["value"]

    def close(self) -> None:
        self._end()
        self._thread.join()

    def _end(self) -> None:
        self._channel.finish()
        try:
            self._process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            workers.end_group(self._process.pid)  # it leads a session: nobody is in it but what it started
            self._process.wait()

    def _await_ready(self, address: str) -> None:
        deadline = time.monotonic() + CONNECT_TIMEOUT
        try:
            message = self._channel.receive(max(deadline - time.monotonic(), 0))
        except TimeoutError:
            workers.end_group(self._process.pid)
            raise ClusterError(address, f"it did not answer within {CONNECT_TIMEOUT:g} s", mend(address)) from None
        if message is None:
            raise ClusterError(address, "whoever connected to it ended at once, and has told why in the log", mend(address))
        if message.fields["missing"]:
            raise MissingExtraError("Workspaces on Ray", "ray")
        if message.fields["reason"] is not None:
            raise ClusterError(address, message.fields["reason"], mend(address))

    def _hear(self) -> None:
        try:
            while (message := self._channel.receive()) is not None:
                with self._lock:
                    question = self._questions.get(message.number)
                if question is not None:
                    question.fields = message.fields
                    question.answered.set()
        finally:
            self.gone = True
            with self._lock:
                waiting = list(self._questions.values())
            for question in waiting:
                question.answered.set()
            self._channel.close()


def mend(address: str) -> str:
    """Say what to do about a cluster that cannot be reached."""
    if address == "local":
        return "Look into the log for why Ray did not start on this machine"
    if address == "auto":
        return "Start one on this machine by `ray start --head`, or name another: --ray HOST:PORT; --ray local is for trying out"
    return "See whether it runs and can be reached from here, or try --ray local"


def default_address() -> str:
    """Return the cluster of which nothing else is said: that of the environment, or of this machine."""
    return os.environ.get("RAY_ADDRESS") or "auto"
