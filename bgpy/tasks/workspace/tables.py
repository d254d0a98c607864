"""
Records as rows of SQL: the tables, what each change writes, how rows are read. Executes nothing.

Texts are TEXT wherever UTF-8 can carry them, else BLOB in UTF-8 with surrogates (a path on Linux may be any bytes). Values are
JSON text beside the closed pickle of the same value, which nobody here opens.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from pickle import PickleBuffer
from typing import Any

from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.jobs import Identity, JobRecord, JobState
from bgpy.tasks.workspace.records import (
    Change,
    JobEnded,
    JobPushed,
    JobsForgotten,
    JobStarted,
    NumbersReserved,
    StateChanged,
    WorkerStarted,
    WorkspaceCreated,
    WorkspaceGone,
)
from bgpy.tasks.workspace.values import Packed, Value

#: "bgpy": by this SQLite files of other programs are known.
APPLICATION = 0x62677079
#: Of the tables below. Another number for each change to them.
VERSION = 4
#: What makes a store of the version before one of the next.
UPGRADES = {
    1: ("ALTER TABLE jobs ADD COLUMN call TEXT",),
    2: ("ALTER TABLE jobs ADD COLUMN value_type TEXT",),
    3: ("ALTER TABLE jobs ADD COLUMN nulls TEXT",),
}

SCHEMA = (
    """
    CREATE TABLE workspaces (
        name TEXT PRIMARY KEY NOT NULL,
        options TEXT NOT NULL,
        next_number INTEGER NOT NULL DEFAULT 0,
        restarts INTEGER NOT NULL DEFAULT 0,
        worker_pid INTEGER,
        worker_start TEXT,
        worker_server BLOB
    )
    """,
    # What is large stands last: SQLite reads a row from its start, so that lists of jobs do not pass through their output.
    """
    CREATE TABLE jobs (
        id INTEGER PRIMARY KEY,
        workspace TEXT NOT NULL REFERENCES workspaces (name) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        identity BLOB UNIQUE,
        state TEXT NOT NULL,
        kind TEXT NOT NULL,
        clear INTEGER NOT NULL,
        time_limit REAL,
        pushed REAL,
        started REAL,
        ended REAL,
        truncated INTEGER NOT NULL DEFAULT 0,
        size INTEGER NOT NULL DEFAULT 0,
        error TEXT,
        text TEXT NOT NULL,
        call TEXT,
        value_type TEXT,
        nulls TEXT,
        value TEXT,
        packed BLOB,
        stdout BLOB,
        stderr BLOB,
        UNIQUE (workspace, number)
    )
    """,
)

#: What `read_job` takes.
JOB_COLUMNS = "workspace, number, identity, state, kind, clear, time_limit, pushed, started, ended, truncated, error, text, call"
CONTENT_COLUMNS = "value, packed, value_type, nulls, stdout, stderr"

Statement = tuple[str, Sequence[Any]]
_IDENTITY = struct.Struct("!QQ")
_LENGTH = struct.Struct("!Q")
_WAITING = "('queued', 'running', 'held')"


def statements(changes: Sequence[Change], server: bytes) -> list[Statement]:
    """
    Return what writes these changes; later changes to the records that they hold do no harm.

    `server` is a random name of the server that writes. Raises whatever does not fit: ValueError, TypeError, struct.error,
    RecursionError.
    """
    return [statement for change in changes for statement in _statements(change, server)]


def _statements(change: Change, server: bytes) -> Iterator[Statement]:
    match change:
        case WorkspaceCreated(name, options):
            yield "INSERT INTO workspaces (name, options) VALUES (?, ?)", (text_out(name), data_out(options))
        case WorkspaceGone(name):
            yield "DELETE FROM workspaces WHERE name = ?", (text_out(name),)
        case JobPushed(record):
            yield from _push(record)
        case NumbersReserved(workspace, next_number):
            yield "UPDATE workspaces SET next_number = max(next_number, ?) WHERE name = ?", (next_number, text_out(workspace))
        case JobStarted(workspace, number, started):
            yield (
                "UPDATE jobs SET state = 'running', started = ? WHERE workspace = ? AND number = ?",
                (started, text_out(workspace), number),
            )
        case JobEnded(record):
            yield _end(record)
        case JobsForgotten(workspace, below):
            yield (
                f"DELETE FROM jobs WHERE workspace = ? AND number < ? AND state NOT IN {_WAITING}",
                (text_out(workspace), below),
            )
        case WorkerStarted(workspace, pid, start_time):
            # The first worker of another server is no restart.
            yield (
                "UPDATE workspaces SET restarts = restarts + (worker_server IS ?), worker_pid = ?, worker_start = ?,"
                " worker_server = ? WHERE name = ?",
                (server, pid, start_time, server, text_out(workspace)),
            )
        case StateChanged(workspace, number, state):
            yield "UPDATE jobs SET state = ? WHERE workspace = ? AND number = ?", (state.value, text_out(workspace), number)


def _push(job: JobRecord) -> Iterator[Statement]:
    name = text_out(job.workspace)
    yield (
        "INSERT INTO jobs (workspace, number, identity, state, kind, clear, time_limit, pushed, text, call)"
        " VALUES (?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?)",
        (
            name,
            job.number,
            identity_out(job.identity),
            job.kind,
            job.clear,
            job.time_limit,
            job.pushed,
            text_out(job.text),
            None if job.call is None else data_out(job.call),
        ),
    )
    yield "UPDATE workspaces SET next_number = max(next_number, ?) WHERE name = ?", (job.number + 1, name)


def _end(job: JobRecord) -> Statement:
    value = None if job.value is None else data_out(job.value.json)
    packed = None if job.value is None or job.value.packed is None else pack(job.value.packed)
    stdout, stderr = bytes(job.stdout), bytes(job.stderr)
    return (
        "UPDATE jobs SET state = ?, started = ?, ended = ?, truncated = ?, size = ?, error = ?, value = ?, packed = ?,"
        " value_type = ?, nulls = ?, stdout = ?, stderr = ? WHERE workspace = ? AND number = ?",
        (
            job.state.value,
            job.started,
            job.ended,
            job.truncated,
            len(value or "") + len(packed or b"") + len(stdout) + len(stderr),
            None if job.error is None else data_out(job.error),
            value,
            packed,
            None if job.value is None else job.value.type,
            None if job.value is None or not job.value.nulls else data_out(job.value.nulls),
            stdout,
            stderr,
            text_out(job.workspace),
            job.number,
        ),
    )


def _read_value(value: str, packed: bytes | None, kind: str | None, nulls: str | None) -> Value:
    return Value(data_in(value), None if packed is None else unpack(packed), kind, tuple(data_in(nulls)) if nulls else ())


def read_job(row: Sequence[Any]) -> JobRecord:
    """Make a record of a row of `JOB_COLUMNS` and, where they were read, `CONTENT_COLUMNS`."""
    workspace, number, identity, state, kind, clear, time_limit, pushed, started, ended, truncated, error, text, call = row[:14]
    value, packed, value_type, nulls, stdout, stderr = row[14:] or (None,) * 6
    return JobRecord(
        workspace=text_in(workspace),
        number=number,
        kind=kind,
        text=text_in(text),
        clear=bool(clear),
        time_limit=time_limit,
        state=JobState(state),
        value=None if value is None else _read_value(value, packed, value_type, nulls),
        error=None if error is None else data_in(error),
        stdout=stdout or b"",
        stderr=stderr or b"",
        truncated=bool(truncated),
        pushed=pushed,
        started=started,
        ended=ended,
        identity=identity_in(identity),
        call=None if call is None else Call(*data_in(call)),
    )


def text_out(text: str) -> str | bytes:
    """Return what keeps a text: half of a surrogate pair, as in file names that are no UTF-8, is none for SQLite."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def text_in(text: str | bytes) -> str:
    """Undo `text_out`."""
    return text.decode("utf-8", "surrogatepass") if isinstance(text, bytes) else text


