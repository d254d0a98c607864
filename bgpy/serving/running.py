"""
One server while it runs: how its parts are put together, started and taken down.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from bgpy._version import __version__
from bgpy.addresses import format_address
from bgpy.connection import Connection
from bgpy.errors import ServerStartError
from bgpy.logs import LOG_FORMAT
from bgpy.protocol.messages import MessageType, load
from bgpy.records import HeldRecord, Record, Registry
from bgpy.serving.budget import MemoryBudget
from bgpy.serving.conversation import Conversation, Handler, Seat
from bgpy.serving.ending import Ending
from bgpy.serving.reception import Door, Reception
from bgpy.serving.requests import Request
from bgpy.serving.service import Service
from bgpy.sockets import ServerSocket
from bgpy.system import process_start_time
from bgpy.taskset import TaskSet
from bgpy.tls import Tls, choose_context
from bgpy.wires import PROGRESS_TIMEOUT

if TYPE_CHECKING:
    import ssl
    from types import FrameType

    from bgpy.protocol.lanes import Lane, LaneTable

#: How many messages of the largest size all connections together may hold.
_BUDGET_MESSAGES = 4


class Settings(NamedTuple):
    """
    All that a server is told; it can be pickled where `ssl_context` is None.

    Attributes
    ----------
    tasks
        A task set, a module's name, or the pickled tasks of an INIT message.
    """

    host: str
    port: int
    token: str
    log_level: str | int
    log_file: str | None
    init_file: str | None
    tasks: TaskSet | str | bytes | None
    ssl_context: ssl.SSLContext | None
    max_message_size: int
    tls: Tls
    name: str | None
    loopback: bool

    def __repr__(self) -> str:
        return f"Settings({format_address(self.host, self.port)})"  # never the token


class Running:
    """
    Own the listener, the service, the reception, the record and the signal handlers of one server.

    Parameters
    ----------
    detached
        Whether this process is a background server: it has a record even without a name, and the terminal is not its own.
    """

    def __init__(self, settings: Settings, *, detached: bool) -> None:
        self.instance = os.urandom(16)
        self._settings = settings
        self._detached = detached
        # First: it may raise, and nothing is held yet.
        context = choose_context(settings.tls, settings.ssl_context, settings.token, server=True)
        self._signals = _Signals() if threading.current_thread() is threading.main_thread() else None
        self._exit_code: int | None = None
        self._service = Service(self.instance)
        self._record: HeldRecord | None = None
        try:
            if settings.name is not None or detached:
                self._record = Registry().hold(settings.name, self.instance.hex())
            self._listener = self._bind()
        except BaseException:
            self._release_record()
            raise
        self._reception = Reception(
            self._listener,
            Door(settings.token, context, settings.tls == "token", settings.max_message_size, self.instance, self.address),
            self._make_converse(),
        )
        self._ending = Ending(
            self._service, self._reception.close_listener, self._release_record, self._stop, watchdog=self._signals is not None
        )

    @property
    def port(self) -> int:
        """The port that is bound."""
        return self._listener.address[1]

    @property
    def address(self) -> str:
        """Host and port for people."""
        return format_address(self._settings.host, self.port)

    def start(self) -> None:
        """Run the init task where there is one, listen, and publish the record. Raises what the tasks raise."""
        _close_in_forked_children(self)
        tasks = self._tasks()
        if tasks is not None:
            if self._detached:
                _let_init_task_log(self._settings.log_level)
            self._service.start(tasks)
        if self._signals is not None:
            self._signals.watch(self._reception.wake_file)
        try:
            self._listener.listen()
        except OSError as error:
            raise self._cannot_listen(error) from error
        self._publish()

    def serve(self) -> int:
        """Accept connections until the end; blocks. Returns the exit code."""
        self._log_start()
        while self._exit_code is None:
            self._reception.accept_until_woken()
            if self._signals is not None and self._signals.received and self._exit_code is None:
                self._ending.by_signal(self._reception.exit_on_signal)
        return self._exit_code

    def close(self) -> None:
        """Close everything that is left, in whatever state the server is."""
        if self._signals is not None:
            self._signals.restore()
        self._reception.close()
        self._service.deadlines.close()
        self._release_record()
        if self._signals is not None and not self._detached:
            # A detached server keeps it until the process is gone: exit handlers may hang too.
            import faulthandler

            faulthandler.cancel_dump_traceback_later()

    def before_fork(self) -> None:
        """Hold signals back while this thread forks: in the child they have to find its own handlers."""
        if self._signals is not None:
            self._signals.hold()

    def after_fork(self) -> None:
        """Let signals through again in the process that has forked."""
        if self._signals is not None:
            self._signals.let_through()

    def close_after_fork(self) -> None:
        """Close in a forked child what would keep the port, the connections or the name alive, and end by signals again."""
        if self._signals is not None:
            self._signals.restore()
            self._signals.let_through()
        self._reception.close_after_fork()
        if self._record is not None:
            self._record.close_after_fork()

    def _bind(self) -> ServerSocket:
        try:
            return ServerSocket(self._settings.host, self._settings.port)
        except OSError as error:
            raise self._cannot_listen(error) from error

    def _cannot_listen(self, error: OSError) -> ServerStartError:
        where = format_address(self._settings.host, self._settings.port)
        return ServerStartError(f"cannot listen on {where}: {error.strerror or error}")

    def _make_converse(self) -> Callable[[Connection, Seat, Lane, LaneTable], Conversation]:
        service = self._service
        budget = MemoryBudget(_BUDGET_MESSAGES * self._settings.max_message_size, PROGRESS_TIMEOUT / 2)
        handlers: dict[int, Handler] = {
            MessageType.INIT: service.initialize,
            MessageType.EXEC: service.execute,
            MessageType.EXIT: lambda request: self._ending.by_request(request),
            MessageType.STATUS: self._report_status,
        }

        def converse(connection: Connection, seat: Seat, lane: Lane, lanes: LaneTable) -> Conversation:
            return Conversation(connection, seat, lane, lanes, service, budget, handlers)

        return converse

    def _tasks(self) -> TaskSet | None:
        settings = self._settings
        if settings.init_file is not None:
            return TaskSet.from_file(settings.init_file)
        if settings.tasks is None:
            return None
        if isinstance(settings.tasks, bytes):
            message = load(settings.tasks)
            assert isinstance(message, dict)
            return TaskSet.from_message(message)
        return TaskSet.of(settings.tasks)

    def _publish(self) -> None:
        if self._record is None:
            return
        settings = self._settings
        self._record.publish(
            Record(
                name=settings.name,
                id=self.instance.hex(),
                host=settings.host,
                port=self.port,
                pid=os.getpid(),
                start_time=process_start_time(os.getpid()) or "",
                started=time.time(),
                log_file=settings.log_file,
                python=sys.executable,
                version=__version__,
            )
        )

    def _release_record(self) -> None:
        record, self._record = self._record, None
        if record is not None:
            record.release()

    def _report_status(self, request: Request) -> None:
        settings = self._settings
        known = {
            "name": settings.name,
            "host": settings.host,
            "port": self.port,
            "log_file": settings.log_file,
            "version": __version__,
        }
        self._service.report_status(request, {**known, **self._reception.counts()})

    def _stop(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._reception.wake()

    def _log_start(self) -> None:
        import logging

        log = logging.getLogger("bgpy.server")
        log.info("Serving at %s, process %d", self.address, os.getpid())
        settings = self._settings
        if not settings.loopback and settings.tls is None and settings.ssl_context is None:
            if settings.token:
                log.warning("Listening off loopback without TLS: messages cannot be forged, but they can be read on the way")
            else:
                log.warning("Listening off loopback without a token: everybody who reaches the port can run code here")


def _let_init_task_log(level: str | int) -> None:
    """
    Have what the init task logs in the log: logging is configured when the server is ready, and then the user may have done it.

    Who logs has imported it, as a rule; to do so here would cost a large part of a start.
    """
    logging = sys.modules.get("logging")
    if logging is not None:
        logging.getLogger().setLevel(level)
        if logging.lastResort is not None:
            logging.lastResort.setLevel(level)
            logging.lastResort.setFormatter(logging.Formatter(LOG_FORMAT))


class _Signals:
    """SIGTERM and SIGINT of a server that runs in the main thread: the first asks for the end, the second one is the end."""

    def __init__(self) -> None:
        self.received = False
        self._before: dict[int, Any] = {}
        #: The masks of the threads that are forking.
        self._masks: dict[int, Any] = {}
        self._wakeup_before: int | None = None

    def watch(self, wake_file: int) -> None:
        """Handle the signals from now on, and write a byte to `wake_file` for each."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        self._wakeup_before = signal.set_wakeup_fd(wake_file, warn_on_full_buffer=False)

    def restore(self) -> None:
        """Put everything back as it was."""
        if self._wakeup_before is None:
            return
        signal.set_wakeup_fd(self._wakeup_before)
        self._wakeup_before = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """Block the signals in this thread. Python forgets those that come between a fork and the child's first step."""
        self._masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, self._before)

    def let_through(self) -> None:
        """Undo `hold`."""
        mask = self._masks.pop(threading.get_ident(), None)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            os._exit(128 + number)
        self.received = True


def _close_in_forked_children(running: Running) -> None:
    """Register with `os.register_at_fork`, which knows no way back: so it holds the server weakly."""
    if not hasattr(os, "register_at_fork"):
        return
    reference = weakref.ref(running)

    def call(step: Callable[[Running], None]) -> None:
        alive = reference()
        if alive is not None:
            step(alive)

    os.register_at_fork(
        before=lambda: call(Running.before_fork),
        after_in_parent=lambda: call(Running.after_fork),
        after_in_child=lambda: call(Running.close_after_fork),
    )
