"""Start a process that shares nothing with this one but two pipes, and be such a process."""

from __future__ import annotations

import os
import signal
import time

from bgpy.system.sockets import wait_socket
from bgpy.system.waiting import within

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess

WINDOWS = os.name == "nt"


def spawn_detached(
    argv: list[str], *, log_fd: int, cwd: str | None = None, env: dict[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], int]:
    """
    Start a process with a session of its own and nothing of this one's terminal or pipes.

    Its standard input is the pipe `process.stdin`, its output and errors go to `log_fd`; it gets one more argument for
    `open_inherited`, the pipe whose other end is returned. Raises OSError where the program cannot be started.
    """
    env = dict(os.environ) if env is None else env
    receive, ready = (_above_standard(fd) for fd in os.pipe())
    try:
        if WINDOWS:
            from bgpy.system import windows

            return windows.spawn(argv, ready, log_fd, cwd, env), receive
        import subprocess

        process = subprocess.Popen(
            [*argv, str(ready)],
            stdin=subprocess.PIPE,
            stdout=log_fd,
            stderr=log_fd,
            bufsize=0,
            pass_fds=(ready,),
            start_new_session=True,
            cwd=cwd,
            env=env,
        )
        return process, receive
    except BaseException:
        os.close(receive)
        raise
    finally:
        os.close(ready)


def _above_standard(fd: int) -> int:
    """Move a descriptor above 2: where the parent's standard streams are closed a new pipe gets their numbers."""
    if WINDOWS or fd > 2:
        return fd
    import fcntl

    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved


def open_inherited(number: str) -> int:
    """Take over, in a child of `spawn_detached`, the pipe whose number is the last argument; its own children do not get it."""
    if WINDOWS:
        from bgpy.system import windows

        return windows.open_inherited(number)
    os.set_inheritable(int(number), False)
    return int(number)


def end_spawned(process: subprocess.Popen[bytes]) -> None:
    """
    End a child of `spawn_detached` that has not been waited for, and whatever it started; then wait for it.

    While it has not been waited for, no other process can have its pid or its group.
    """
    if WINDOWS:
        process.kill()
    else:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all of the group have ended
    process.wait()


def release_spawned(process: subprocess.Popen[bytes]) -> None:
    """Let a child of `spawn_detached` live on. On POSIX it has handed over to its own child and leaves no zombie."""
    if WINDOWS:
        process.returncode = 0  # it is the server itself: nobody waits for it, and no warning shall say so
    else:
        process.wait()


def read_pipe(fd: int, timeout: float | None) -> bytes | None:
    """Read what a pipe holds, waiting up to `timeout` seconds for some; b"" at its end, None when the time is up."""
    if WINDOWS:  # select() knows sockets only there
        return within(timeout, lambda: os.read(fd, 65536), lambda late: None)
    return os.read(fd, 65536) if wait_socket(fd, timeout=timeout) else None


def write_pipe(fd: int, data: bytes, timeout: float | None) -> bool:
    """Write all of `data` to a pipe; False when its reader has not taken it after `timeout` seconds. Raises BrokenPipeError."""
    if WINDOWS:
        return within(timeout, lambda: _write_all(fd, data), lambda late: None) is not None
    os.set_blocking(fd, False)
    deadline = None if timeout is None else time.monotonic() + timeout
    view = memoryview(data)
    while view:
        if not wait_socket(fd, write=True, timeout=None if deadline is None else deadline - time.monotonic()):
            return False
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            pass  # room for less than a page: wait for more
    return True


def _write_all(fd: int, data: bytes) -> bool:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return True


def reset_signals() -> None:
    """
    Undo what the parent left to this process: SIGCHLD default, no signal blocked; and ignore SIGHUP, as the terminal is not ours.

    With SIGCHLD ignored the exit codes of children would be lost. Main thread only.
    """
    if WINDOWS:
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
