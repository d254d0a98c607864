"""Models on several workspaces, and the server that comes after."""

from __future__ import annotations

import threading
from pathlib import Path

from support.hosts import Desk, ModelBackends
from support.replicas import NAMES, loads, names, rows, wait_for
from support.waiting import wait_until

from bgpy.tasks.workspace.backends import Abilities


def surviving_desk(folder: Path, before: Desk | None = None) -> Desk:
    backends = ModelBackends()
    backends.abilities = Abilities(kill=True, interrupt=True, capture=True, own_main=True, memory_limit=False, survive=True)
    if before is not None:
        backends.survivors = dict(before.backends.homes)
    return Desk(backends, store=str(folder / "jobs.db"))


def test_replicas_in_processes_have_lost_their_models_and_get_the_next(tmp_path: Path) -> None:
    desk = Desk(store=str(tmp_path / "jobs.db"))
    desk.ask("create_workspace")
    desk.run("deploy", path="m", replicas=3)
    desk.run("update", path="b")
    desk.close()
    desk = Desk(store=str(tmp_path / "jobs.db"))
    try:
        assert (names(desk), desk.ask("describe")) == (NAMES, None)
        assert desk.ask("get_status", name="w.1")["replica_of"] == "w"
        desk.run("deploy", path="n")
        assert rows(desk) == dict.fromkeys(NAMES, ("ready", 3))
    finally:
        desk.close()


def test_a_replica_that_was_loading_when_the_server_ended_holds_up_nothing(tmp_path: Path) -> None:
    desk = Desk(store=str(tmp_path / "jobs.db"))
    desk.ask("create_workspace")
    desk.run("deploy", path="m", replicas=2)
    desk.run("update", path="b")
    gate = desk.backends.gate = threading.Event()
    desk.run("push_job", name="w.1", job="die", type=1)
    wait_until(lambda: rows(desk)["w.1"][0] == "loading" and desk.of("w.1").at_gate.is_set())
    desk.state["workspaces"].shut()
    gate.set()
    desk.close()
    desk = Desk(store=str(tmp_path / "jobs.db"))
    try:
        assert desk.run("deploy", path="n")["value"]["version"] == 3
        assert rows(desk) == {"w": ("ready", 3), "w.1": ("ready", 3)}
    finally:
        desk.close()


def test_replicas_that_outlive_the_server_serve_at_once(tmp_path: Path) -> None:
    before = surviving_desk(tmp_path)
    before.ask("create_workspace", type="ray")
    before.run("deploy", path="m", replicas=3)
    before.run("update", path="b")
    before.close()
    after = surviving_desk(tmp_path, before)
    try:
        assert all(after.run("predict")["state"] == "done" for _ in range(6))
        wait_for(after, 2)
        assert {after.run("predict")["name"] for _ in range(3)} == set(NAMES)
        assert [loads(after.of(name)) for name in NAMES] == [[], [], []]
        assert after.ask("describe")["max_replicas"] == 3
        assert after.run("update", path="c")["value"]["version"] == 3
        wait_for(after, 3)
    finally:
        after.close()


def test_of_replicas_that_outlive_the_server_those_that_have_not_are_mended(tmp_path: Path) -> None:
    before = surviving_desk(tmp_path)
    before.ask("create_workspace", type="ray")
    before.run("deploy", path="m", replicas=3)
    home = before.state["workspaces"]["w"].options.home
    before.close()
    del before.backends.homes[home]
    after = surviving_desk(tmp_path, before)
    try:
        wait_for(after)
        assert loads(after.of("w")) == [("deploy", "m", 1)]
    finally:
        after.close()


def test_a_model_alone_that_outlives_the_server_is_known_again(tmp_path: Path) -> None:
    before = surviving_desk(tmp_path)
    before.ask("create_workspace", type="ray")
    before.run("deploy", path="m")
    before.close()
    after = surviving_desk(tmp_path, before)
    try:
        wait_until(lambda: after.ask("describe") is not None)
        assert (after.ask("describe")["version"], loads(after.of("w"))) == (1, [])
    finally:
        after.close()


def test_replicas_whose_model_has_gone_for_good_are_destroyed_at_the_next_start(tmp_path: Path) -> None:
    desk = Desk(store=str(tmp_path / "jobs.db"))
    desk.ask("create_workspace")
    desk.run("deploy", path="m", replicas=2)
    desk.state["workspaces"].when_destroyed.clear()  # as if the server were killed in between
    desk.state["workspaces"].destroy("w")
    desk.close()
    desk = Desk(store=str(tmp_path / "jobs.db"))
    try:
        assert names(desk) == []
    finally:
        desk.close()
