"""
Around each test: a home of its own, and a check that it leaves no thread, descriptor, child process or server behind.

And what tests of several folders need: certificates, a server that can be held up, threads that change places often, a figure.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from support.certificates import Files
from support.servers import Served, running_server, start_count, tasks
from support.slow import Slow

# "ci" finds the same examples in each run; "long" searches: BGPY_HYPOTHESIS_PROFILE=long make test ARGS="-k property"
hypothesis.settings.register_profile("ci", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("long", max_examples=20_000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("BGPY_HYPOTHESIS_PROFILE", "ci"))

#: Seconds for what a test has told to end; only a leak waits that long.
GRACE = 5.0


@pytest.fixture(scope="session", autouse=True)
def _ordinary_signals() -> Iterator[None]:
    """Let the processes that tests start hear of Ctrl-C and of hang-ups, also where whoever started the tests ignores them."""
    ordinary: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler}
    if hasattr(signal, "SIGHUP"):  # Windows has none
        ordinary[signal.SIGHUP] = signal.SIG_DFL
    before = {number: signal.signal(number, handler) for number, handler in ordinary.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def _loop_signals() -> None:
    """Have uvloop make the pipe for signals, which a process keeps from its first event loop on: no test has left it behind."""
    with contextlib.suppress(ImportError):  # without the extra of the gateway, and on Windows, there is none
        import uvloop

        uvloop.new_event_loop().close()


@pytest.fixture(scope="session", autouse=True)
def _temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep temporary files, which a process that is killed leaves, in the folder of the tests; TensorFlow makes many."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux":
            # Elsewhere the paths of sockets would become too long; so would those of Ray's here, which stay where they are.
            patch.setenv("RAY_TMPDIR", tempfile.gettempdir())
            folder = str(tmp_path_factory.mktemp("tmp"))
            patch.setenv("TMPDIR", folder)
            patch.setattr(tempfile, "tempdir", folder)  # what this process has found before
        yield


@pytest.fixture(scope="session", autouse=True)
def _session_home(_temporary_folder: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep what wider fixtures start out of the user's own folders as well."""
    yield from _private_home(tmp_path_factory.mktemp("session-home"))


@pytest.fixture(autouse=True)
def bgpy_home(_session_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the test its own BGPY_HOME and fail it for whatever it leaves behind."""
    threads, descriptors, children = set(threading.enumerate()), _descriptors(), _children()
    yield from _private_home(tmp_path_factory.mktemp("home"))
    leaks = _leaked_threads(threads) + _leaked_children(children) + _leaked_descriptors(descriptors)
    if leaks:
        pytest.fail("The test left behind: " + "; ".join(leaks), pytrace=False)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Return two self-signed certificates of localhost with their keys."""
    return Files(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def slow() -> Slow:
    """Return the task of `server`, and its gate."""
    return Slow()


@pytest.fixture
def server(slow: Slow) -> Iterator[Served]:
    """Run a server of a counter whose requests wait at the gate of `slow` where they say so."""
    with running_server(tasks(slow.run, start_count)) as served:
        yield served
        slow.open.set()


@pytest.fixture
def fast_switches() -> Iterator[None]:
    """Let threads change places as often as they can, so that a race shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def figure() -> Any:
    """Return a figure that was saved once: matplotlib keeps the files of its fonts open, which is no leak of the test."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    figure.subplots().plot([1, 2])
    figure.savefig(io.BytesIO(), format="png")
    return figure


def _private_home(home: Path) -> Iterator[Path]:
    """Point the package at `home` and no token; afterwards put the environment back and end the servers recorded there."""
    before = dict(os.environ)
    os.environ.pop("BGPY_TOKEN", None)
    os.environ["BGPY_HOME"] = str(home)
    for name in ("STATE", "CONFIG", "DATA", "CACHE"):
        os.environ[f"XDG_{name}_HOME"] = str(home / name.lower())
    yield home
    os.environ["BGPY_HOME"] = str(home)
    servers = _end_recorded_servers(home)
    os.environ.clear()
    os.environ.update(before)
    if servers:
        pytest.fail("Servers still ran: " + "; ".join(servers), pytrace=False)


def _end_recorded_servers(home: Path) -> list[str]:
    """Kill the servers that are recorded as running under `home` and say which."""
    if not any(home.iterdir()):
        return []
    from bgpy.records import Registry
    from bgpy.system import kill_process

    running = list(Registry().running())
    for record in running:
        # A server that runs in this very process is a leaked thread, which is reported as such.
        if record.pid != os.getpid():
            kill_process(record.pid, record.start_time)
    return [f"{record.name or f'port {record.port}'} (process {record.pid})" for record in running]


def _leaked_threads(before: set[threading.Thread]) -> list[str]:
    deadline = time.monotonic() + GRACE
    leaks = []
    for thread in set(threading.enumerate()) - before:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            leaks.append(f"thread {thread.name}")
    return leaks


def _children() -> set[int]:
    """Return the children of this process, zombies included, where the system tells (Linux)."""
    found: set[int] = set()
    for thread in _listing("/proc/self/task"):
        try:
            found.update(map(int, Path(f"/proc/self/task/{thread}/children").read_text().split()))
        except FileNotFoundError:
            continue  # that thread has ended since; its children went to another
    return found


def _leaked_children(before: set[int]) -> list[str]:
    """Name, kill and reap the children that the test did not wait for."""
    leaks = []
    for pid in _children() - before - _resource_tracker("_pid"):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        leaks.append(f"child process {pid} ({command or 'ended, but nobody waited for it'})")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return leaks


def _descriptors() -> dict[int, str]:
    """Return what each open descriptor points to, where the system tells (Linux)."""
    found = {}
    for name in _listing("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return found


def _leaked_descriptors(before: dict[int, str]) -> list[str]:
    leaks = set(_descriptors().items()) - set(before.items())
    if leaks:
        # A socket in a reference cycle is closed here, and its ResourceWarning fails the test with a better reason than ours.
        gc.collect()
        leaks = set(_descriptors().items()) - set(before.items())
    ours = _resource_tracker("_fd")
    return [f"descriptor {number} ({target})" for number, target in sorted(leaks) if number not in ours]


def _resource_tracker(field: str) -> set[int]:
    """Return the process or descriptor that multiprocessing keeps, once used, until this process ends."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    value = getattr(module._resource_tracker, field) if module else None
    return set() if value is None else {value}


def _listing(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []
