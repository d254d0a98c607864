"""
Make, find and check tokens, and derive a key for each purpose from one.

The token is the one secret between a server and its clients. Nothing here puts it in an error, a log or a `repr`.
"""

from __future__ import annotations

import os

from bgpy.errors import TokenError
from bgpy.system import open_private, private_folder, user_state_dir

#: Least length of a token that may leave this machine: 128 random bits in URL-safe base 64.
MIN_LENGTH = 22
PURPOSES = ("proof", "client-to-server", "server-to-client", "tls-psk", "http-cookie")
_FILE = "token"
_VARIABLE = "BGPY_TOKEN"
#: What the environment and files have that is no UTF-8 stays what it is.
_ENCODING = ("utf-8", "surrogateescape")


def token_create() -> str:
    """Make a new token: 256 random bits as 43 characters that need no quoting in a shell or URL."""
    import secrets

    return secrets.token_urlsafe(32)


def find_token(token: str | None = None) -> str:
    """
    Find the token to use: the one given (also "", which switches it off), else BGPY_TOKEN, else this user's secret file.

    The file is made at the first use; processes that come at the same moment all get the one token. Reads and writes files;
    safe from several threads and processes.

    Raises
    ------
    TokenError
        What is given is no whole text, BGPY_TOKEN is set but empty, or the secret file cannot be trusted; says how to mend it.
    OSError
        The folder of the secret file cannot be made or read.
    """
    if token is not None:
        if not isinstance(token, str):
            raise TypeError(f"A token is text, not {type(token).__name__}.")
        if not _can_be_written(token):
            raise TokenError("The token has halves of characters, which cannot be written", "Use whole ones")
        return token
    token = os.environ.get(_VARIABLE)
    if token is None:
        return _file_token()
    if not token:
        raise TokenError(f"{_VARIABLE} is set but empty", 'Unset it, or put a token in it; to use none, say token="" in the call')
    return token


def forget_environment_token() -> str | None:
    """Take BGPY_TOKEN out of this process's environment, so that no task, job or child sees it; return what it was."""
    return os.environ.pop(_VARIABLE, None)


def check_token_strength(token: str, *, loopback: bool) -> None:
    """Refuse a token that can be guessed where others can reach the server. Raises TokenError."""
    if not loopback and len(token) < MIN_LENGTH:
        raise TokenError(
            f"A token of {len(token)} characters is too short for an address that other machines reach",
            f"Use at least {MIN_LENGTH} random characters: bgpy token makes some",
        )


def derive_key(token: str, purpose: str) -> bytes:
    """
    Derive the 32-byte key for one of `PURPOSES`, so that no secret is used for two things (docs/protocol.rst, "Keys").

    Raises ValueError for an unknown purpose.
    """
    import hmac

    if purpose not in PURPOSES:
        raise ValueError(f"Unknown purpose {purpose!r}: one of {', '.join(PURPOSES)}.")
    root = hmac.digest(token.encode(*_ENCODING), b"bgpy1 root", "sha256")
    return hmac.digest(root, purpose.encode("ascii"), "sha256")


def _can_be_written(token: str) -> bool:
    try:
        token.encode(*_ENCODING)
    except UnicodeEncodeError:
        return False  # and no more of that error, which holds the token
    return True


def _file_token() -> str:
    path = os.path.join(private_folder(user_state_dir()), _FILE)
    try:
        return _read(path)
    except FileNotFoundError:
        _make(path)
        return _read(path)  # again from the file: another process may have been first, and then its token is everybody's


def _read(path: str) -> str:
    fd = open_private(path, os.O_RDONLY)
    with open(fd, encoding="utf-8", errors="surrogateescape") as file:
        token = file.read().strip()
    if not token:
        raise TokenError(f"{path} is empty", "Remove it: the next start makes a new one")
    return token


def _make(path: str) -> None:
    """Put a new token at `path` unless there is one. The file has its name only once it is whole, and whoever is first stays."""
    temporary = f"{path}.{os.getpid()}.{os.urandom(8).hex()}"
    fd = open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with open(fd, "w", encoding="ascii") as file:
            file.write(token_create() + "\n")
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was first: the caller reads that one's token
    finally:
        os.unlink(temporary)
