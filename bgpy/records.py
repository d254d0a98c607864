"""
Find the running servers of this user on this machine, by name or address.

Each server has three files in a private folder of this host and boot. Its key is its name, or "+" and part of its instance id::

    KEY.lock    locked by the server from before it binds until it ends; who gets this lock knows that the server is dead
    KEY.json    the record: where the server is; never its token
    KEY.start   locked by a starter while it looks for the server, spawns it and waits for it

The system drops a lock with its process, so a killed server and a reused pid mislead nobody. A record is written and removed
only by who holds the lock. The lock file of a name is never removed: two processes could lock two files of one name. An unnamed
server's is removed with its record, as its key, a random number, is never used again. To ask whether a lock is held one must take
it for an instant; so that a server that starts just then does not meet the asker's lock, both work under the lock of the folder.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import NamedTuple

from bgpy.addresses import address_bytes, all_loopback, is_wildcard, resolve_addresses
from bgpy.errors import ConnectError, NameTakenError, ServerStartError
from bgpy.system import boot_name, close_locked, open_locked, open_private, private_folder, user_state_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_FOLDER_TIMEOUT = 10.0  # the folder's lock is held for a few system calls: only a stopped process holds it longer


class Record(NamedTuple):
    """Say where a server is; `start_time` is its process's, only to be compared; `started` is Unix time."""

    name: str | None
    id: str
    host: str
    port: int
    pid: int
    start_time: str
    started: float
    log_file: str | None
    python: str
    version: str


def check_name(name: str) -> str:
    """Return a server's name. Raises ValueError for one that is no safe file name, and TypeError for what is no text."""
    if not isinstance(name, str):
        raise TypeError(f"A server's name is a text, not {name!r:.100}.")
    if not _NAME.fullmatch(name):
        rule = "use 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', without a '.' in front"
        raise ValueError(f"{name!r} cannot name a server: {rule}.")
    return name


def unnamed_key(instance_id: str) -> str:
    """Give the key of a server without a name; "+" keeps it apart from all names."""
    return f"+{instance_id[:12]}"