def data_out(data: object) -> str | bytes:
    """Return plain data as JSON text; raises TypeError, ValueError, RecursionError. Escapes would join halves of pairs."""
    return text_out(json.dumps(data, ensure_ascii=False))


def data_in(text: str | bytes) -> Any:
    """Undo `data_out`."""
    return json.loads(text_in(text))


def identity_out(identity: Identity | None) -> bytes | None:
    """Return an identity as one key; its numbers may be larger than those of SQLite."""
    if identity is None:
        return None
    client, lane, number = identity
    return _IDENTITY.pack(lane, number) + client


def identity_in(key: bytes | None) -> Identity | None:
    """Undo `identity_out`."""
    if key is None:
        return None
    lane, number = _IDENTITY.unpack_from(key)
    return key[_IDENTITY.size :], lane, number


def pack(packed: Packed) -> bytes:
    """Return pickle and buffers in one: each behind its length."""
    parts = [PickleBuffer(part).raw() for part in (packed.pickle, *packed.buffers)]
    return b"".join(piece for part in parts for piece in (_LENGTH.pack(part.nbytes), part))


def unpack(data: bytes) -> Packed:
    """Undo `pack`, without opening the pickle."""
    parts, start = [], 0
    while start < len(data):
        (size,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size
        parts.append(data[start : start + size])
        start += size
    return Packed(parts[0], tuple(parts[1:]))
