"""Changes and records as rows of SQL, in a database in memory."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.tasks.workspace import tables
from bgpy.tasks.workspace.jobs import JobRecord, JobState
from bgpy.tasks.workspace.records import (
    Change,
    JobEnded,
    JobPushed,
    JobsForgotten,
    JobStarted,
    StateChanged,
    WorkerStarted,
    WorkspaceCreated,
    WorkspaceGone,
)
from bgpy.tasks.workspace.values import Packed, Value


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    yield from fresh_database()


def fresh_database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    for table in tables.SCHEMA:
        connection.execute(table)
    yield connection
    connection.close()


def apply(database: sqlite3.Connection, *changes: Change, server: bytes = b"one") -> None:
    for sql, values in tables.statements(changes, server):
        database.execute(sql, values)


def read_all(database: sqlite3.Connection) -> list[JobRecord]:
    columns = f"{tables.JOB_COLUMNS}, {tables.CONTENT_COLUMNS}"
    return [tables.read_job(row) for row in database.execute(f"SELECT {columns} FROM jobs ORDER BY workspace, number")]


def plain(record: JobRecord) -> dict[str, Any]:
    """Return a record as data that can be compared: a closed pickle by its bytes."""
    fields = {name: getattr(record, name) for name in JobRecord.__slots__}
    if record.value is not None and record.value.packed is not None:
        packed = record.value.packed
        fields["value"] = (record.value.json, bytes(packed.pickle), [bytes(buffer) for buffer in packed.buffers])
    return fields


#: NUL and halves of surrogate pairs are rare in what hypothesis makes by itself.
texts = st.text() | st.text(st.sampled_from("a\x00\udcff\ud800"), min_size=1)
times = st.none() | st.floats(0, 1e10)
data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
packed = st.none() | st.builds(Packed, st.binary(), st.lists(st.binary()).map(tuple))
records = st.builds(
    JobRecord,
    workspace=texts,
    number=st.integers(0, 2**62),
    kind=st.sampled_from(("file", "script", "clear")),
    text=texts,
    clear=st.booleans(),
    time_limit=times,
    state=st.sampled_from([state for state in JobState if state.ended]),
    value=st.none() | st.builds(Value, data, packed, runs=st.just(0)),
    error=st.none() | st.fixed_dictionaries({"type": texts, "message": texts, "traceback": texts}),
    stdout=st.binary(),
    stderr=st.binary(),
    truncated=st.booleans(),
    pushed=times,
    started=times,
    ended=times,
    identity=st.none() | st.tuples(st.binary(), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
)


@given(records)
def test_property_an_ended_job_comes_back_as_it_was(record: JobRecord) -> None:
    for database in fresh_database():
        apply(database, WorkspaceCreated(record.workspace, {}), JobPushed(record), JobEnded(record))
        (found,) = read_all(database)
        assert plain(found) == plain(record)


@given(st.dictionaries(texts, data, max_size=3), texts)
def test_property_options_come_back_as_they_were(options: dict[str, Any], name: str) -> None:
    for database in fresh_database():
        apply(database, WorkspaceCreated(name, options))
        ((found_name, found),) = database.execute("SELECT name, options FROM workspaces")
        assert tables.text_in(found_name) == name
        assert tables.data_in(found) == options


def test_pushed_job_waits_whatever_becomes_of_its_record_meanwhile(database: sqlite3.Connection) -> None:
    record = JobRecord("w", 0, "script", "1", state=JobState.DONE, stdout=b"out", ended=1.0)
    apply(database, WorkspaceCreated("w", {}), JobPushed(record))
    assert read_all(database) == [JobRecord("w", 0, "script", "1")]


def test_job_goes_its_way(database: sqlite3.Connection) -> None:
    apply(database, WorkspaceCreated("w", {}), JobPushed(JobRecord("w", 0, "script", "1", pushed=1.0)))
    apply(database, StateChanged("w", 0, JobState.HELD))
    assert read_all(database) == [JobRecord("w", 0, "script", "1", pushed=1.0, state=JobState.HELD)]
    apply(database, StateChanged("w", 0, JobState.QUEUED), JobStarted("w", 0, 2.0))
    assert read_all(database) == [JobRecord("w", 0, "script", "1", pushed=1.0, started=2.0, state=JobState.RUNNING)]


def test_forgotten_are_the_ended_jobs_below_the_number(database: sqlite3.Connection) -> None:
    apply(database, WorkspaceCreated("w", {}), WorkspaceCreated("v", {}))
    apply(database, *(JobPushed(JobRecord(name, number, "script", "")) for name in "wv" for number in range(4)))
    for number in (0, 2, 3):
        apply(database, JobEnded(JobRecord("w", number, "script", "", state=JobState.DONE)))
    apply(database, JobsForgotten("w", 3))
    assert [(record.workspace, record.number) for record in read_all(database)] == [
        ("v", 0),
        ("v", 1),
        ("v", 2),
        ("v", 3),
        ("w", 1),
        ("w", 3),
    ]


def test_next_number_never_goes_back(database: sqlite3.Connection) -> None:
    apply(database, WorkspaceCreated("w", {}), *(JobPushed(JobRecord("w", number, "script", "")) for number in (0, 7, 3)))
    apply(database, *(JobEnded(JobRecord("w", number, "script", "", state=JobState.DONE)) for number in (0, 7, 3)))
    apply(database, JobsForgotten("w", 100))
    assert database.execute("SELECT next_number FROM workspaces").fetchone() == (8,)


def test_workspace_that_is_gone_takes_its_jobs_along(database: sqlite3.Connection) -> None:
    apply(database, WorkspaceCreated("w", {}), JobPushed(JobRecord("w", 0, "script", "", identity=(b"c", 0, 1))))
    apply(database, WorkspaceGone("w"))
    assert read_all(database) == []
    apply(database, WorkspaceCreated("w", {}), JobPushed(JobRecord("w", 0, "script", "", identity=(b"c", 0, 1))))
    assert len(read_all(database)) == 1


def test_change_to_what_is_not_there_changes_nothing(database: sqlite3.Connection) -> None:
    record = JobRecord("w", 0, "script", "", state=JobState.DONE)
    apply(database, JobStarted("w", 0, 1.0), JobEnded(record), StateChanged("w", 0, JobState.HELD), JobsForgotten("w", 1))
    apply(database, WorkerStarted("w", 1, "1"), WorkspaceGone("w"))
    assert read_all(database) == []


def test_restarts_count_the_workers_after_the_first_one_of_each_server(database: sqlite3.Connection) -> None:
    apply(database, WorkspaceCreated("w", {}))
    counted = []
    for server in (b"one", b"one", b"one", b"two", b"two", b"one"):
        apply(database, WorkerStarted("w", 7, "start"), server=server)
        counted += database.execute("SELECT restarts FROM workspaces").fetchone()
    assert counted == [0, 1, 2, 2, 3, 3]
    assert database.execute("SELECT worker_pid, worker_start FROM workspaces").fetchone() == (7, "start")


def test_closed_pickle_with_buffers_of_any_shape_is_kept_closed() -> None:
    buffers = (np.arange(6).reshape(2, 3).T, np.zeros((0, 3)), bytearray(b"ab"), b"")
    unpacked = tables.unpack(tables.pack(Packed(b"no pickle", buffers)))
    assert unpacked.pickle == b"no pickle"
    assert [bytes(buffer) for buffer in unpacked.buffers] == [np.arange(6).tobytes(), b"", b"ab", b""]


@pytest.mark.parametrize(
    "change",
    [
        WorkspaceCreated("w", {"a": object()}),
        JobPushed(JobRecord("w", 0, "script", "", identity=(b"", -1, 0))),
        JobEnded(JobRecord("w", 0, "script", "", state=JobState.DONE, value=Value({1, 2}, None))),
    ],
    ids=lambda change: type(change).__name__,
)
def test_what_is_no_plain_data_is_refused_before_it_comes_to_the_disk(change: Change) -> None:
    with pytest.raises((TypeError, OverflowError, struct.error)):
        tables.statements([change], b"one")
