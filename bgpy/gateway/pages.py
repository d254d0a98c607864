"""
The files of the page: which there are, and of what kind each is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Traversable  # moved after Python 3.10

#: A browser takes a module of JavaScript only as what it is.
KINDS = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
#: What is at the page's own address.
INDEX = "index.html"
INDEX_KIND = "text/html; charset=utf-8"


def find_files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path within `folder` and the media type of each file in it and below, but for the index; in order."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from find_files(entry, f"{name}/")
        elif (kind := KINDS.get(PurePosixPath(name).suffix)) is not None:
            yield name, kind
