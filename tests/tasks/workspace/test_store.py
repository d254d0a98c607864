"""What every store promises, and what the one on the disk promises beyond: real files, real processes, real SIGKILL."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bgpy.tasks.workspace.store as module
from bgpy.errors import StoreError
from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.jobs import JobRecord, JobState
from bgpy.tasks.workspace.records import (
    Change,
    JobEnded,
    JobPushed,
    NumbersReserved,
    StoredWorkspace,
    WorkerStarted,
    WorkspaceCreated,
)
from bgpy.tasks.workspace.store import MemoryStore, SqliteStore, Store
from bgpy.tasks.workspace.values import Packed, Value

ROOT = Path(__file__).resolve().parents[3]
WAIT = 20.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with contextlib.closing(SqliteStore(path)) as store:
        yield store


@pytest.fixture(params=["memory", "sqlite"])
def any_store(request: pytest.FixtureRequest, path: Path) -> Iterator[Store]:
    with contextlib.closing(MemoryStore() if request.param == "memory" else SqliteStore(path)) as store:
        yield store


def job(number: int, text: str = "1", workspace: str = "w", **fields: Any) -> JobRecord:
    return JobRecord(workspace, number, "script", text, **fields)


class Answer:
    """Waits for the `then` of a commit."""

    def __init__(self) -> None:
        self.error: StoreError | None = None
        self._event = threading.Event()

    def __call__(self, error: StoreError | None) -> None:
        self.error = error
        self._event.set()

    def wait(self) -> StoreError | None:
        assert self._event.wait(WAIT), "then was never called"
        return self.error


def commit(store: Store, *changes: Change) -> StoreError | None:
    store.commit(changes, answer := Answer())
    return answer.wait()


@contextlib.contextmanager
def held(store: Store) -> Iterator[None]:
    """Keep the thread that writes in a `then`, so that commits queue up behind it."""
    reached, gate = threading.Event(), threading.Event()

    def then(error: StoreError | None) -> None:
        reached.set()
        gate.wait(WAIT)

    store.commit([], then)
    assert reached.wait(WAIT)
    try:
        yield
    finally:
        gate.set()


# Every store.


def test_commits_are_answered_in_the_order_of_the_calls(any_store: Store) -> None:
    answers: list[int] = []
    any_store.commit([WorkspaceCreated("w", {})], lambda error: answers.append(-1))

    def push(number: int) -> None:
        any_store.commit([JobPushed(job(number))], lambda error: answers.append(number if error is None else -2))

    for number in range(500):
        push(number)
    assert commit(any_store) is None
    assert answers == list(range(-1, 500))


def test_new_store_has_nothing(any_store: Store) -> None:
    assert any_store.load() == []
    assert any_store.find((b"client", 0, 0)) is None
    assert any_store.read("w", 0) is None


def test_store_can_be_closed_again(any_store: Store) -> None:
    any_store.close()
    any_store.close()


# On the disk.


def test_all_is_there_again_after_a_restart(path: Path) -> None:
    ended = job(
        1,
        state=JobState.FAILED,
        value=Value([1, None], Packed(b"closed", (b"buffer",)), "list", ("NaN", "None")),
        error={"type": "ValueError", "message": "no", "traceback": "..."},
        stdout=b"out\xff",
        stderr=b"err",
        truncated=True,
        pushed=1.5,
        started=2.5,
        ended=3.5,
        identity=(b"client", 3, 2**64 - 1),
    )
    with contextlib.closing(SqliteStore(path)) as store:
        assert commit(store, WorkspaceCreated("w", {"type": 0}), WorkspaceCreated("v", {})) is None
        assert commit(store, JobPushed(job(0)), JobPushed(ended), WorkerStarted("w", 7, "start"), JobEnded(ended)) is None
    with contextlib.closing(SqliteStore(path)) as store:
        w, v = store.load()
        (found,) = [record for record in w.jobs if record.number == 1]
        assert found.value is not None
        assert found.value.packed is not None
        assert (found.value.json, found.value.packed.pickle, found.value.packed.buffers) == ([1, None], b"closed", (b"buffer",))
        found.value = ended.value
        assert w == StoredWorkspace("w", {"type": 0}, 2, 0, (7, "start"), [job(0), ended], frozenset())
        assert v == StoredWorkspace("v", {}, 0, 0, None, [], frozenset())
        assert store.find((b"client", 3, 2**64 - 1)) == ("w", 1)


def test_large_contents_can_be_left_on_the_disk(store: SqliteStore) -> None:
    small = job(0, state=JobState.DONE, stdout=b"x" * 10)
    large = job(1, state=JobState.DONE, stdout=b"x" * 6, stderr=b"x" * 5)
    commit(store, WorkspaceCreated("w", {}), *map(JobPushed, (small, large)), *map(JobEnded, (small, large)))
    (workspace,) = store.load(keep=10)
    assert workspace.jobs == [small, job(1, state=JobState.DONE)]
    assert workspace.left == {1}
    assert store.read("w", 1) == large


def test_commit_takes_what_is_in_the_record_at_the_call(store: SqliteStore) -> None:
    record = job(0, state=JobState.DONE, stdout=b"then")
    with held(store):
        store.commit([WorkspaceCreated("w", {}), JobPushed(record), JobEnded(record)], answer := Answer())
        record.stdout = b"now"
    assert answer.wait() is None
    assert store.read("w", 0) == job(0, state=JobState.DONE, stdout=b"then")


def test_commit_is_not_acknowledged_before_others_can_read_it(store: SqliteStore, path: Path) -> None:
    commit(store, WorkspaceCreated("w", {}))
    seen: list[int] = []

    def look(error: StoreError | None) -> None:
        with contextlib.closing(sqlite3.connect(path)) as other:
            seen.append(other.execute("SELECT count(*) FROM jobs").fetchone()[0])

    with held(store):
        for number in range(3):
            store.commit([JobPushed(job(number))], look)
    commit(store)
    assert seen == [3, 3, 3]  # and what waited together was written together


def test_changes_of_one_commit_are_written_all_or_none(store: SqliteStore) -> None:
    commit(store, WorkspaceCreated("w", {}))
    assert isinstance(commit(store, JobPushed(job(0)), JobPushed(job(0))), StoreError)
    assert not store._writer.in_transaction
    assert store.read("w", 0) is None


def test_bad_commit_fails_alone_among_those_that_it_waited_with(store: SqliteStore) -> None:
    commit(store, WorkspaceCreated("w", {}))
    records = [job(0), job(1), job(1), job(2, workspace="nowhere"), job(2**63), job(3, identity=(b"c", -1, 0)), job(4)]
    answers = [Answer() for _ in records]
    with held(store):
        for record, answer in zip(records, answers, strict=True):
            store.commit([JobPushed(record)], answer)
    failed = [number for number, answer in enumerate(answers) if answer.wait() is not None]
    assert failed == [2, 3, 4, 5]
    assert [record.number for record in store.load()[0].jobs] == [0, 1, 4]


def test_what_is_no_plain_data_is_told_in_its_turn(store: SqliteStore) -> None:
    answers: list[object] = []
    with held(store):
        store.commit([WorkspaceCreated("w", {})], answers.append)
        store.commit([WorkspaceCreated("v", {"odd": object()})], lambda error: answers.append(str(error)))
    assert "Only plain data can be kept" in str(commit(store, WorkspaceCreated("v", {"odd": object()})))
    assert answers[0] is None
    assert "Object of type object is not JSON serializable. Only plain data can be kept." in str(answers[1])
    assert [workspace.name for workspace in store.load()] == ["w"]


def test_request_pushes_one_job_only(store: SqliteStore) -> None:
    commit(store, WorkspaceCreated("w", {}), WorkspaceCreated("v", {}))
    assert commit(store, JobPushed(job(0, identity=(b"client", 0, 7)))) is None
    error = commit(store, JobPushed(job(0, workspace="v", identity=(b"client", 0, 7))))
    assert "This request has pushed its job already" in str(error)
    assert store.read("v", 0) is None
    assert store.find((b"client", 0, 7)) == ("w", 0)
    for number, other in enumerate([(b"client", 1, 7), (b"client", 0, 8), (b"other", 0, 7), None, None], 1):
        assert commit(store, JobPushed(job(number, identity=other))) is None


def test_what_follows_a_commit_may_commit_and_may_fail(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1)  # the thread that makes room must not wait for it
    answer = Answer()

    def then(error: StoreError | None) -> None:
        store.commit([WorkspaceCreated("w", {})], Answer())
        store.commit([], lambda error: store.commit([JobPushed(job(0))], answer))
        raise RuntimeError("a mistake of the caller")

    store.commit([], then)
    assert answer.wait() is None
    assert store.read("w", 0) == job(0)


def test_caller_waits_while_too_much_is_queued(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 10_000)
    answers = [Answer() for _ in range(30)]
    returned: list[int] = []

    def push() -> None:
        for number, answer in enumerate(answers):
            store.commit([], answer)
            returned.append(number)

    commit(store)
    with held(store):
        thread = threading.Thread(target=push)
        thread.start()
        thread.join(0.2)
        assert len(returned) == 10  # of a bit more than a thousand bytes each
    thread.join(WAIT)
    assert [answer.wait() for answer in answers] == [None] * 30


def test_caller_is_refused_where_the_disk_takes_nothing(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1)
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    with held(store):
        store.commit([], Answer())
        assert "Nothing could be written for 0.01 s" in str(commit(store))
    monkeypatch.setattr(module, "PATIENCE", WAIT)


def test_close_writes_what_waits_and_then_nothing(path: Path) -> None:
    store = SqliteStore(path)
    with held(store):
        store.commit([WorkspaceCreated("w", {})], answer := Answer())
        closer = threading.Thread(target=store.close)
        closer.start()
    closer.join(WAIT)
    assert answer.wait() is None
    assert "closed" in str(commit(store, WorkspaceCreated("v", {})))
    with pytest.raises(StoreError, match="closed"):
        store.load()
    assert sorted(file.name for file in path.parent.iterdir()) == ["store.db", "store.db.lock"]
    with contextlib.closing(SqliteStore(path)) as again:
        assert [workspace.name for workspace in again.load()] == ["w"]


def test_store_can_be_closed_by_what_follows_a_commit(store: SqliteStore) -> None:
    store.commit([], lambda error: store.close())
    store.close()
    assert "closed" in str(commit(store, WorkspaceCreated("v", {})))


def test_full_disk_is_an_error_and_no_acknowledgement(store: SqliteStore) -> None:
    commit(store, WorkspaceCreated("w", {}))
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages + 4}")
    answers = [Answer() for _ in range(3)]
    with held(store):
        for number, (answer, size) in enumerate(zip(answers, (10, 10**6, 10), strict=True)):
            store.commit([JobPushed(job(number, "x" * size))], answer)
    first, second, third = (answer.wait() for answer in answers)
    assert (first, third) == (None, None)
    assert isinstance(second, StoreError)
    assert "full. Make room on the disk." in str(second)
    assert [record.number for record in store.load()[0].jobs] == [0, 2]
    store._writer.execute("PRAGMA max_page_count = 1000000")
    assert commit(store, JobPushed(job(1, "x" * 10**6))) is None


def test_file_that_nobody_may_write_any_more_is_an_error(store: SqliteStore) -> None:
    commit(store, WorkspaceCreated("w", {}))
    store._writer.execute("PRAGMA query_only = ON")
    assert "Make it and its folder writable" in str(commit(store, JobPushed(job(0))))
    store._writer.execute("PRAGMA query_only = OFF")
    assert commit(store, JobPushed(job(0))) is None


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no modes")
def test_files_are_for_their_user_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        with contextlib.closing(SqliteStore(path)) as store:
            commit(store, WorkspaceCreated("w", {}))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("store.db", "store.db-wal", "store.db-shm", "store.db.lock"), 0o600)
    path.chmod(0o644)
    with pytest.raises(StoreError, match=r"open to other users .* chmod 600"):
        SqliteStore(path)


def test_second_server_is_told_who_has_the_store(store: SqliteStore, path: Path) -> None:
    with pytest.raises(StoreError, match=rf"The server of process {os.getpid()} has it"):
        SqliteStore(path)
    path.with_name("store.db.lock").write_bytes(b"")  # that process has not come so far
    with pytest.raises(StoreError, match="The server of another process has it"):
        SqliteStore(path)
    assert commit(store, WorkspaceCreated("w", {})) is None


def other_program(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE t (c)")


def newer_version(path: Path) -> None:
    SqliteStore(path).close()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 5")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_program, "It belongs to another program. Give another path"),
        (newer_version, "It has version 5, this bgpy knows 4. Use the bgpy that wrote it, or give another path"),
        (lambda path: path.write_bytes(b"no database" * 100), "It belongs to another program: give another path"),
        (lambda path: path.mkdir(), "Give the path of a file"),
        (lambda path: path.parent.rmdir(), "No such file or directory. Make its folder first"),
    ],
    ids=["another program's", "newer", "no database", "folder", "no folder"],
)
def test_file_that_is_no_store_is_left_as_it_is(path: Path, make: Callable[[Path], object], message: str) -> None:
    make(path)
    if path.is_file():
        path.chmod(0o600)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError) as caught:
        SqliteStore(path)
    assert message in str(caught.value)
    assert caught.value.path == str(path)
    assert before is None or path.read_bytes() == before


def test_place_where_sqlite_cannot_share_its_log_is_refused() -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as nowhere:
        with pytest.raises(StoreError, match=r"SQLite cannot share its log there\. Give a path on a disk of this machine"):
            module._prepare(nowhere, "nowhere", "NORMAL")


def test_empty_file_becomes_a_store_and_full_is_taken_as_said(path: Path) -> None:
    path.touch(mode=0o600)
    with contextlib.closing(SqliteStore(path, "FULL")) as store:
        assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)
        assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with pytest.raises(ValueError, match="'NORMAL' or 'FULL'"):
        SqliteStore(path, "OFF")


PUSHER = """if True:
    import os, sys, threading
    from bgpy.tasks.workspace.jobs import JobRecord
    from bgpy.tasks.workspace.records import JobPushed, WorkspaceCreated
    from bgpy.tasks.workspace.store import SqliteStore
    store, guard, numbers = SqliteStore(sys.argv[1]), threading.Lock(), iter(range(10**9))
    (workspace,) = store.load() or [None]
    if workspace is None:
        store.commit([WorkspaceCreated("w", {})], lambda error: None)
    first = workspace.next_number if workspace else 0

    def push():
        while True:
            with guard:
                number = first + next(numbers)
                record = JobRecord("w", number, "script", "x" * 100, identity=(b"client", 0, number))
                store.commit([JobPushed(record)], lambda error, number=number: os.write(1, b"no" if error else b"%d\\n" % number))

    threads = [threading.Thread(target=push) for _ in range(3)]
    for thread in threads:
        thread.start()
    """


@pytest.mark.process
def test_kill_loses_nothing_that_was_acknowledged_and_keeps_nothing_twice(path: Path) -> None:
    acknowledged: list[int] = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for lines in (1, 50, 2000):  # the same store thrice, killed sooner and later
        command = [sys.executable, "-c", PUSHER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            for _ in range(lines):
                acknowledged.append(int(process.stdout.readline()))
            with pytest.raises(StoreError, match=rf"The server of process {process.pid} has it"):
                SqliteStore(path)
            process.kill()
            # What came through the pipe whole was acknowledged, however short before the end.
            acknowledged += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
        assert process.returncode == -signal.SIGKILL
        with contextlib.closing(SqliteStore(path)) as store:
            (workspace,) = store.load()
            numbers = [record.number for record in workspace.jobs]
            assert numbers == list(range(len(numbers))), "a job is missing between two others, or is there twice"
            assert acknowledged == sorted(set(acknowledged))
            assert set(acknowledged) <= set(numbers)
            assert workspace.next_number == len(numbers)
            assert store.find((b"client", 0, acknowledged[-1])) == ("w", acknowledged[-1])


@pytest.mark.parametrize(
    ("version", "added"), [(1, ["call", "value_type", "nulls"]), (2, ["value_type", "nulls"]), (3, ["nulls"])]
)
def test_a_store_of_an_earlier_version_is_taken_over(path: Path, version: int, added: list[str]) -> None:
    with contextlib.closing(SqliteStore(path)) as store:
        commit(store, WorkspaceCreated("w", {}))
        commit(store, JobPushed(job(0)))
    with contextlib.closing(sqlite3.connect(path)) as other:
        for column in added:
            other.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
        other.execute(f"PRAGMA user_version = {version}")
        other.commit()
    call = Call("m:C", "deploy", {"path": "p"})
    with contextlib.closing(SqliteStore(path)) as store:
        commit(store, JobPushed(job(1, call=call)))
        ended = job(0, state=JobState.DONE, value=Value("a,b", None, "DataFrame"), ended=1.0)
        commit(store, JobEnded(ended))
        assert [(record.call, record.value) for record in store.load()[0].jobs] == [(None, ended.value), (call, None)]


def test_reserved_numbers_are_not_given_again(store: SqliteStore) -> None:
    commit(store, WorkspaceCreated("w", {}))
    commit(store, NumbersReserved("w", 1000))
    commit(store, JobPushed(job(5)))
    assert store.load()[0].next_number == 1000
