"""
The files of the pages: which there are, and of what kind each is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import resources
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from bgpy.gateway.answers import Answer
from bgpy.gateway.doors import Call, Door

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


class Page:
    """
    A page and what belongs to it.

    Parameters
    ----------
    hint
        What a program reads at the page's own address.
    folders
        Those with its files; its own address has the index of the last one.
    """

    def __init__(self, hint: str, *folders: str) -> None:
        self._hint = hint.encode("ascii")
        self._folders = [resources.files("bgpy.gateway").joinpath(name) for name in folders or ("page",)]

    async def root(self, call: Call) -> Answer:
        """Answer a browser with the page, a program with the hint."""
        if not call.facts.wants_page:
            return Answer(200, self._hint, [(b"content-type", b"text/plain; charset=utf-8")])
        path: str = call.scope["path"]
        if not path.endswith("/"):  # mounted: the page's own addresses are relative to the slash
            return Answer(307, b"", [(b"location", f"{path.rpartition('/')[2]}/".encode())])
        return await _send(self._folders[-1], INDEX, INDEX_KIND, call)

    def assets(self) -> tuple[Door, ...]:
        """Return the doors of all files but the index."""
        return tuple(
            Door(f"/{name}", "GET", partial(_send, folder, name, kind), f"Of the page: {name}.", "open", answers=kind)
            for folder in self._folders
            for name, kind in find_files(folder)
        )


async def _send(folder: Traversable, name: str, kind: str, call: Call) -> Answer:
    return Answer(200, folder.joinpath(name).read_bytes(), [(b"content-type", kind.encode("ascii"))])


def find_files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path within `folder` and the media type of each file in it and below, but for the index; in order."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from find_files(entry, f"{name}/")
        elif (kind := KINDS.get(PurePosixPath(name).suffix)) is not None:
            yield name, kind
