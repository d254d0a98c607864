"""
Servers by name: start one or find it running, here, on another machine, or on the other side of WSL.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from bgpy.addresses import check_host, format_address, is_wildcard, resolve_addresses
from bgpy.client import Client
from bgpy.connection import DEFAULT_MAX_MESSAGE_SIZE
from bgpy.errors import ConnectError, PythonVersionError, ServerNotFoundError, ServerStartError, TlsError
from bgpy.protocol.handshake import ZERO_ID
from bgpy.records import Record, Registry
from bgpy.seconds import time_limit
from bgpy.server import Server
from bgpy.system import wait_for_end
from bgpy.taskset import TaskSet
from bgpy.tls import Tls
from bgpy.token import find_token
from bgpy.wsl import (
    LOOPBACK,
    Surroundings,
    Target,
    far_addresses,
    far_find,
    far_start,
    is_here,
    look_around,
    other_side_candidates,
    parse_target,
    reach,
)

if TYPE_CHECKING:
    import ssl


def start(
    name: str,
    *tasks: Any,
    host: str = LOOPBACK,
    port: int = 0,
    token: str | None = None,
    timeout: float | None = 30,
    tls: Tls = None,
    ssl_context: ssl.SSLContext | None = None,
    insecure: bool = False,
    log_level: str | int = "INFO",
    log_file: str | None = None,
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    connect_timeout: float = 10,
    max_connections: int = 64,
) -> Client:
    """
    Start the background server of that name, or attach to it where it runs; return a connected client of it.

    Blocks. Safe from several threads and processes: those who come at once get clients of one server. A server that runs
    already keeps its address, options and tasks; one that has no tasks yet is given these. A server that this call has started
    goes on where the client fails, say for its certificate.

    Parameters
    ----------
    name
        The server's name; ``windows:NAME``, ``wsl:NAME`` or ``wsl:DISTRO/NAME`` for the other side of WSL.
    tasks
        Init, exec and exit task; or a module, a module's name, or a `TaskSet`; or nothing.
    host, port
        Where to listen; port 0 picks a free one. A host that is another machine is attached to: nothing can be started there.
    token, tls, insecure, log_level, log_file, max_message_size
        As for `Server`, and the first two and the last for the client too.
    timeout
        Seconds until all is done, the init task too; None is no limit.
    ssl_context
        For a client of a server that runs: such a context cannot travel to a new process.
    connect_timeout, max_connections
        As for `Client`.

    Raises
    ------
    ServerStartError
        It did not start, for its own reason, or does not answer; or nobody answers on the other machine.
    NameTakenError
        A server of that name is being started in the foreground, and has not published where it is.
    RemoteError
        The init task raised in a server that ran without tasks.
    WslError
        The other side of WSL could not be reached.
    ValueError
        The name is none.
    BgpyError
        Also all that `Server.run_background` and `Client.status` raise.
    """
    deadline = time.monotonic() + time_limit(timeout)
    task_set = _task_set(tasks)
    token = find_token(token)
    access = _Access(
        token, tls, ssl_context, max_message_size, {"connect_timeout": connect_timeout, "max_connections": max_connections}
    )
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "token": token,
        "log_level": log_level,
        "log_file": log_file,
        "insecure": insecure,
        "max_message_size": max_message_size,
        "tls": tls,
    }
    target = parse_target(name)
    if target is not None:
        here = look_around()
        if not is_here(target, here):
            return _start_far(target, here, options, task_set, access, deadline)
        name = target.name
    if not _is_ours(host):
        return _attach_elsewhere(name, host, port, task_set, access, deadline)
    server = Server(**options, ssl_context=ssl_context, tasks=task_set, name=name)
    return _start_here(server, name, task_set, access, deadline)


def connect(name: str, host: str | None = None, port: int | None = None, token: str | None = None, **options: Any) -> Client:
    """
    Return a connected client of the running server of that name. Blocks; safe from several threads and processes.

    Parameters
    ----------
    name
        The server's name; ``windows:NAME``, ``wsl:NAME`` or ``wsl:DISTRO/NAME`` for the other side of WSL.
    host, port
        Where it listens, for a server on another machine; None looks it up in this machine's records.
    token
        As for `Client`.
    options
        Further arguments of `Client`: tls, ssl_context, timeout, connect_timeout, and so on.

    Raises
    ------
    ServerNotFoundError
        No server of that name runs; `running` has the names of those that do. Also where another server has its address now.
    WslError
        The other side of WSL could not be reached.
    ValueError
        The name is none, or there is a host without a port.
    BgpyError
        Also all that `Client.status` raises.
    """
    client = {key: options.pop(key) for key in ("tls", "ssl_context", "max_message_size") if key in options}
    access = _Access(find_token(token), **client, options=options)
    target = parse_target(name)
    if port is not None:
        host = LOOPBACK if host is None else check_host(host) or LOOPBACK
        return access.attach(host, port, "", name if target is None else target.name)
    if host is not None:
        raise ValueError(f"The host {host!r} needs its port too: connect(name, host=..., port=...).")
    if target is not None:
        here = look_around()
        if not is_here(target, here):
            return _reach_far(target, here, far_find(target, {}, here), access)
        name = target.name
    registry = Registry()
    record = registry.find(name)
    if record is None:
        raise ServerNotFoundError(name, _names(registry))
    try:
        return access.attach(record.host, record.port, record.id, name)
    except ServerNotFoundError:
        others = tuple(other for other in _names(registry) if other != name)
        raise ServerNotFoundError(name, others) from None


def answer_far(verb: str, name: str, request: dict[str, Any]) -> dict[str, Any]:
    """
    Do what the other side of WSL asks for, on this side; return the answer as JSON can carry it. Blocks; raises nothing.

    Parameters
    ----------
    verb
        "find", or "start": then `request` holds what `bgpy.wsl.far_start` was given.
    """
    registry = Registry()
    try:
        if verb == "find":
            record = registry.find(name)
            if record is None:
                raise ServerNotFoundError(name)
        else:
            record = _answer_start(name, request)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other side must hear of it
        answer = {"ok": False, "type": type(error).__name__, "reason": str(getattr(error, "reason", None) or error)}
        if isinstance(error, ServerNotFoundError):
            return {**answer, "running": _names(registry)}
        return {**answer, "traceback": getattr(error, "traceback_text", "")}
    return {"ok": True, **{field: getattr(record, field) for field in ("pid", "host", "port", "id", "name")}}


def _answer_start(name: str, request: dict[str, Any]) -> Record:
    import base64

    from bgpy.protocol.handshake import own_python

    options = dict(request)
    tasks, python, timeout = options.pop("tasks"), options.pop("python"), options.pop("timeout")
    if python not in (None, own_python()):
        raise PythonVersionError(own_python(), python)
    server = Server(**options, tasks=None if tasks is None else base64.b64decode(tasks), name=name)
    return _find_or_start(server, name, time.monotonic() + time_limit(timeout))[0]


class _Access(NamedTuple):
    """How clients get in."""

    token: str
    tls: Tls = None
    ssl_context: ssl.SSLContext | None = None
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE
    options: dict[str, Any] = {}  # noqa: RUF012 - a tuple's default that nothing writes to

    def __repr__(self) -> str:
        return "_Access(...)"  # never the token

    def client(self, host: str, port: int, instance: str, **options: Any) -> Client:
        """Make a client, without a connection; `instance`, "" for any, is the id of the server that it belongs to."""
        return Client(
            host,
            port,
            self.token,
            tls=self.tls,
            ssl_context=self.ssl_context,
            max_message_size=self.max_message_size,
            _instance=bytes.fromhex(instance) or ZERO_ID,
            **{**self.options, **options},
        )

    def attach(
        self,
        host: str,
        port: int,
        instance: str,
        name: str | None,
        tasks: TaskSet | str | None = None,
        deadline: float | None = None,
    ) -> Client:
        """
        Return a client whose server has proved the token, is the wanted one, and has these tasks or others.

        Raises ServerNotFoundError where it is another one, and what `Client.status` and `Client.initialize` raise.
        """
        client = self.client(_dialable(host), port, instance)
        try:
            status = client.status(None if deadline is None else _left(deadline))
            if name is not None and status["name"] not in (None, name):
                raise ServerNotFoundError(name, (status["name"],))
            if tasks is not None and not status["initialized"]:
                client.initialize(tasks, exist_ok=True, timeout=None if deadline is None else _left(deadline))
        except BaseException:
            client.close()
            raise
        return client


def _start_here(server: Server, name: str, tasks: TaskSet | str | None, access: _Access, deadline: float) -> Client:
    while True:
        record, started = _find_or_start(server, name, deadline)
        try:
            return access.attach(record.host, record.port, record.id, name, None if started else tasks, deadline)
        except (ConnectError, ServerNotFoundError) as error:
            # It is ending: its listener closes before its exit task runs, its record goes afterwards.
            if started or not wait_for_end(record.pid, record.start_time, _left(deadline)):
                reason = error.reason if isinstance(error, ConnectError) else "another server has its address"
                raise ServerStartError(
                    f"process {record.pid} holds the name {name!r}, and does not answer: {reason}", "", record.log_file
                ) from error


def _find_or_start(server: Server, name: str, deadline: float) -> tuple[Record, bool]:
    """Return the record of the running server of that name, and whether it was started here and now."""
    registry = Registry()
    record = registry.find(name)
    if record is not None:
        return record, False
    with registry.starting(name, _left(deadline)):
        record = registry.find(name)
        if record is not None:
            return record, False
        server.spawn(_left(deadline))
        record = registry.find(name)
    if record is None:
        raise ServerStartError("it ended right after its start", "", server.log_file)
    return record, True


def _attach_elsewhere(name: str, host: str, port: int, tasks: TaskSet | str | None, access: _Access, deadline: float) -> Client:
    if not port:
        raise ServerStartError(
            f"{host!r} is another machine, where nothing can be started from here: give the port of a server there"
        )
    try:
        return access.attach(host, port, "", name, tasks, deadline)
    except ConnectError as error:
        where = format_address(host, port)
        raise ServerStartError(
            f"nobody answers at {where} ({error.reason}), and on another machine nothing can be started from here: "
            f"run 'bgpy server {host} {port} --name {name}' there"
        ) from error


def _start_far(
    target: Target, here: Surroundings, options: dict[str, Any], tasks: TaskSet | str | None, access: _Access, deadline: float
) -> Client:
    import base64

    from bgpy.protocol.handshake import own_python
    from bgpy.protocol.messages import dump

    if options["tls"] not in (None, "token") or access.ssl_context is not None:
        raise TlsError("Certificates cannot travel to the other side of WSL", 'Use tls="token"')
    request = {**options, "tasks": None, "python": None, "timeout": _left(deadline)}
    # This side's loopback is not the other's: left open, the address is chosen so that the two meet.
    request["host"] = None if options["host"] == LOOPBACK else options["host"]
    if tasks is not None:
        payload = dump(TaskSet.of(tasks).message(), max_buffers=0)
        request["tasks"] = base64.b64encode(payload.pickle).decode("ascii")
        request["python"] = own_python() if payload.by_value else None
    answer = far_start(target, request, here, timeout=_left(deadline))
    return _reach_far(target, here, answer, access, tasks, deadline)


def _reach_far(
    target: Target,
    here: Surroundings,
    answer: dict[str, Any],
    access: _Access,
    tasks: TaskSet | str | None = None,
    deadline: float | None = None,
) -> Client:
    port, instance = answer["port"], answer["id"]

    def try_connect(host: str, port: int, timeout: float) -> None:
        with access.client(host, port, instance, connect_timeout=timeout) as client:
            client.status(timeout)

    candidates = other_side_candidates(here, far_addresses(target, answer["host"], here))
    host, _ = reach(candidates, port, try_connect)
    return access.attach(host, port, instance, target.name, tasks, deadline)


def _task_set(tasks: tuple[Any, ...]) -> TaskSet | str | None:
    """Return what `Server` takes as its tasks; a module's name stays one, to be imported where it runs."""
    if not tasks:
        return None
    if len(tasks) == 1 and isinstance(tasks[0], str):
        return tasks[0]
    return TaskSet.of(*tasks)


def _is_ours(host: str) -> bool:
    """Tell whether a host is this machine: whether an address of it can be bound. Raises ConnectError for an unknown one."""
    for family, address in resolve_addresses(check_host(host), 0):
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            try:
                sock.bind(address)
            except OSError:
                continue
            return True
    return False


def _dialable(host: str) -> str:
    """Return where to connect to a server that listens at `host`: at all addresses means at loopback too."""
    if is_wildcard(host):
        return "::1" if ":" in host else LOOPBACK
    return host or "localhost"


def _names(registry: Registry) -> tuple[str, ...]:
    return tuple(record.name for record in registry.running() if record.name is not None)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)
