"""
An interpreter in an actor on a Ray cluster, which outlives the server.

The server is connected to the actor's keeper (`bgpy.tasks.workspace.onray`): one connection for the jobs, one for the word that
interrupts one, one for the variables.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

from bgpy.errors import BgpyError, ClusterError, RemoteProtocolError
from bgpy.tasks.workspace.backends import Abilities, Listener, Order, Outcome
from bgpy.tasks.workspace.backends.distant import DistantBackend
from bgpy.tasks.workspace.backends.questions import Beside
from bgpy.tasks.workspace.channel import Channel, Kind, Message
from bgpy.tasks.workspace.onray.cluster import Cluster
from bgpy.tasks.workspace.onray.keeper import BETWEEN, STDOUT
from bgpy.tasks.workspace.onray.link import connect_link
from bgpy.tasks.workspace.outcomes import take_outcome
from bgpy.tasks.workspace.progress import NEWS

#: Seconds for an actor to be ready: for a node with room for it, and for its process to start there; of many that start at once
#: for each behind the one before, and for all of them.
START_TIMEOUT = 60.0
CROWD_TIMEOUT = 600.0
#: Seconds to connect to its keeper.
CONNECT_TIMEOUT = 10.0
#: Seconds for the interpreter to answer for the first time.
READY_TIMEOUT = 30.0
#: Seconds for an idle interpreter to end by itself, so that what it registered for its end runs.
END_GRACE = 1.0
#: Seconds for a killed actor to be gone, until Ray is asked to kill it.
KILL_GRACE = 3.0
#: Seconds in which Ray finds out how an actor has died; of a node that is gone it may take longer to be sure.
CAUSE_TIMEOUT = 5.0
#: Seconds for a connection that broke to be taken up again; then the workspace is given up.
RECONNECT_TIMEOUT = 60.0
#: Seconds until the next try where Ray does not answer either.
_RETRY_INTERVAL = 1.0


class RayBackend(DistantBackend):
    """
    See `Backend`.

    Parameters
    ----------
    cluster
        Must outlive this backend.
    home
        What the actor is known by, to this server and to the one after it.
    about
        What is told of the workspace to whoever lists the actors; plain data.
    placement
        Options of Ray for where it runs and with what: num_cpus, num_gpus, memory, resources, runtime_env; and node.
    """

    abilities = Abilities(kill=True, interrupt=True, capture=True, own_main=True, memory_limit=False, survive=True)

    def __init__(
        self,
        listener: Listener,
        *,
        cluster: Cluster,
        home: str,
        about: Mapping[str, Any] | None = None,
        placement: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        #: It is a process of another machine, as far as this one knows.
        self.process: tuple[int, str] | None = None
        self.place: tuple[str, str, int] | None = None
        self.adopted = False
        self._listener = listener
        self._cluster = cluster
        self._home = home
        self._about = dict(about or {})
        self._placement = dict(placement or {})
        self._record: dict[str, Any] = {}
        #: What Ray said last of how it has died.
        self._cause: dict[str, Any] | None = None
        self._jobs: Channel | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        #: Held while a job is handed over, and while another connection takes the place of one that broke.
        self._switching = threading.Lock()
        self._order: Order | None = None
        #: How much of the output of its job has come, by stream.
        self._seen: dict[str, int] = {}
        #: The job that the actor was given by the server before, and whether it ran when this one came.
        self._left: tuple[int, bool] | None = None
        self._killed = False
        self._closing = False
        #: Set when either is: a connection that breaks from then on is not taken up again.
        self._unwanted = threading.Event()

    @property
    def _running(self) -> int | None:
        order = self._order
        return None if order is None else order.number

    # What a workspace asks for

    def start(self) -> None:
        """See `Backend`: finds the actor that an earlier server has left, or makes one."""
        try:
            jobs = self._adopt() or self._create()
        except ClusterError as error:
            raise RuntimeError(str(error)) from error
        self._jobs, self.place = jobs, (self._record["node"], self._record["host"], self._record["pid"])
        self._thread = threading.Thread(target=self._hear, args=(jobs,), name="bgpy-ray-workspace", daemon=True)
        self._thread.start()

    def run(self, order: Order) -> None:
        """See `Backend`. Of a job that the actor was given by the server before it is only asked what became of it."""
        with self._switching:
            jobs = self._jobs
            if jobs is None:
                return  # it has died, and `died` has told so or will
            left, self._left = self._left, None
            if left is not None and left[1] and left[0] != order.number:
                self.kill()  # it runs what this server knows to have ended
                return
            self._order, self._seen = order, {}
            unsent = self._hand_over(jobs, order, None if left is None else left[0])
            if unsent is not None:
                self._order, self._together = None, frozenset()
        if unsent is not None:
            self._listener.ended(order.number, unsent)

    def _hand_over(self, jobs: Channel, order: Order, last: int | None) -> Outcome | None:
        """
        Have a job run, or of one that was the `last` which the actor was given be told what has become of it.

        Returns the end of one that cannot be sent.
        """
        try:
            if last != order.number:
                return self._send(jobs, order)
            self._together = frozenset([number for number, _ in order.calls])
            jobs.send(Kind.RESUME, order.number, {"seen": self._seen})
        except OSError:
            pass  # it has died, or the connection broke: whoever hears it sees to that
        return None

    def kill(self) -> bool:
        """See `Backend`."""
        jobs = self._jobs
        if jobs is not None and not self._killed:
            self._killed = True
            self._unwanted.set()
            try:
                jobs.send(Kind.KILL, 0, {})
            except OSError:
                pass  # it has ended, or cannot be reached: Ray may be able to
            threading.Thread(target=self._make_sure, name="bgpy-ray-kill", daemon=True).start()
        return True

    def _make_sure(self) -> None:
        if not self._ended.wait(KILL_GRACE):
            self._remove()
            jobs = self._jobs
            if jobs is not None:
                jobs.shutdown()

    def leave(self) -> None:
        """See `Backend`."""
        self._closing = True
        self._unwanted.set()
        self._let_go()

    def close(self) -> None:
        """See `Backend`. An idle interpreter gets a moment to end by itself."""
        self._closing = True
        self._unwanted.set()
        thread, jobs = self._thread, self._jobs
        if thread is None:
            return
        if jobs is not None and self._order is None and self._left is None:
            try:
                jobs.send(Kind.LEAVE, 0, {})
            except OSError:
                pass  # it has ended
            self._ended.wait(END_GRACE)
        if not self._ended.is_set():
            self.kill()
        self._ended.wait(KILL_GRACE)
        self._remove()
        self._let_go()
        self._thread = None

    def _let_go(self) -> None:
        jobs, thread = self._jobs, self._thread
        if jobs is not None:
            jobs.shutdown()
        if thread is not None and thread is not threading.current_thread():
            thread.join(CONNECT_TIMEOUT)

    # How it comes to its actor

    def _adopt(self) -> Channel | None:
        """Connect to the actor that is there already; one that cannot be reached is removed."""
        record = self._cluster.ask("find", home=self._home)
        if record is None:
            return None
        self._record = record
        try:
            jobs, hello = self._connect(record)
        except (BgpyError, OSError, EOFError):
            self._remove()
            return None
        self.adopted = True
        if hello["job"] is not None:
            self._left = hello["job"], hello["running"]
        return jobs

    def _create(self) -> Channel:
        arguments = {"home": self._home, "about": self._about, "placement": self._placement}
        until = time.monotonic() + CROWD_TIMEOUT  # by the clock that the agent has, too
        record = self._cluster.ask("create", CROWD_TIMEOUT, timeout=START_TIMEOUT, until=until, **arguments)
        self._record = record
        try:
            return self._connect(record)[0]
        except (BgpyError, OSError, EOFError) as error:
            self._remove()
            where = f"{record['host']}:{record['port']}"
            raise RuntimeError(f"its actor was started, but cannot be reached at {where}: {error}") from error

    def _connect(self, record: dict[str, Any]) -> tuple[Channel, dict[str, Any]]:
        """Open the three connections; return that of the jobs, and what the keeper says of the last job."""
        secret, session = bytes.fromhex(record["secret"]), os.urandom(16)
        opened: list[Channel] = []
        try:
            for purpose in ("control", "variables", "jobs"):
                channel = connect_link(record["host"], record["port"], secret, CONNECT_TIMEOUT)
                opened.append(channel)
                channel.send(Kind.ATTACH, 0, {"purpose": purpose, "session": session})
            control, variables, jobs = opened
            deadline = time.monotonic() + READY_TIMEOUT
            hello = _expect(jobs, Kind.READY, deadline)
            if not hello["ready"]:
                raise RemoteProtocolError("The interpreter is not ready")
            for channel in (control, variables):
                _expect(channel, Kind.ANSWER, deadline)
        except BaseException:
            for channel in opened:
                channel.close()
            raise
        self._beside = Beside(control, variables)
        return jobs, hello

    def _remove(self) -> None:
        try:
            self._cluster.ask("remove", home=self._home, actor=self._record.get("actor"))
        except BgpyError:
            pass  # the cluster is gone, or this server's way to it: what is left there is found by whoever lists it

    # The thread that hears the keeper

    def _hear(self, jobs: Channel) -> None:
        channel: Channel | None = jobs
        while channel is not None:
            died = self._listen(channel)
            channel = None if died else self._take_up(channel)
        self._order = None
        if not self._closing:
            reason, memory = self._judge(died)
        self._ended.set()
        jobs, self._jobs = self._jobs or jobs, None
        self._end_questions()
        jobs.close()
        if not self._closing:
            self._listener.died(reason, memory)

    def _listen(self, jobs: Channel) -> dict[str, Any]:
        """Hear what happens, until the interpreter has died: returns what is told of that, {} where the connection broke."""
        try:
            while (message := jobs.receive()) is not None:
                if message.kind == Kind.DIED:
                    return message.fields
                self._handle(message)
        except (BgpyError, KeyError, TypeError, ValueError) as error:
            return {"killed": False, "broken": f"a job broke the worker's channel: {error}"}
        return {}

    def _take_up(self, broken: Channel) -> Channel | None:
        """Connect again to an actor that lives, and go on there; None where there is none, or it cannot be reached in time."""
        broken.shutdown()  # wakes whoever sends
        self._end_questions()
        deadline = time.monotonic() + RECONNECT_TIMEOUT
        while not self._unwanted.is_set():
            try:
                jobs, hello = self._connect(self._record)
            except (BgpyError, OSError, EOFError):
                self._cause = self._ask_for_cause()
                if self._cause["alive"] is False or time.monotonic() > deadline:
                    return None
                if self._cause["alive"] is None:
                    self._unwanted.wait(_RETRY_INTERVAL)
            else:
                with self._switching:
                    broken.close()
                    self._jobs, self._cause = jobs, None
                    self._go_on(jobs, hello)
                return jobs
        return None

    def _go_on(self, jobs: Channel, hello: dict[str, Any]) -> None:
        """Have the actor go on where it was when the connection broke."""
        if self._unwanted.is_set():
            jobs.shutdown()
        elif self._left is not None:
            self._left = hello["job"], hello["running"]
        elif self._order is not None:
            self._hand_over(jobs, self._order, hello["job"])
        else:
            try:
                jobs.send(Kind.RESUME, 0, {"seen": None})
            except OSError:
                pass  # it broke again

    def _handle(self, message: Message) -> None:
        kind, number, flags, fields = message
        if kind == Kind.OUTPUT:
            stream: Literal["stdout", "stderr"] = "stdout" if flags & STDOUT else "stderr"
            if not flags & BETWEEN:
                self._seen[stream] = fields.get("written", 0)
            self._listener.output(None if flags & BETWEEN else number, stream, bytes(fields["data"]))
        elif number != self._running:
            return
        elif kind == Kind.NEWS:
            event, details = fields["event"], fields["details"]
            self._listener.news(number, event, {name: details[name] for name in NEWS[event]})
        elif kind == Kind.ENDED:
            outcome = take_outcome(fields)
            self._order, self._together = None, frozenset()
            self._listener.ended(number, outcome)

    def _judge(self, died: dict[str, Any]) -> tuple[str, bool]:
        """Say how the interpreter ended, and whether for want of memory."""
        if self._killed or died.get("killed"):
            if not died:
                self._remove()  # the word may not have come there
            return "signal SIGKILL", False
        if died.get("broken"):
            self._remove()
            return died["broken"], False
        if died.get("lost"):
            return f"its node has died ({self._record['node']})", False
        cause = self._cause or self._ask_for_cause()
        if cause["alive"]:
            self._remove()  # none that cannot be reached goes on unseen
            return "the connection to its node broke", False
        return cause["reason"], cause["memory"]

    def _ask_for_cause(self) -> dict[str, Any]:
        """Return what Ray says of the death of the actor, within a time: `alive` is None where it says nothing."""
        try:
            cause: dict[str, Any] = self._cluster.ask("cause", CAUSE_TIMEOUT, actor=self._record["actor"], timeout=CAUSE_TIMEOUT)
        except BgpyError as error:
            reason = f"the connection to it broke, and Ray does not say why: {error}".rstrip(".")
            return {"alive": None, "reason": reason, "memory": False}
        return cause


def _expect(channel: Channel, kind: Kind, deadline: float) -> dict[str, Any]:
    message = channel.receive(max(deadline - time.monotonic(), 0))
    if message is None:
        raise EOFError("the connection ended within its opening")
    if message.kind != kind:
        raise RemoteProtocolError(f"A keeper sent a message of the kind {message.kind}")
    return message.fields
