"""
Processes that run other people's code: take along all that they start, limit them, and tell how they ended.

On Linux a process can adopt the orphans below it, so that whatever was started there can be found and ended. Elsewhere there is
the process group (macOS), which reaches fewer of those who want to get away, and on Windows the Job Object, which reaches all.
"""

from __future__ import annotations

import os
import select
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

WINDOWS = os.name == "nt"
LINUX = sys.platform == "linux"
MACOS = sys.platform == "darwin"
_HAS_POLL = hasattr(select, "poll")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
#: How often `end_younger_than` looks for more: processes that start others faster than that win.
_ROUNDS = 100


def _prctl(option: int, value: int) -> bool:
    import ctypes

    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)


def adopt_orphans() -> bool:
    """Make this process the parent of all below it that lose theirs; False where the platform cannot (only Linux can)."""
    return LINUX and _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: int) -> bool:
    """
    Ask for a signal when the thread that started this process has ended; False where the platform cannot (only Linux can).

    The thread, not its process: a worker is started by one that lives as long as the process does.
    """
    return LINUX and _prctl(_PR_SET_PDEATHSIG, number)


def child_processes(pid: int | None = None) -> list[int]:
    """Return the children of this process, or another one, zombies included. Linux only."""
    pid = os.getpid() if pid is None else pid
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return []
    try:
        for thread in threads:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(map(int, file.read().split()))
    except (FileNotFoundError, ProcessLookupError):  # a thread that has ended; or a kernel built without that file
        return _children_by_search(pid)
    return found


