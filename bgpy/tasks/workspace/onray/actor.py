"""
The interpreter of a workspace on Ray, in the process and main thread of a Ray actor.

Ray starts it as a plain class with one thread: with more, or with concurrency groups, nothing runs in the main thread, and a job
there could not be interrupted. `WorkspaceActor.serve` never returns while the workspace lives, so that all that is asked of it
comes over connections of its own.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from bgpy.system import process_start_time, workers
from bgpy.tasks.workspace.channel import MAX_SIZE, Channel, Kind
from bgpy.tasks.workspace.onray import entry
from bgpy.tasks.workspace.onray.link import SECRET_SIZE
from bgpy.tasks.workspace.runner import Runner

#: Of the actors, and of what they write down of themselves.
NAMESPACE = "bgpy"
#: Names the actor, in the environment of all that it starts.
MARK = "BGPY_RAY_ACTOR"
#: Bytes that come with a connection which the keeper passes on: its session, and whether it is for control or for variables.
_PASS_SIZE = 17


class WorkspaceActor:
    """
    One interpreter, and its keeper beside it.

    Parameters
    ----------
    home
        What the workspace is known by to the servers that it has, one after another.
    about
        What is told of it to whoever lists the actors; plain data.
    """

    def __init__(self, home: str, about: dict[str, Any]) -> None:
        import ray

        if os.getpgid(0) != os.getpid():
            workers.lead_own_group()  # else an interrupt would hit what else Ray runs
        host = ray.util.get_node_ip_address()
        mark = f"{MARK}={secrets.token_hex(16)}"
        secret = secrets.token_bytes(SECRET_SIZE)
        jobs = socket.socketpair()
        passing = socket.socketpair()
        self._stdout, self._stderr = os.pipe(), os.pipe()
        listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._jobs, self._passing = Channel(jobs[0]), passing[0]
        theirs = [jobs[1].fileno(), passing[1].fileno(), listener.fileno(), self._stdout[0], self._stderr[0]]
        raylet = os.getppid()  # which is the node, as far as its workspaces go
        arguments = ["keeper", mark, process_start_time(raylet) or "", raylet, os.getpid(), MAX_SIZE, *theirs]
        subprocess.run([sys.executable, entry.__file__, *map(str, arguments)], pass_fds=theirs, check=True)
        self._passing.sendall(secret)
        self._record = {
            **about,
            "home": home,
            "actor": ray.get_runtime_context().get_actor_name(),
            "host": host,
            "port": listener.getsockname()[1],
            "secret": secret.hex(),
            "pid": os.getpid(),
            "node": ray.get_runtime_context().get_node_id(),
            "created": time.time(),
        }
        for sock in (jobs[1], passing[1], listener):
            sock.close()
        for fd in (self._stdout[0], self._stderr[0]):
            os.close(fd)
        os.environ[MARK] = mark.partition("=")[2]
        # From here on the server may die: the next one finds it by this.
        write_record(home, self._record)

    def address(self) -> dict[str, Any]:
        """Return where it can be reached, and what is known of it."""
        return self._record

    def serve(self) -> None:
        """Run jobs until the keeper says that there are no more; then the actor ends."""
        import ray

        # Not before: what Ray says of the actor in its own log comes before its first task.
        for (_, end), fd in ((self._stdout, 1), (self._stderr, 2)):
            os.dup2(end, fd)
            os.close(end)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(open(fd, "wb", buffering=0, closefd=False), write_through=False) for fd in (1, 2)
        )
        workers.adopt_orphans()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        workers.let_interrupts_in()
        runner = Runner(self._jobs, adopts=True)
        threading.Thread(target=self._take_connections, args=(runner,), name="bgpy-connections", daemon=True).start()
        runner.serve(0)
        ray.actor.exit_actor()

    def _take_connections(self, runner: Runner) -> None:
        """Answer what servers ask beside the jobs, over the connections that the keeper passes on."""
        workers.hold_interrupts_back()
        halves: dict[bytes, tuple[bytes, Channel]] = {}
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._passing, _PASS_SIZE, 1)
            if not data:
                return  # the keeper has gone
            session, purpose = data[:-1], data[-1:]
            channel = Channel(socket.socket(fileno=descriptors[0]))
            other = halves.pop(session, None)
            if other is None:
                for _, lost in halves.values():
                    lost.close()
                halves = {session: (purpose, channel)}
                continue
            channels = dict([other, (purpose, channel)])
            try:
                for each in channels.values():
                    each.send(Kind.ANSWER, 0, {})
            except OSError:
                continue  # that server has gone already
            runner.answer(channels[b"c"], channels[b"v"])


def write_record(home: str, record: dict[str, Any]) -> None:
    """Write down where the actor of a workspace can be reached."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(home.encode(), json.dumps(record).encode(), overwrite=True, namespace=NAMESPACE.encode())


def read_record(home: str) -> dict[str, Any] | None:
    """Return what `write_record` has written, None where there is nothing."""
    from ray.experimental.internal_kv import _internal_kv_get

    data = _internal_kv_get(home.encode(), namespace=NAMESPACE.encode())
    return None if data is None else json.loads(data)


def forget_record(home: str) -> None:
    """Undo `write_record`."""
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(home.encode(), namespace=NAMESPACE.encode())
