"""
The folders of runs: each is fresh, all of them go with the server, and what a killed server has left the next one removes.

In the common folder each server has two entries of a random name: ``NAME.lock``, locked for as long as it lives, and the folder
``NAME`` with one folder for each run. The lock comes first and goes last, so whoever gets it knows that the folder has no owner.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket

from bgpy.system import close_locked, open_locked, private_folder, user_state_dir

#: Seconds for the lock of a name that nobody else has; only who sweeps may hold it, for a moment.
_LOCK_TIMEOUT = 10.0
_LOCK = ".lock"


class Folders:
    """
    A folder of this server, for those of its runs. Thread-safe.

    Parameters
    ----------
    folder
        Where it is made: a folder of this user alone, made where there is none. None for one beside the records of servers.

    Raises
    ------
    TokenError
        Others may enter the folder.
    OSError
        It cannot be made.
    """

    def __init__(self, folder: str | None = None) -> None:
        root = os.path.realpath(private_folder(os.path.abspath(folder)) if folder is not None else _default_folder())
        sweep(root)
        self.path = os.path.join(root, secrets.token_hex(8))
        self._lock = open_locked(self.path + _LOCK, timeout=_LOCK_TIMEOUT)
        if self._lock is None:
            raise TimeoutError(f"{self.path}{_LOCK} has been locked for {_LOCK_TIMEOUT:g} s by another process")
        try:
            os.mkdir(self.path, 0o700)
        except BaseException:
            self.close()
            raise

    def make(self) -> str:
        """Make a fresh folder, whose name tells nothing; raises OSError."""
        path = os.path.join(self.path, secrets.token_hex(8))
        os.mkdir(path, 0o700)
        return path

    def close(self) -> None:
        """Remove it with all that is in it. Again is fine."""
        lock, self._lock = self._lock, None
        if lock is not None:
            _remove_owned(self.path, lock)


def sweep(root: str) -> None:
    """Remove the folders of servers that have ended without doing so; raises OSError where it cannot be read."""
    for entry in os.listdir(root):
        if entry.endswith(_LOCK):
            path = os.path.join(root, entry)
            lock = open_locked(path)
            if lock is not None:
                _remove_owned(path[: -len(_LOCK)], lock)


def remove_tree(path: str) -> None:
    """Remove a folder with all that is in it, also where its owner may not write; what is in use on Windows stays."""
    with contextlib.suppress(OSError):
        os.chmod(path, 0o700)
    for folder, names, _ in os.walk(path):
        for name in names:
            inside = os.path.join(folder, name)
            if not os.path.islink(inside):
                with contextlib.suppress(OSError):
                    os.chmod(inside, 0o700)
    shutil.rmtree(path, ignore_errors=True)


def _remove_owned(path: str, lock: int) -> None:
    """Remove what belongs to a lock that is held, then the lock."""
    try:
        remove_tree(path)
        with contextlib.suppress(OSError):
            os.unlink(path + _LOCK)
    finally:
        close_locked(lock)


def _default_folder() -> str:
    """Return this machine's own folder: a home may be shared by many, whose locks are not."""
    runs = private_folder(os.path.join(private_folder(user_state_dir()), "runs"))
    host = re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname())[:64] or "host"
    return private_folder(os.path.join(runs, host))
