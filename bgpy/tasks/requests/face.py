"""
Timed requests for Python programs.

Every method asks the server and blocks until it has answered; all of them are safe from several threads. What the server refuses
raises RefusedError; what stands in the way of an answer raises as `bgpy.Client.execute`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bgpy.tasks.faces import Face
from bgpy.tasks.workspace.remote import Asker, deadline_in, seconds_left

if TYPE_CHECKING:
    from bgpy.client import Client

__all__ = ["Request", "Requests"]


class Requests(Face):
    """
    The timed requests of a server.

    Parameters
    ----------
    client
        A client of a server with the task set ``bgpy.tasks.requests``; or the name of such a server, by default ``default``, as
        ``bgpy serve`` starts it. A client that is made here is closed with this object.
    """

    def __init__(self, client: Client | str | None = None) -> None:
        super().__init__(client)
        self._server = Asker(self.client)

    def start(self, connid: str | int, time: float, job: str | None = None) -> Request:
        """
        Start a request.

        Parameters
        ----------
        connid
            Names it as long as it runs: 7 and "7" are the same.
        time
            Seconds that it lives at most.
        job
            A script; the request ends with it.

        Raises
        ------
        RefusedError
            The connection id runs already, or cannot be used; the time is no positive number, or too large; too many requests or
            scripts run.
        """
        return Request(self._server, self._server.ask("start_request", connid=connid, time=time, job=job))

    def kill(self, connid: str | int) -> bool:
        """End a request, and the process of its script, at once; returns whether it ran."""
        return bool(self._server.ask("kill_request", connid=connid)["status"] == "Ok")

    def status(self) -> dict[str, float]:
        """Return the seconds that are left of each request that runs, by its connection id."""
        left: dict[str, float] = self._server.ask("get_requests")
        return left

    def watch(self, since: int | None = None) -> Iterator[dict[str, Any]]:
        """
        Yield the starts and ends of all requests, as they come, up to the end of the server.

        Parameters
        ----------
        since
            The number of the last event that was seen: what came after it is replayed first. None: only what is new.
        """
        for event in self._server.stream("watch_requests", since=since):
            if event["event"] != "alive":
                yield event

    def query_module(self, lib: str | Sequence[str], text: str) -> dict[str, Any]:
        """
        Search the public names of modules, which a worker on the server imports.

        Returns
        -------
        answer
            status, message, and data: of each name lib, name, kind, signature and doc.
        """
        libs = [lib] if isinstance(lib, str) else list(lib)
        answer: dict[str, Any] = self._server.ask("query_module", lib=libs, text=text)
        return answer


class Request:
    """A request that was started here. Made by `Requests`."""

    def __init__(self, server: Asker, started: dict[str, Any]) -> None:
        #: As it was given.
        self.connid: str | int = started["connid"]
        #: Names it among all that the server ever had.
        self.number: int = started["request"]
        self._server = server
        self._answer: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<Request {self.connid!r}>"

    def wait(self, timeout: float | None = None) -> dict[str, Any] | None:
        """
        Wait for its end.

        Parameters
        ----------
        timeout
            Seconds; None: as long as it takes.

        Returns
        -------
        answer
            ``status``: Ok, Killed, Timeout or Error; ``connid``; of one with a script ``output``, and ``value``, or ``message``
            and ``error`` where it failed. None where it runs on.
        """
        deadline = deadline_in(timeout)
        while self._answer is None:
            seconds = seconds_left(deadline)
            self._answer = self._server.ask("recall_requests", requests=[self.number], timeout=seconds)[str(self.number)]
            if not seconds:
                break
        return self._answer

    def kill(self) -> bool:
        """End it, and the process of its script, at once; returns whether it ran."""
        return self.wait(0) is None and bool(self._server.ask("kill_request", connid=self.connid)["status"] == "Ok")
