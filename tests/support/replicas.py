"""How the replicas of a model are, as its server tells it."""

from __future__ import annotations

from typing import Any

from support.hosts import Desk, ModelBackend
from support.waiting import wait_until

NAMES = ["w", "w.1", "w.2"]


def names(desk: Desk) -> list[str]:
    found: list[str] = desk.answer({"command": "get_workspace"})["result"]
    return found


def rows(desk: Desk) -> dict[str, Any]:
    """Return the state and version of each replica."""
    known = desk.ask("describe") or {"replicas": []}  # of a server that was just started nothing, until one has answered
    return {row["workspace"]: (row["state"], row["version"]) for row in known["replicas"]}


def wait_for(desk: Desk, version: int = 1, *workspaces: str) -> None:
    """Wait until replicas are ready."""
    wanted = dict.fromkeys(workspaces or NAMES, ("ready", version))
    wait_until(lambda: rows(desk) == wanted)


def loads(backend: ModelBackend) -> list[tuple[str, str, int | None]]:
    return [(kind, given["path"], given.get("as_version")) for kind, given in backend.arguments if kind in ("deploy", "update")]
