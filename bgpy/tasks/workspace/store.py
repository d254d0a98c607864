"""
Where the records of workspaces are kept: in memory, that is nowhere, or in an SQLite file that outlives the server.

An acknowledged commit survives the death of the process. With ``synchronous="NORMAL"`` the last ones before a power cut may be
lost, with ``"FULL"`` none is; either way the file stays whole.

The file must be on a disk of this machine: the log that SQLite writes ahead (WAL) is shared through memory, which no network
file system does, and a lock there may not keep the server of another machine out. Beside it lie ``-wal`` and ``-shm`` of SQLite
and the ``.lock`` file with the pid of the server that has it; the lock itself ends with that process, however it ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from bgpy.errors import StoreError, TokenError
from bgpy.system import close_locked, open_locked, open_private
from bgpy.tasks.workspace import tables
from bgpy.tasks.workspace.jobs import Identity, JobRecord
from bgpy.tasks.workspace.records import Change, StoredWorkspace

#: Bytes of changes that wait for the disk, before whoever commits more has to wait too.
MAX_WAITING = 64 << 20
#: What a small change counts for, beside its texts.
_OVERHEAD = 1 << 10
#: Seconds that anybody waits for the disk.
PATIENCE = 30.0

_log = logging.getLogger("bgpy.workspace")

Then = Callable[[StoreError | None], None]


class Store(Protocol):
    """What keeps the records. Any thread may call it."""

    def load(self, keep: int | None = None) -> list[StoredWorkspace]:
        """
        Return what earlier servers have left; only before the first commit.

        Values and outputs of jobs where they have more than `keep` bytes together stay on the disk until `read` asks for them
        (`StoredWorkspace.left`); by default all come along. Raises StoreError.
        """

    def commit(self, changes: Sequence[Change], then: Then) -> None:
        """
        Write changes, all or none, in the order of the calls; then call `then`: with None, or with why they could not be written.

        Returns before they are written and takes of the records what is in them now. `then` is called in the order of the calls
        too, by a thread of the store's own or within this call, and must not block for long. Where too much waits already, this
        blocks until some is written, but not within a `then`: hold no lock here that a `then` takes.
        """

    def find(self, identity: Identity) -> tuple[str, int] | None:
        """Return workspace and number of the job that a request has pushed, None where none is written. Raises StoreError."""

    def read(self, workspace: str, number: int) -> JobRecord | None:
        """Return a whole record, None where the store has none. Raises StoreError."""

    def close(self) -> None:
        """Write what waits, and let go of all. Again is fine."""


class MemoryStore:
    """A store that keeps nothing: the records live as long as whoever made them."""

    def load(self, keep: int | None = None) -> list[StoredWorkspace]:
        """Return nothing: no earlier server has left anything."""
        return []

    def commit(self, changes: Sequence[Change], then: Then) -> None:
        """Call `then` at once."""
        then(None)

    def find(self, identity: Identity) -> tuple[str, int] | None:
        """Return None: whoever made the records knows."""
        return None

    def read(self, workspace: str, number: int) -> JobRecord | None:
        """Return None: whoever made the records has them."""
        return None

    def close(self) -> None:
        """Do nothing."""


class _Item(NamedTuple):
    """One call of `commit`; `refused` where it was found wrong before it came to the disk."""

    statements: Sequence[tables.Statement]
    refused: StoreError | None
    then: Then
    size: int


class SqliteStore:
    """
    A store in an SQLite file of this user alone (mode 0600), for one server at a time.

    One thread writes: whatever has queued up while it wrote becomes the next transaction, and is acknowledged after that.

    Parameters
    ----------
    path
        The file; made where there is none, in a folder that is there.
    synchronous
        As in SQLite: "NORMAL", or "FULL" for acknowledged commits that survive a power cut.

    Raises
    ------
    StoreError
        Another server has it (names its process), or it is no store, of a newer bgpy, or cannot be used; says what to do.
    """

    def __init__(self, path: str | os.PathLike[str], synchronous: str = "NORMAL") -> None:
        if synchronous not in ("NORMAL", "FULL"):
            raise ValueError(f"synchronous is 'NORMAL' or 'FULL', not {synchronous!r}.")
        # The file itself is opened without following links, so that nobody can have another one made private or filled.
        self.path = os.path.realpath(os.fspath(path))
        self._server = os.urandom(16)
        with contextlib.ExitStack() as undo:
            self._lock_fd = _lock(self.path)
            undo.callback(close_locked, self._lock_fd)
            with _explained(self.path):
                os.close(open_private(self.path, os.O_RDWR | os.O_CREAT))
                self._writer = undo.enter_context(contextlib.closing(_connect(self.path)))
                _prepare(self._writer, self.path, synchronous)
                self._reader = undo.enter_context(contextlib.closing(_connect(self.path)))
                self._reader.execute("PRAGMA query_only = ON")
            self._reading = threading.Lock()
            self._changed = threading.Condition()
            self._waiting: list[_Item] = []
            self._waiting_size = 0
            self._closing = False
            self._resources = undo
            self._thread = threading.Thread(target=self._run, name="bgpy-store", daemon=True)
            self._thread.start()
            self._resources = undo.pop_all()  # from now on the thread's

    def load(self, keep: int | None = None) -> list[StoredWorkspace]:
        """Return what earlier servers have left, see `Store.load`."""
        columns = ", ".join(f"CASE WHEN size <= :keep THEN {name} END" for name in tables.CONTENT_COLUMNS.split(", "))
        jobs = f"SELECT {tables.JOB_COLUMNS}, {columns}, size <= :keep FROM jobs WHERE workspace = :name ORDER BY number"
        names = "SELECT name, options, next_number, restarts, worker_pid, worker_start FROM workspaces ORDER BY rowid"
        found = []
        with self._read() as query:
            for name, options, next_number, restarts, pid, start_time in query(names, ()):
                rows = query(jobs, {"keep": (1 << 62) if keep is None else keep, "name": name})
                records = [tables.read_job(row[:-1]) for row in rows]
                left = frozenset(record.number for record, row in zip(records, rows, strict=True) if not row[-1])
                worker = None if pid is None else (pid, start_time)
                found.append(
                    StoredWorkspace(tables.text_in(name), tables.data_in(options), next_number, restarts, worker, records, left)
                )
        return found

    def find(self, identity: Identity) -> tuple[str, int] | None:
        """Return workspace and number of the job that a request has pushed, see `Store.find`."""
        with self._read() as query:
            rows = query("SELECT workspace, number FROM jobs WHERE identity = ?", (tables.identity_out(identity),))
        return (tables.text_in(rows[0][0]), rows[0][1]) if rows else None

    def read(self, workspace: str, number: int) -> JobRecord | None:
        """Return a whole record, see `Store.read`."""
        columns = f"{tables.JOB_COLUMNS}, {tables.CONTENT_COLUMNS}"
        with self._read() as query:
            rows = query(f"SELECT {columns} FROM jobs WHERE workspace = ? AND number = ?", (tables.text_out(workspace), number))
            return tables.read_job(rows[0]) if rows else None

    @contextlib.contextmanager
    def _read(self) -> Iterator[Callable[[str, Any], list[Any]]]:
        with self._reading, _explained(self.path):
            # Whole lists only: a cursor left open would keep SQLite from cutting its log.
            yield lambda sql, values: self._reader.execute(sql, values).fetchall()

    def commit(self, changes: Sequence[Change], then: Then) -> None:
        """Write changes, see `Store.commit`. What cannot be queued for `PATIENCE` seconds is refused within this call."""
        statements: Sequence[tables.Statement] = ()
        refused = None
        try:
            statements = tables.statements(changes, self._server)
        except Exception as error:  # noqa: BLE001 - options or values that are no plain data: told in its turn, like all else
            refused = _explain(self.path, error)
        size = sum(len(value) for _, values in statements for value in values if isinstance(value, (str, bytes)))
        item = _Item(statements, refused, then, size + _OVERHEAD)
        with self._changed:
            own = threading.current_thread() is self._thread  # which is the one that makes room
            room = own or self._changed.wait_for(lambda: self._closing or self._waiting_size < MAX_WAITING, PATIENCE)
            if room and (own or not self._closing):
                self._waiting.append(item)
                self._waiting_size += item.size
                self._changed.notify_all()
                return
        if room:
            then(StoreError(self.path, "It is closed", "Start the server again"))
        else:
            then(StoreError(self.path, f"Nothing could be written for {PATIENCE:g} s", "See whether its disk still works"))

    def close(self) -> None:
        """Write what waits, and let go of the file; blocks until then, at most `PATIENCE` seconds. Again is fine."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(PATIENCE)

    # The thread that writes.

    def _run(self) -> None:
        try:
            while items := self._next_group():
                for item, error in self._write(items):
                    try:
                        item.then(error)
                    except BaseException:  # noqa: BLE001 - no caller's mistake may end this thread
                        _log.exception("What follows a commit has failed")
        finally:
            with self._changed, self._reading:
                self._closing = True
                self._resources.close()

    def _next_group(self) -> list[_Item]:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._waiting)
            items, self._waiting, self._waiting_size = self._waiting, [], 0
            self._changed.notify_all()
            return items

    def _write(self, items: Sequence[_Item]) -> list[tuple[_Item, StoreError | None]]:
        """Write items in one transaction; where that fails, by halves, so that a bad one fails alone. Tells each one's error."""
        fit = [item for item in items if item.refused is None]
        try:
            if fit:
                self._transact(fit)
        except Exception as error:  # noqa: BLE001 - of SQLite, or of numbers that are too large for it: nothing is written
            if len(items) > 1:
                half = len(items) // 2
                return self._write(items[:half]) + self._write(items[half:])
            return [(items[0], _explain(self.path, error))]
        return [(item, item.refused) for item in items]

    def _transact(self, items: Sequence[_Item]) -> None:
        self._roll_back()  # a safety net, for where that was not possible the last time
        execute = self._writer.execute
        execute("BEGIN IMMEDIATE")
        try:
            for item in items:
                for sql, values in item.statements:
                    execute(sql, values)
            execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._writer.in_transaction:  # some errors, as a full disk, have rolled back by themselves
            self._writer.execute("ROLLBACK")