def _children_by_search(of: int) -> list[int]:
    own = str(of).encode("ascii")
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parent = file.read().rpartition(b")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
        if parent == own:
            found.append(int(name))
    return found


def end_children(reaped: Callable[[int, int, int], None]) -> None:
    """
    Kill the children of this process, and theirs as they come to it, until there is none; blocks until then.

    For a process that has called `adopt_orphans` and whose children are all to be ended. One that may not be killed (another
    user's) is left.

    Parameters
    ----------
    reaped
        Is told pid, wait status and peak memory in bytes of each.
    """
    forbidden: set[int] = set()
    while True:
        children = set(child_processes()) - forbidden
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except PermissionError:
                forbidden.add(pid)
        # A child that is killed hands its own children over before it can be waited for: each round sees the next generation.
        waited_for = 0
        while children - forbidden and reap_child(reaped, wait=not waited_for):
            waited_for += 1
        if not waited_for:
            return


def reap_child(reaped: Callable[[int, int, int], None], *, wait: bool = False) -> bool:
    """Collect one child that has ended and tell `reaped`, see `end_children`; False where there is none. May wait for one."""
    try:
        pid, status, usage = os.wait4(-1, 0 if wait else os.WNOHANG)
    except ChildProcessError:
        return False
    if pid == 0:
        return False
    reaped(pid, status, usage.ru_maxrss * (1024 if LINUX else 1))  # macOS counts bytes
    return True


def start_clock() -> Callable[[], float]:
    """Return the clock that `end_younger_than` reads; it stands still where that does nothing."""
    if WINDOWS:
        from bgpy.system import job_objects

        return job_objects.start_clock()
    if not LINUX:
        return lambda: 0.0
    import time
    from functools import partial

    return partial(time.clock_gettime, time.CLOCK_BOOTTIME)


def end_younger_than(begun: float, orphanage: int) -> None:
    """
    Kill what was started below this process since a time of `start_clock`.

    `orphanage` is this process or its parent, whichever adopts the orphans of this one, and of no other: all that is young below
    it is killed. The processes are not collected: whoever started them may still ask for them. On Windows the Job Object of this
    process stands for the orphanage; on macOS nothing happens.
    """
    if WINDOWS:
        from bgpy.system import job_objects

        job_objects.end_younger_than(int(begun))
    if not LINUX:
        return
    first = int(begun * os.sysconf("SC_CLK_TCK"))  # the kernel keeps start times in ticks, rounded like this
    own = os.getpid()
    for _ in range(_ROUNDS):
        young = [pid for pid in _descendants(orphanage) if pid != own and _started_since(pid, first)]
        if not young:
            return
        for pid in young:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass  # it has ended since, or is another user's


def end_with_all(pid: int) -> None:
    """
    Kill a process that is not ours with all below it, which it must adopt for that (`adopt_orphans`).

    It is stopped first, lest it start others meanwhile. Elsewhere than on Linux only the process and its group are killed.
    """
    try:
        if LINUX:
            os.kill(pid, signal.SIGSTOP)
            for _ in range(_ROUNDS):
                living = [each for each in _descendants(pid) if _started_since(each, 0)]
                if not living:
                    break
                for each in living:
                    os.kill(each, signal.SIGKILL)
        end_group(pid)
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended since, or is another user's


def end_marked(mark: bytes) -> None:
    """Kill all processes but this one that were started with ``NAME=value`` in their environment, as far as that can be read."""
    for name in filter(str.isdecimal, os.listdir("/proc")) if LINUX else ():
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark in file.read().split(b"\0") and int(name) != os.getpid():
                    os.kill(int(name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended since, or is another user's


def open_process(pid: int) -> int | None:
    """Return a descriptor that can be read once a process has ended; None where the platform has none (only Linux has)."""
    opener = getattr(os, "pidfd_open", None)
    return None if opener is None else int(opener(pid))


def _descendants(root: int) -> list[int]:
    found = [root]
    for pid in found:
        found += child_processes(pid)
    return found[1:]


def _started_since(pid: int, tick: int) -> bool:
    """Tell whether a process lives and was started at a tick of the clock or later."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] not in (b"Z", b"X") and int(fields[19]) >= tick


def end_group(leader: int) -> None:
    """
    Kill a process group, if there is one; Windows has none.

    The caller makes sure that the number has not been given to another one.
    """
    if WINDOWS:
        return
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # all have ended (macOS says it so where only zombies are left)


def end_own_group() -> None:
    """Kill this process with its group, which it leads. On Windows the others end with the Job Object, when nobody holds it."""
    end_group(os.getpid())
    leave(1)


def interrupt_own_group(begun: float) -> None:
    """
    Interrupt this process and what it started, as a terminal does.

    Windows has no such signal for a group without a terminal: this process is interrupted, and what it started since `begun` (a
    time of `start_clock`) is ended, for whoever waits for it there cannot be interrupted.
    """
    if WINDOWS:
        signal.raise_signal(signal.SIGINT)  # by C, so that it also ends a sleep of the main thread
        end_younger_than(begun, os.getpid())
    else:
        os.killpg(0, signal.SIGINT)


def lead_own_group() -> None:
    """Leave the process group of the parent; does nothing on Windows."""
    if not WINDOWS:
        os.setpgid(0, 0)


def let_interrupts_in() -> None:
    """Let the calling thread take SIGINT, which whoever started it may have blocked. Does nothing on Windows."""
    if not WINDOWS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def hold_interrupts_back() -> None:
    """Let the calling thread take no SIGINT, so that another one takes it and hears of it at once. Does nothing on Windows."""
    if not WINDOWS:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def used_address_space() -> int | None:
    """Tell the size in bytes that `limit_memory` is compared with; None where the platform does not tell."""
    if WINDOWS:
        from bgpy.system import windows

        return windows.committed_memory()
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return None


def limit_memory(size: int) -> None:
    """
    Let this process, and each that it starts, have no more than `size` bytes of address space (on Windows: of committed memory).

    Raises RuntimeError where nothing keeps to such a limit (macOS), or for less than the process has already.
    """
    if MACOS:
        raise RuntimeError("macOS does not keep to a limit of a process's memory")  # setrlimit fails there, or is ignored
    used = used_address_space()
    if used is not None and size <= used:
        raise RuntimeError(f"the memory limit of {size:,} bytes is below the {used:,} that an interpreter has from the start")
    size = min(size, sys.maxsize)  # the system's call takes no more, and nobody has as much
    if WINDOWS:
        from bgpy.system import job_objects

        job_objects.limit_own_memory(size)
        return
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def flusher_of_c() -> Callable[[], object]:
    """Return a function that writes out what C code of this process has buffered (``fflush(NULL)``)."""
    import ctypes
    from functools import partial

    library: Any = ctypes.CDLL("ucrtbase") if WINDOWS else ctypes.CDLL(None)
    flush = library.fflush
    flush.argtypes, flush.restype = [ctypes.c_void_p], ctypes.c_int
    return partial(flush, None)


def unread_probe(fd: int) -> Callable[[], int]:
    """Return a function that tells how many bytes lie in a pipe, asked at either end; 1 where the platform does not tell."""
    if not LINUX:
        return lambda: 1
    import array
    import fcntl
    import termios

    count, ioctl, request = array.array("i", [0]), fcntl.ioctl, termios.FIONREAD

    def unread() -> int:
        ioctl(fd, request, count)
        return count[0]

    return unread


def describe_end(status: int) -> str:
    """Say how a process ended, by its wait status: "exit code 3", "signal SIGSEGV"."""
    return describe_exit(os.waitstatus_to_exitcode(status))


def describe_exit(code: int) -> str:
    """Say the same by an exit code as `subprocess` has it, negative for a signal."""
    if WINDOWS:
        from bgpy.system import job_objects

        return job_objects.describe_exit(code)
    return f"exit code {code}" if code >= 0 else f"signal {signal_name(-code)}"


def is_crash(how: str) -> bool:
    """Tell whether the words of `describe_exit` are of C code that failed: all that a want of memory can look like."""
    return how in ("signal SIGSEGV", "signal SIGABRT", "signal SIGBUS") or how.startswith("exception ")


def signal_name(number: int) -> str:
    """Return the name of a signal, or its number where it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


class Watch:
    """Wait for any of some descriptors to have something to read. For one thread."""

    def __init__(self, descriptors: Iterable[int]) -> None:
        self._all = set(descriptors)
        self._poll = select.poll() if _HAS_POLL else None  # select() fails for descriptors above 1023
        if self._poll is not None:
            for fd in self._all:
                self._poll.register(fd, select.POLLIN)

    def wait(self, timeout: float | None = None) -> list[int]:
        """Return those that have something, an end or an error included; [] after `timeout` seconds."""
        if self._poll is not None:
            return [fd for fd, _ in self._poll.poll(None if timeout is None else max(timeout, 0) * 1000)]
        readable, _, failed = select.select(self._all, (), self._all, None if timeout is None else max(timeout, 0))
        return list({*readable, *failed})

    def drop(self, fd: int) -> None:
        """Stop waiting for one of them."""
        if fd in self._all:
            self._all.remove(fd)
            if self._poll is not None:
                self._poll.unregister(fd)


def leave(code: int) -> NoReturn:
    """End this process at once: no clean-up, no other thread runs on."""
    os._exit(code)


def raise_in_thread(thread: int, error: type[BaseException]) -> bool:
    """Raise an exception in a thread of this process when it next runs Python code; False where there is no such thread."""
    import ctypes

    return bool(ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error)))
