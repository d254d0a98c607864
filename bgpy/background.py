"""
Start a detached server and wait until it is ready.

The child (`bgpy._entry`) gets its configuration, the token included, as a pickle over its standard input: every user can see
arguments, and every job the environment. It answers over a pipe with lines of JSON: its pid at once, then that it is ready or
why it is not. The starter waits on that pipe, with a deadline.
"""

from __future__ import annotations

import os
import sys
import time
from typing import NamedTuple

from bgpy.errors import NameTakenError, ServerStartError
from bgpy.system import (
    end_spawned,
    kill_process,
    lock_file,
    open_private,
    private_folder,
    process_start_time,
    read_pipe,
    release_spawned,
    spawn_detached,
    user_state_dir,
    wait_for_end,
    write_pipe,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen
    from typing import Any

#: What the child calls: ``serve(config, ready) -> exit code``, which calls ``ready({"pid": ..., ...})`` once it serves.
SERVE = "bgpy.server:serve_detached"
_UNNAMED_LOGS = 50  # kept of servers without a name: enough to look back, and an end to the litter
_END_TIMEOUT = 2.0  # for a child that has said why it fails to end by itself, exit handlers included
_TAIL_LINES = 20


class Ready(NamedTuple):
    """Say where a server that has just started is, and what else its `serve` function has told."""

    pid: int
    host: str
    port: int
    id: str
    log_file: str
    more: dict[str, Any]


def launch(config: dict[str, Any], *, log_file: str | None = None, timeout: float = 30.0, serve: str = SERVE) -> Ready:
    """
    Start a server that outlives this process; return once it is ready. Blocks; safe from several threads.

    Parameters
    ----------
    config
        For the child's `serve` function, picklable; "name", "host" and "port" also label the process. "log_file" is set here.
    log_file
        Where the child's output goes, appended to; None is a file of its own among this user's state.
    timeout
        Seconds until it must be ready.
    serve
        The function to call in the child, as "module:function".

    Raises
    ------
    ServerStartError
        It failed (with its reason and traceback), died or was late (with the end of its log); nothing is left running.
    NameTakenError
        Another server holds the name.
    TokenError
        The folder of this user's state can be entered by others.
    """
    import pickle

    deadline = time.monotonic() + timeout
    name = config.get("name")
    log_path, log_fd = _open_log(log_file, name)
    try:
        log_start = os.fstat(log_fd).st_size
        data = pickle.dumps((serve, {**config, "log_file": log_path}), protocol=5)
        entry = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_entry.py")
        label = name or f"{config.get('host')}:{config.get('port')}"
        environment = {variable: value for variable, value in os.environ.items() if variable != "BGPY_TOKEN"}
        process, pipe = spawn_detached([sys.executable, entry, "server", label], log_fd=log_fd, env=environment)
    except OSError as error:
        raise ServerStartError(f"its process could not be started: {error}", "", log_path) from error
    finally:
        os.close(log_fd)
    start = _Start(process, pipe)
    try:
        message = start.wait(data, deadline)
        if message is None:
            late = time.monotonic() >= deadline
            reason = f"it was not ready after {timeout:.3g} s" if late else "its process ended before it was ready"
            start.end(0.0)
            raise ServerStartError(reason, _log_tail(log_path, log_start), log_path)
        if not message.pop("ok"):
            start.end(min(_END_TIMEOUT, max(deadline - time.monotonic(), 0.0)))
            raise _failure(message, log_path)
        release_spawned(process)
    except BaseException:
        start.end(0.0)  # an interrupted start leaves nothing running either
        raise
    finally:
        os.close(pipe)
    more = {name: said for name, said in message.items() if name not in Ready._fields}
    return Ready(message["pid"], message["host"], message["port"], message["id"], log_path, more)


def named_log(name: str) -> str:
    """Tell where a background server of that name logs, unless it was told otherwise."""
    return os.path.join(user_state_dir(), "logs", f"{name}.log")


class _Start:
    """A child between its start and its first answer. For one thread."""

    def __init__(self, process: Popen[bytes], pipe: int) -> None:
        self._process = process
        self._pipe = pipe
        self._server: tuple[int, str] | None = None  # its pid and start time

    def wait(self, data: bytes, deadline: float) -> dict[str, Any] | None:
        """Hand over the configuration and wait for the answer; None when the child has died or the time is up."""
        import json

        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            try:
                if not write_pipe(stdin.fileno(), data, deadline - time.monotonic()):
                    return None
            except BrokenPipeError:
                pass  # it has ended: the other pipe may still hold the reason
        received = b""
        while True:
            chunk = read_pipe(self._pipe, deadline - time.monotonic())
            if not chunk:
                return None
            received += chunk
            *lines, received = received.split(b"\n")
            for line in lines:
                message: dict[str, Any] = json.loads(line)
                if "ok" in message:
                    return message
                start_time = process_start_time(message["pid"])
                self._server = (message["pid"], start_time) if start_time else None

    def end(self, grace: float) -> None:
        """See to it that the child has ended: by itself within `grace` seconds, or killed, with all that it started."""
        if self._process.returncode is not None:
            return
        if self._server is not None and not wait_for_end(*self._server, grace):
            kill_process(*self._server)  # by its pid too, in case it left the group
        end_spawned(self._process)
        if self._server is not None:
            wait_for_end(*self._server, _END_TIMEOUT)


def _failure(message: dict[str, Any], log_path: str) -> ServerStartError:
    if message["type"] == "NameTakenError":
        return NameTakenError(*message["args"])
    reason = message["reason"] if message["type"] == "ServerStartError" else f"{message['type']}: {message['reason']}"
    return ServerStartError(reason, message["traceback"], log_path)


def _open_log(log_file: str | None, name: str | None) -> tuple[str, int]:
    """Open the log to append to; its path, absolute, and a descriptor."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    try:
        if log_file is not None:  # the caller's own choice: a pipe, a device or a shared file are fine
            path = os.path.abspath(os.fsdecode(log_file))
            return path, os.open(path, flags, 0o600)
        folder = private_folder(os.path.join(private_folder(user_state_dir()), "logs"))
        if name is not None:
            path = named_log(name)
            return path, open_private(path, flags)
        path = os.path.join(folder, time.strftime(f"+%Y%m%d-%H%M%S-{os.urandom(4).hex()}.log", time.gmtime()))
        fd = open_private(path, flags)
        # The server, and whatever it starts with this output, share the lock: who gets it can remove the log.
        lock_file(fd)
        _remove_old_logs(folder)
        return path, fd
    except (OSError, ValueError) as error:  # ValueError: a character that no path has
        raise ServerStartError(f"its log file cannot be opened: {error}") from error


def _remove_old_logs(folder: str) -> None:
    for entry in sorted(entry for entry in os.listdir(folder) if entry.startswith("+"))[:-_UNNAMED_LOGS]:
        path = os.path.join(folder, entry)
        try:
            fd = open_private(path, os.O_RDWR)
        except FileNotFoundError:
            continue  # another start was faster
        try:
            if lock_file(fd):
                os.unlink(path)
        except (FileNotFoundError, PermissionError):
            pass  # gone, or on Windows open in its server, which no lock needs to tell us
        finally:
            os.close(fd)


def _log_tail(path: str, start: int) -> str:
    """Read the last lines that were written after `start`."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - 8192))
        return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-_TAIL_LINES:])