class HeldRecord:
    """
    The hold of a running server on its key, from `Registry.hold`; it ends with `release` or with the process.

    Use it from one thread. In a forked child call `close_after_fork` and nothing else.
    """

    def __init__(self, folder: str, key: str, fd: int) -> None:
        self.key = key
        self._folder = folder
        self._fd: int | None = fd

    def publish(self, record: Record) -> None:
        """Write the record, whole at once. Raises OSError, and ValueError after `release`."""
        import json

        if self._fd is None:
            raise ValueError("The key is released: hold it again before publishing.")
        path = os.path.join(self._folder, f"{self.key}.json")
        temporary = f"{path}.new"  # one name is enough: only the holder writes, and what a killed one left is written over
        with open(open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w", encoding="utf-8") as file:
            json.dump(record._asdict(), file)
        os.replace(temporary, path)

    def release(self) -> None:
        """Remove the record and give the key free; a second call does nothing. Raises OSError."""
        fd, self._fd = self._fd, None
        if fd is not None:
            try:
                _remove(self._folder, self.key)
            finally:
                close_locked(fd)

    def close_after_fork(self) -> None:
        """Close a forked child's copy of the lock, so that it does not outlive the server; the server keeps its own."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)  # closing only: to unlock here would unlock the parent's too


class Registry:
    """
    The records in one folder, by default that of this user, host and boot. Safe from several threads and processes.

    Every method may raise TokenError for a folder or file that others can enter, OSError, and TimeoutError when another process
    is stopped while it holds the lock of the folder.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._given = folder

    @property
    def folder(self) -> str:
        """The folder, made at the first use."""
        if self._given is not None:
            return private_folder(self._given)
        servers = private_folder(os.path.join(private_folder(user_state_dir()), "servers"))
        return private_folder(os.path.join(servers, _machine_name()))

    def hold(self, name: str | None, instance_id: str) -> HeldRecord:
        """
        Take the key of a server that starts: its name, or where it has none one made from its instance id. Does not wait.

        Raises NameTakenError with the holder's pid where it is known, and ValueError for a bad name.
        """
        key = unnamed_key(instance_id) if name is None else check_name(name)
        folder = self.folder
        with _folder_lock(folder):
            fd = open_locked(os.path.join(folder, f"{key}.lock"))
            if fd is None:
                holder = _read(folder, key)
                raise NameTakenError(name or key, holder.pid if holder else None)
            _remove(folder, key, keep_lock=True)  # a dead predecessor's
        return HeldRecord(folder, key, fd)

    def find(self, name: str) -> Record | None:
        """Find the running server of that name; None when there is none that has published its record. Raises ValueError."""
        folder = self.folder
        with _folder_lock(folder):
            return _find(folder, check_name(name))

    def running(self) -> list[Record]:
        """List the running servers, named ones first in order of name, and clean away what dead ones left."""
        folder = self.folder
        with _folder_lock(folder):
            keys = {entry.rpartition(".")[0] for entry in os.listdir(folder) if entry.endswith(".json")}
            # A server that was killed between its lock and its record leaves an unnamed lock file.
            keys |= {entry[: -len(".lock")] for entry in os.listdir(folder) if entry.startswith("+") and entry.endswith(".lock")}
            records = [record for key in sorted(keys) if (record := _find(folder, key)) is not None]
        return sorted(records, key=lambda record: (record.name is None, record.name or "", record.started))

    def find_address(self, host: str, port: int) -> Record | None:
        """
        Find the running server at an address: the same host as it was started with, or a name or address that means the same.

        May block on the network to resolve a name.
        """
        candidates = [record for record in self.running() if record.port == port]
        for record in candidates:
            if record.host == host:
                return record
        if not candidates:
            return None
        addresses = resolve_addresses(host, port)
        here = all_loopback(addresses) or all(is_wildcard(address[0]) for _, address in addresses)
        wanted = {address_bytes(address[0]) for _, address in addresses}
        for record in candidates:
            if here and is_wildcard(record.host):
                return record
            with contextlib.suppress(ConnectError):  # the name that it was started with means nothing any more
                if wanted & {address_bytes(address[0]) for _, address in resolve_addresses(record.host, port)}:
                    return record
        return None

    @contextlib.contextmanager
    def starting(self, name: str, timeout: float) -> Iterator[None]:
        """
        Be the only one who starts the server of that name; wait up to `timeout` seconds for another one who does.

        Blocks. Raises ServerStartError when the time is up, and ValueError for a bad name.
        """
        fd = open_locked(os.path.join(self.folder, f"{check_name(name)}.start"), timeout=timeout)
        if fd is None:
            raise ServerStartError(f"another process has been starting {name!r} for {timeout:g} s")
        try:
            yield
        finally:
            close_locked(fd)


def _machine_name() -> str:
    """Name this host and boot as a folder: after a boot every pid and lock is another, and a home may be shared by many hosts."""
    import socket

    host = re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname()) or "host"
    return "-".join(filter(None, (host[:64], boot_name())))


@contextlib.contextmanager
def _folder_lock(folder: str) -> Iterator[None]:
    path = os.path.join(folder, ".lock")  # no name begins with a dot
    fd = open_locked(path, timeout=_FOLDER_TIMEOUT)
    if fd is None:
        raise TimeoutError(f"{path} has been locked for {_FOLDER_TIMEOUT:g} s: a stopped process must hold it (see lsof).")
    try:
        yield
    finally:
        close_locked(fd)


def _find(folder: str, key: str) -> Record | None:
    """Read the record of a living server; clean away a dead one's. Under the lock of the folder."""
    if not key.startswith("+") and not os.path.exists(os.path.join(folder, f"{key}.json")):
        return None  # to look for a lock would make the file, and leave one for each mistyped name
    fd = open_locked(os.path.join(folder, f"{key}.lock"))
    if fd is None:
        return _read(folder, key)
    try:
        _remove(folder, key)
    finally:
        close_locked(fd)
    return None


def _read(folder: str, key: str) -> Record | None:
    """Read a record; None when there is none, or none that this version of the package can have written."""
    import json

    try:
        with open(open_private(os.path.join(folder, f"{key}.json"), os.O_RDONLY), encoding="utf-8") as file:
            fields = json.load(file)
        return Record(**{field: fields[field] for field in Record._fields})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _remove(folder: str, key: str, *, keep_lock: bool = False) -> None:
    """Remove a record, and an unnamed server's lock file (see the top of this module). Only for who holds the lock."""
    endings = [".json", ".json.new"]
    if key.startswith("+") and not keep_lock:
        endings.append(".lock")
    for ending in endings:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, key + ending))
