"""
The server: configured here, run in this process or in a detached one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bgpy.addresses import all_loopback, check_host, check_port, resolve_addresses
from bgpy.connection import DEFAULT_MAX_MESSAGE_SIZE, check_message_size
from bgpy.errors import ConnectError, ServerStartError, TlsError, TokenError
from bgpy.logs import LOG_FORMAT, check_level
from bgpy.records import Registry
from bgpy.seconds import time_limit
from bgpy.serving.running import Running, Settings
from bgpy.sockets import ClientSocket, respond
from bgpy.taskset import TaskSet
from bgpy.tls import Tls
from bgpy.token import check_token_strength, find_token, forget_environment_token

if TYPE_CHECKING:
    import ssl
    from types import ModuleType

__all__ = ["ClientSocket", "Server", "respond", "serve_detached"]


class Server:
    """
    A server that keeps state and serves it to whoever proves the token.

    Parameters
    ----------
    host, port
        Where to listen; port 0 picks a free one. Off loopback a token of at least 22 characters is needed.
    token
        None: BGPY_TOKEN, else this user's own secret file. "": no token, on loopback only unless `insecure`.
    log_level, log_file
        Of all loggers of a background server, and where its output goes; by default a file of its own.
    init_file, tasks
        A Python file, or a module, a module's name, a `TaskSet` or its pickled message, to be initialised with at the start.
    ssl_context, tls
        A server-side context; or ``tls="token"`` (Python >= 3.13), or `bgpy.tls.Certificates`.
    max_message_size
        Most bytes of one message, in either direction.
    insecure
        Allow to listen off loopback without a token. Everybody who reaches the port can then run code.
    name
        A name by which `bgpy.connect` finds this server; one server of that name for this user on this machine.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        log_level: str | int = "INFO",
        log_file: str | None = None,
        init_file: str | None = None,
        tasks: TaskSet | ModuleType | str | bytes | None = None,
        ssl_context: ssl.SSLContext | None = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        insecure: bool = False,
        tls: Tls = None,
        name: str | None = None,
    ) -> None:
        # A wrong one is known here, not when the server is ready.
        check_message_size(max_message_size)
        if init_file is not None and tasks is not None:
            raise ValueError("init_file and tasks exclude each other.")
        self.host = check_host(host)
        #: The port; after the start the one that was picked.
        self.port = check_port(port)
        #: The process that serves, once it does.
        self.pid: int | None = None
        #: Where the output of a background server goes, once it runs.
        self.log_file = log_file
        self.name = name
        self._token = token
        self._log_level = log_level if log_level is None else check_level(log_level)
        self._init_file = init_file
        self._tasks = tasks if tasks is None or isinstance(tasks, (str, bytes)) else TaskSet.of(tasks)
        self._ssl_context = ssl_context
        self._max_message_size = max_message_size
        self._insecure = insecure
        self._tls = tls

    def __repr__(self) -> str:
        name = f", name={self.name!r}" if self.name else ""
        return f"Server({self.host!r}, {self.port}{name})"

    def run(self, ready: Callable[[], object] | None = None) -> int:
        """
        Serve in this process until `Client.terminate`, SIGTERM or SIGINT; blocks.

        In the main thread it handles these signals while it serves, and ends the process by force when tasks do not end in time.

        Parameters
        ----------
        ready
            Called once the server accepts connections and its init task is done; `port` is known then.

        Returns
        -------
        exit_code
            0, or 1 where the exit task failed or was skipped.

        Raises
        ------
        ServerStartError
            The port is in use, or the host is not ours. NameTakenError: the name is taken.
        TokenError
            There is no token where one is needed, it is too short, or its file cannot be trusted.
        TlsError
            TLS cannot be used as asked for.
        Exception
            What the init file, the tasks' module or the init task raises.
        """
        return self._serve(self._settings(), None if ready is None else lambda address: ready(), detached=False)

    def run_background(self, timeout: float | None = 30) -> None:
        """
        Start a detached process that serves, and return when it is ready: it accepts connections and the init task is done.

        Blocks. The process outlives this one, its terminal and its session; `Client.terminate` or SIGTERM ends it.

        Parameters
        ----------
        timeout
            Seconds until it must be ready; None is no limit.

        Raises
        ------
        ServerStartError
            It did not start, for the reason and traceback that it gives; nothing is left running. NameTakenError: the name is.
        TokenError, TlsError
            As in `run`.
        SerializationError
            The tasks cannot travel.
        """
        timeout = time_limit(timeout)
        if self.name is None:
            self.spawn(timeout)
            return
        deadline = time.monotonic() + timeout
        # Whoever calls `bgpy.start` at the same moment waits, and then finds this server.
        with Registry().starting(self.name, timeout):
            self.spawn(max(deadline - time.monotonic(), 0))

    def spawn(self, timeout: float, serve: str | None = None, more: dict[str, Any] | None = None) -> dict[str, Any]:
        """
        Do as `run_background` does, for a caller that is alone in starting a server of that name (`Registry.starting`).

        Parameters
        ----------
        serve, more
            What the process calls in place of `serve_detached`, as for `launch`, and what its `config` holds besides.

        Returns
        -------
        said
            What such a function has told besides where the server is.

        Raises what `run_background` raises.
        """
        from bgpy.background import SERVE, launch
        from bgpy.protocol.messages import dump

        settings = self._settings()
        if settings.ssl_context is not None:
            raise TlsError("An ssl_context cannot travel to another process", 'Use tls=Certificates(...), tls="token", or run()')
        if isinstance(settings.tasks, TaskSet):
            settings = settings._replace(tasks=bytes(dump(settings.tasks.message(), max_buffers=0).pickle))
        config = {**settings._asdict(), **(more or {})}
        ready = launch(config, log_file=self.log_file, timeout=timeout, serve=serve or SERVE)
        self.port = ready.port
        self.pid = ready.pid
        self.log_file = ready.log_file
        return ready.more

    def _settings(self) -> Settings:
        token = find_token(self._token)
        try:
            loopback = all_loopback(resolve_addresses(self.host, self.port))
        except ConnectError as error:
            raise ServerStartError(f"cannot listen on {error.address}: {error.reason}") from error
        if token:
            check_token_strength(token, loopback=loopback)
        elif not loopback and not self._insecure:
            raise TokenError(
                f"Without a token a server listens on loopback only, and {self.host!r} is more than that",
                "Give a token, or say insecure=True (--insecure) if everybody who reaches the port may run code",
            )
        return Settings(
            host=self.host,
            port=self.port,
            token=token,
            log_level=self._log_level,
            log_file=self.log_file,
            init_file=None if self._init_file is None else os.path.abspath(os.fsdecode(self._init_file)),
            tasks=self._tasks,
            ssl_context=self._ssl_context,
            max_message_size=self._max_message_size,
            tls=self._tls,
            name=self.name,
            loopback=loopback,
        )

    def _serve(self, settings: Settings, ready: Callable[[dict[str, Any]], object] | None, *, detached: bool) -> int:
        forget_environment_token()
        running = Running(settings, detached=detached)
        try:
            running.start()
            self.port = running.port
            self.pid = os.getpid()
            if ready is not None:
                ready({"pid": self.pid, "host": self.host, "port": self.port, "id": running.instance.hex()})
            if detached:
                _configure_logging(settings.log_level)
            return running.serve()
        finally:
            running.close()


def serve_detached(config: dict[str, Any], ready: Callable[[dict[str, Any]], None]) -> int:
    """
    Serve as the process that `bgpy.background.launch` has started; blocks until the end.

    Parameters
    ----------
    config
        The fields of `Settings`.
    ready
        Called once, when the server accepts connections and its init task is done.

    Returns
    -------
    exit_code
        As from `Server.run`.
    """
    settings = Settings(**config)
    return Server(settings.host, settings.port, name=settings.name)._serve(settings, ready, detached=True)


def _configure_logging(level: str | int) -> None:
    # Only when the server is ready: the import is a large part of a start.
    import logging

    # The root's level: what the tasks log belongs in the file as well.
    logging.basicConfig(format=LOG_FORMAT, level=level)
