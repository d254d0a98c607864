"""
Searching the public names of modules: each search imports them in a worker of its own, which ends with it.

What an import writes goes to that worker's output, which nobody reads. One that fails, kills its process or takes too long is
told by the name of the library, and the others are searched all the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from bgpy.errors import OverloadedError, RefusedError
from bgpy.tasks.requests.commands import MAX_LIBS, MAX_TEXT
from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.jobs import JobRecord, JobState
from bgpy.tasks.workspace.workspace import Workspace
from bgpy.tasks.workspace.workspaces import Workspaces

#: What searches, in the worker.
HOST = "bgpy.tasks.requests.names:Searcher"
#: Names that one search returns.
MAX_RESULTS = 500
#: Searches at once.
MAX_SEARCHES = 4
#: Seconds for the import of one library and the search in it, and for all of a search.
IMPORT_TIMEOUT = 10.0
SEARCH_TIMEOUT = 30.0
#: Characters that are told of what an import has raised.
_MAX_REASON = 300


class Search:
    """
    Search modules. Thread-safe.

    Parameters
    ----------
    workspaces
        Make the workers.
    """

    def __init__(
        self, workspaces: Workspaces, *, import_timeout: float = IMPORT_TIMEOUT, search_timeout: float = SEARCH_TIMEOUT
    ) -> None:
        self._workspaces = workspaces
        self._import_timeout = import_timeout
        self._search_timeout = search_timeout
        self._room = threading.BoundedSemaphore(MAX_SEARCHES)

    def search(self, lib: str | Sequence[str], text: str) -> dict[str, Any]:
        """
        Return the public names in libraries that contain a text; blocks for the imports.

        Returns
        -------
        answer
            ``status``, "Ok" if one library could be searched; ``message``, which names those that could not; ``data``, a list of
            ``lib``, ``name``, ``kind``, ``signature``, ``doc``.

        Raises
        ------
        RefusedError
            No library, too many, or a text that is too long.
        OverloadedError
            Too many searches run.
        """
        libs = list(dict.fromkeys([lib] if isinstance(lib, str) else lib))
        if not 0 < len(libs) <= MAX_LIBS:
            raise RefusedError(f"The field 'lib' has the names of 1 to {MAX_LIBS} modules", "lib")
        if len(text) > MAX_TEXT or any(len(name) > MAX_TEXT for name in libs):
            field = "text" if len(text) > MAX_TEXT else "lib"
            raise RefusedError(f"The field {field!r} has at most {MAX_TEXT} characters in a text", field)
        if not self._room.acquire(blocking=False):
            raise OverloadedError(f"{MAX_SEARCHES} searches run, which are the most")
        try:
            return merge(self._ask(libs, text), text)
        finally:
            self._room.release()

    def _ask(self, libs: list[str], text: str) -> dict[str, dict[str, Any] | str]:
        """Return by library what was found in it, or why it could not be searched."""
        found: dict[str, dict[str, Any] | str] = {name: f"{name!r} is no name of a module" for name in libs}
        names = [name for name in libs if all(part.isidentifier() for part in name.split("."))]
        if not names:
            return found
        deadline = time.monotonic() + self._search_timeout
        workspace = self._workspaces.create_unlisted("search", on_crash="continue")
        try:
            jobs = {name: self._push(workspace, name, text) for name in names}
            for name, job in jobs.items():
                workspace.wait(job, max(deadline - time.monotonic(), 0.0))
                found[name] = self._read(name, workspace.record(job))
        finally:
            self._workspaces.release(workspace)
        return found

    def _push(self, workspace: Workspace, name: str, text: str) -> int:
        call = Call(HOST, "search", {"lib": name, "text": text, "limit": MAX_RESULTS})
        return workspace.call(call, name, time_limit=self._import_timeout)

    def _read(self, name: str, record: JobRecord) -> dict[str, Any] | str:
        if record.state is JobState.DONE and record.value is not None:
            found: dict[str, Any] = record.value.json
            return found
        if record.state is JobState.TIMED_OUT:
            return f"{name!r} could not be imported within {self._import_timeout:g} s"
        if not record.state.ended:
            return f"{name!r} was not searched: the search has taken {self._search_timeout:g} s, or the server ends"
        if record.error is None:
            return f"{name!r} could not be searched: it is {record.state.value}"
        kind, message = record.error["type"], record.error["message"]
        if kind == "ModuleNotFoundError" and message == f"No module named {name!r}":
            return f"There is no module {name!r}"
        reason = " ".join(": ".join(part for part in (kind, message) if part).split())  # in one line
        return f"{name!r} could not be imported: {reason}"[:_MAX_REASON].rstrip(".")


def merge(found: dict[str, dict[str, Any] | str], text: str) -> dict[str, Any]:
    """Return the answer of a search from what was found in each library, or why there is nothing."""
    names = [name for each in found.values() if not isinstance(each, str) for name in each["found"]]
    # Each library's are in order, and the sort keeps it: so the first of all are those that begin with the text.
    names.sort(key=lambda name: not name["name"].rpartition(".")[2].casefold().startswith(text.casefold()))
    count = sum(each["count"] for each in found.values() if not isinstance(each, str))
    reasons = [each for each in found.values() if isinstance(each, str)]
    shown = names[:MAX_RESULTS]
    left_out = f", {count - len(shown):,} of them left out" if count > len(shown) else ""
    parts = [f"{count:,} name{'' if count == 1 else 's'}{left_out}"] if len(reasons) < len(found) else []
    return {"status": "Ok" if parts else "Error", "message": " ".join(f"{part}." for part in [*parts, *reasons]), "data": shown}
