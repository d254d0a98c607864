"""Files of this user alone, and locks that end with the process that holds them, however it ends."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time

from bgpy.errors import TokenError
from bgpy.system.waiting import within

WINDOWS = os.name == "nt"


def user_state_dir() -> str:
    """Tell the folder of this user's secret, records and logs: BGPY_HOME, else the platform's place for such things."""
    home = os.environ.get("BGPY_HOME")
    if home:
        return os.path.abspath(home)
    if WINDOWS:
        return os.path.join(os.environ.get("LOCALAPPDATA") or os.path.expanduser(r"~\AppData\Local"), "bgpy")
    if sys.platform == "darwin":
        return os.path.expanduser("~/Library/Application Support/bgpy")
    state = os.environ.get("XDG_STATE_HOME", "")
    # A relative path is to be ignored (XDG base directory specification): it would mean another folder for each caller.
    return os.path.join(state if os.path.isabs(state) else os.path.expanduser("~/.local/state"), "bgpy")


def private_folder(path: str) -> str:
    """
    Make a folder for this user alone, or check that the one there is; return its path.

    Raises TokenError, which names the mend, for a folder that others own or may enter, and OSError where none can be made.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass  # checked below, whoever made it
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise TokenError(f"{path} is no folder", "Remove it, or set BGPY_HOME to a folder of yours")
    if not WINDOWS:  # there the folder inherits the access rules of the user's profile
        _check_owner(found, path, "700")
    return path


def open_private(path: str, flags: int) -> int:
    """
    Open a file of this user alone, made with mode 0600 where the flags ask for it. Links are not followed.

    Raises TokenError, which names the mend, for a file that is a link, not regular, not ours, or open to others; else OSError.
    """
    # Non-blocking: opening a FIFO that lies there would wait for its other end.
    extra = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        fd = os.open(path, flags | extra, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise TokenError(f"{path} is a link", "Remove it, and put the file itself there") from error
        raise
    try:
        check_private_file(fd, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_private_file(fd: int, path: str) -> None:
    """Check that an open file is regular, ours and closed to others. Raises TokenError, which names the mend."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise TokenError(f"{path} is no regular file", "Remove it")
    if not WINDOWS:
        _check_owner(found, path, "600")


def _check_owner(found: os.stat_result, path: str, mode: str) -> None:
    if found.st_uid != os.geteuid():
        reason = f"{path} belongs to user {found.st_uid}, not to you ({os.geteuid()})"
        raise TokenError(reason, "Remove it, or set BGPY_HOME to a folder of yours")
    if found.st_mode & 0o077:
        reason = f"{path} is open to other users (mode {stat.S_IMODE(found.st_mode):03o})"
        raise TokenError(reason, f"Run: chmod {mode} '{path}'")


def open_locked(path: str, *, timeout: float = 0) -> int | None:
    """
    Open (and make, for this user alone) a lock file and lock it; None when somebody holds it for all of `timeout` seconds.

    Blocks up to `timeout`. The lock belongs to the descriptor returned and to its copies in forked children: end it with
    `close_locked`, or in a child with `os.close`. Raises OSError or TokenError where the file cannot be used.
    """
    deadline = time.monotonic() + timeout
    while True:
        fd = open_private(path, os.O_RDWR | os.O_CREAT)
        try:
            locked = lock_file(fd)
        except BaseException:
            os.close(fd)
            raise
        if not locked:
            os.close(fd)
            if time.monotonic() >= deadline:
                return None
            # No timed lock exists. A thread waits on a descriptor of its own, and drops it should the lock come too late.
            waited = within(deadline - time.monotonic(), lambda: _wait_for_lock(path), close_locked)
            if waited is None:
                return None
            fd = waited
        if _is_file(fd, path):
            return fd
        close_locked(fd)  # its holder removed the file under us: lock the one that has the name now


def close_locked(fd: int) -> None:
    """Unlock a file and close it. The lock ends even if a forked child still holds a copy of the descriptor."""
    try:
        if WINDOWS:
            from bgpy.system import windows

            windows.unlock(fd)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def lock_file(fd: int, *, wait: bool = False) -> bool:
    """
    Lock an open file; False when it is locked and this call shall not wait. With `wait` it blocks, however long.

    The lock lasts until `close_locked`, or until the last copy of the descriptor is closed, those of forked children included.
    """
    if WINDOWS:
        from bgpy.system import windows

        return windows.lock(fd, wait=wait)
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_lock(path: str) -> int:
    fd = open_private(path, os.O_RDWR | os.O_CREAT)
    try:
        lock_file(fd, wait=True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_file(fd: int, path: str) -> bool:
    """Tell whether `path` still names this open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
