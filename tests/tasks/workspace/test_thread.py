"""What is peculiar to an interpreter in a thread: threads of its jobs, and other interpreters, are beside it in one process."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.backends import PATIENCE, Recorder, Session

from bgpy.tasks.workspace.backends.thread import ThreadBackend
from bgpy.tasks.workspace.progress import SINK


@pytest.fixture
def make() -> Iterator[Callable[[], Session]]:
    backends: list[ThreadBackend] = []

    def start() -> Session:
        recorder = Recorder()
        backends.append(ThreadBackend(recorder))
        backends[-1].start()
        return Session(backends[-1], recorder)

    yield start
    for backend in backends:
        backend.close()
    assert not SINK._of_namespaces


def told_progress(session: Session) -> list[tuple[Any, ...]]:
    return [each for each in session.recorder.told if each[0] == "progress"]


FORK = """
import os, warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    child = os.fork()
if not child:
    {ends}
status = os.waitpid(child, 0)[1] if child else None
os.waitstatus_to_exitcode(status) if child else None
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize(("ends", "code"), [("pass", 0), ("raise ValueError", 1), ("raise SystemExit(3)", 1), ("os._exit(5)", 5)])
def test_a_child_that_a_job_forks_ends_where_the_job_does(make: Callable[[], Session], ends: str, code: int) -> None:
    """It waited for the next job as the thread does, for ever, and with it the job that waited for it."""
    session = make()
    assert session.value(FORK.format(ends=ends)) == code
    assert session.value("1 + 1") == 2


BESIDE = """
import threading
from bgpy.tasks.workspace import progress
thread = threading.Thread(target=lambda: list(progress([], {name!r})))
thread.start()
thread.join()
"""


def test_threads_of_two_workspaces_each_tell_their_own(make: Callable[[], Session]) -> None:
    sessions = [make(), make()]
    for name, session in zip("ab", sessions, strict=True):
        session.run(BESIDE.format(name=name))
    assert [told_progress(session) for session in sessions] == [[("progress", 0, "a", 0, 0)], [("progress", 0, "b", 0, 0)]]


def test_a_thread_tells_nothing_between_two_jobs(make: Callable[[], Session]) -> None:
    session = make()
    session.run(
        "import threading\nfrom bgpy.tasks.workspace import progress\ngo, gone = threading.Event(), threading.Event()\n"
        "def work():\n    go.wait()\n    list(progress([]))\n    gone.set()\n"
        "thread = threading.Thread(target=work)\nthread.start()"
    )
    assert isinstance(session.backend, ThreadBackend)
    namespace = session.backend._interpreter.namespace
    namespace["go"].set()
    assert namespace["gone"].wait(PATIENCE)
    namespace["thread"].join(PATIENCE)
    assert told_progress(session) == []


def test_a_thread_with_the_context_of_the_job_writes_and_tells_for_it(make: Callable[[], Session]) -> None:
    session = make()
    session.run(
        "import asyncio\nfrom bgpy.tasks.workspace import progress\n"
        "def work():\n    print('beside')\n    list(progress([], 'bar'))\nawait asyncio.to_thread(work)"
    )
    assert session.text() == "beside\n"
    assert told_progress(session) == [("progress", 0, "bar", 0, 0)]


def test_what_the_listener_prints_is_not_the_jobs(make: Callable[[], Session], capsys: pytest.CaptureFixture[str]) -> None:
    session = make()
    news = session.recorder.news

    def print_news(number: int, event: str, details: dict[str, Any]) -> None:
        sys.stdout.write("by the listener\n")
        news(number, event, details)

    session.recorder.news = print_news  # type: ignore[method-assign]
    session.run("import asyncio\nfrom bgpy.tasks.workspace import progress\nawait asyncio.to_thread(list, [])")
    session.run("await asyncio.to_thread(lambda: list(progress([], 'bar')))\nlist(progress([], 'own'))")
    assert [each[2] for each in told_progress(session)] == ["bar", "own"]
    assert session.text() == ""
    assert capsys.readouterr().out == "by the listener\n" * 2


SPAM = """
import threading
from bgpy.tasks.workspace.progress import SINK
hit = []
def work():
    sink = SINK.get()
    try:
        while not over.is_set():
            sink.progress("bar", 1, 2)
    except BaseException as error:
        hit.append(type(error).__name__)
over = threading.Event()
thread = threading.Thread(target=work)
thread.start()
"""


def test_an_interrupt_hits_the_job_and_no_thread_of_it_that_tells(make: Callable[[], Session]) -> None:
    session = make()
    # Only how much was told is kept.
    counted = threading.Event()
    session.recorder.news = lambda number, event, details: counted.set()  # type: ignore[method-assign]
    session.run(SPAM)
    try:
        for _ in range(20):
            number = session.begin("print('in')\nwhile True: pass")
            session.recorder.wait_for_text(number, "in")
            assert session.backend.interrupt(number)
            assert session.recorder.outcome(number).state == "interrupted"
    finally:
        session.run("over.set()\nthread.join()")
    assert counted.is_set()
    assert session.value("hit") == []
    ends = [each[1] for each in session.recorder.told if each[0] == "ended"]
    assert ends == sorted(ends)
