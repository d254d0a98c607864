"""
Files that a client sends: their names are all checked before one of them is written.

What is checked depends on no file system: a name that any of them would take for something else is refused everywhere.
"""

from __future__ import annotations

import base64
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bgpy.errors import RefusedError

#: Files of one run, characters of a name, bytes of one of its parts, bytes of all files together.
MAX_FILES = 1000
MAX_NAME = 200
MAX_PART = 255
MAX_SIZE = 64 << 20

#: What Windows takes for a device, with whatever ending.
_PORTS = frozenset(f"{device}{digit}" for device in ("com", "lpt") for digit in "0123456789¹²³")
_DEVICES = frozenset({"con", "prn", "aux", "nul", "conin$", "conout$"}) | _PORTS
#: Control characters, and halves of surrogate pairs, which no file system takes.
_CONTROL = frozenset({"Cc", "Cs"})


class Upload(NamedTuple):
    """A file that may be written: a name that has been checked, and the bytes."""

    name: str
    content: bytes


def check_upload(number: float, files: Sequence[Mapping[str, Any]], mainfile: str) -> list[Upload]:
    """
    Return the files of a request to run; nothing is written.

    Parameters
    ----------
    number
        How many there have to be.
    files
        ``filename``, ``content`` and ``encoding`` of each.
    mainfile
        The one that is run.

    Raises
    ------
    RefusedError
        The number differs, a name cannot be used, the main file is not among them, or they are too many or too large; names the
        field.
    """
    if len(files) != number:
        raise RefusedError(f"The field 'number' says {number:g}, but there are {len(files)} files", "number")
    if len(files) > MAX_FILES:
        raise RefusedError(f"A run has {MAX_FILES:,} files at most, not {len(files):,}", "files")
    names = [file["filename"] for file in files]
    check_names(names)
    if mainfile not in names:
        raise RefusedError(f"The main file {mainfile!r:.{MAX_NAME}} is not among the files", "mainfile")
    uploads = [Upload(file["filename"], _bytes_of(file)) for file in files]
    size = sum(len(upload.content) for upload in uploads)
    if size > MAX_SIZE:
        raise RefusedError(f"The files of a run have {MAX_SIZE:,} bytes at most, not {size:,}", "files")
    return uploads


def check_names(names: Iterable[str]) -> None:
    """Check file names, each by itself and all against one another; raises RefusedError."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        parts = _split(name)
        for count in range(1, len(parts)):
            folder = "/".join(parts[:count])
            _compare(name, folder, folders.setdefault(_fold(folder), folder))
        key = _fold(name)
        if key in files:
            _compare(name, name, files[key])
            raise _unusable(name, "it comes twice")
        files[key] = name
    both = files.keys() & folders.keys()
    if both:
        raise _unusable(files[min(both)], "it is a file and a folder")


def write_files(folder: str, uploads: Iterable[Upload]) -> None:
    """
    Write files into a fresh folder, which nobody else can enter.

    Raises OSError, FileExistsError for whatever is there already, links included; the caller then removes the folder.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    for upload in uploads:
        path = os.path.join(folder, *upload.name.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(os.open(path, flags, 0o600), "wb") as file:
            file.write(upload.content)


def _split(name: str) -> list[str]:
    """Return the parts of a name that leaves no folder, on no system; raises RefusedError."""
    if not 0 < len(name) <= MAX_NAME:
        raise _unusable(name, f"a file name has 1 to {MAX_NAME} characters")
    if any(unicodedata.category(character) in _CONTROL for character in name):
        raise _unusable(name, "it has a control character")
    for character in "\\:":
        if character in name:
            raise _unusable(name, f"it has the character {character!r}; folders stand before a '/'")
    if name.startswith("/"):
        raise _unusable(name, "it is not relative to the folder of the run")
    parts = name.split("/")
    for part in parts:
        _check_part(name, part)
    return parts


def _check_part(name: str, part: str) -> None:
    if part in ("", ".", ".."):
        raise _unusable(name, f"its part {part!r} is no name")
    if part.endswith((".", " ")):
        raise _unusable(name, "it has a part that ends with a dot or a space")
    # Windows looks at what stands before the first dot, without the spaces there.
    if part.partition(".")[0].rstrip(" ").lower() in _DEVICES:
        raise _unusable(name, f"{part!r} is a device on Windows")
    if len(part.encode()) > MAX_PART:
        raise _unusable(name, f"it has a part of more than {MAX_PART} bytes")


def _fold(name: str) -> str:
    """Return what is equal for names that some file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _compare(name: str, path: str, other: str) -> None:
    """Refuse a name that differs from another one only in what some file systems do not tell apart."""
    if path != other:
        raise _unusable(name, f"{path!r} and {other!r} differ in case or in the form of letters alone")


def _bytes_of(file: Mapping[str, Any]) -> bytes:
    name, content = file["filename"], file["content"]
    try:
        return base64.b64decode(content, validate=True) if file["encoding"] == "base64" else content.encode()
    except ValueError as error:
        raise RefusedError(f"The content of the file {name!r} cannot be read: {error}", "files") from None


def _unusable(name: str, why: str) -> RefusedError:
    return RefusedError(f"The file name {name!r:.{MAX_NAME + 20}} cannot be used: {why}", "files")