def _connect(path: str) -> sqlite3.Connection:
    # Without isolation_level the module would open transactions by itself.
    return sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)


def _lock(path: str) -> int:
    """Take the store for this process; the lock file says who has it."""
    lock_path = f"{path}.lock"
    with _explained(path):
        fd = open_locked(lock_path)
        if fd is not None:
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
            os.write(fd, b"%d\n" % os.getpid())
            return fd
        with open(lock_path, "rb") as file:
            pid = file.read(32).strip().decode("ascii", "replace")
    holder = f"process {pid}" if pid.isdecimal() else "another process"
    raise StoreError(path, f"The server of {holder} has it", "Use that server, end it first, or give another path")


def _prepare(writer: sqlite3.Connection, path: str, synchronous: str) -> None:
    """Check that a file is a store of ours, before anything in it is changed; make the tables in an empty one."""
    application, version, tables_there = (
        writer.execute(sql).fetchone()[0]
        for sql in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    empty = not (application or version or tables_there)
    if not empty and application != tables.APPLICATION:
        raise StoreError(path, "It belongs to another program", "Give another path")
    if not empty and version != tables.VERSION and version not in tables.UPGRADES:
        known = f"It has version {version}, this bgpy knows {tables.VERSION}"
        raise StoreError(path, known, "Use the bgpy that wrote it, or give another path")
    if writer.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise StoreError(path, "SQLite cannot share its log there", "Give a path on a disk of this machine")
    writer.execute(f"PRAGMA synchronous = {synchronous}")
    writer.execute(f"PRAGMA fullfsync = {synchronous == 'FULL'}")  # macOS keeps back what was only flushed
    writer.execute("PRAGMA foreign_keys = ON")
    writer.execute("PRAGMA journal_size_limit = 67108864")  # else the log stays as large as it ever was
    for older in range(version, tables.VERSION) if not empty else ():
        writer.execute("BEGIN IMMEDIATE")
        for statement in tables.UPGRADES[older]:
            writer.execute(statement)
        writer.execute(f"PRAGMA user_version = {older + 1}")
        writer.execute("COMMIT")
    if empty:
        writer.execute("BEGIN IMMEDIATE")
        for table in tables.SCHEMA:
            writer.execute(table)
        writer.execute(f"PRAGMA application_id = {tables.APPLICATION}")
        writer.execute(f"PRAGMA user_version = {tables.VERSION}")
        writer.execute("COMMIT")


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except (sqlite3.Error, OSError, TokenError, ValueError) as error:
        raise _explain(path, error) from error


def _explain(path: str, error: Exception) -> StoreError:
    """Say what to do about an error; by its text, as Python 3.10 keeps nothing else."""
    if isinstance(error, TokenError):
        return StoreError(path, error.reason, error.mend)
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    mends = {
        "jobs.identity": "This request has pushed its job already: ask for that",
        "UNIQUE": "There is one already: give another name or number",
        "FOREIGN KEY": "Create the workspace first",
        "full": "Make room on the disk",
        "readonly": "Make it and its folder writable",
        "locked": "End whatever else writes to it",
        "closed": "Start the server again",
        "not a database": "It belongs to another program: give another path",
        "malformed": "Put it away and start with a new one; sqlite3 can .recover what is in it",
        "No such file": "Make its folder first",
        "Permission denied": "Make it and its folder writable",
        "directory": "Give the path of a file",
    }
    mend = next((mend for word, mend in mends.items() if word in text), None)
    if mend is None:
        environment = isinstance(error, (sqlite3.OperationalError, OSError))
        mend = "See whether its disk works and its folder is yours" if environment else "Only plain data can be kept"
    return StoreError(path, text[:1].upper() + text[1:], mend)
