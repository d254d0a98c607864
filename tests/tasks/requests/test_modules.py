"""Searches in real workers, with libraries of all kinds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.waiting import wait_until

from bgpy.errors import OverloadedError, RefusedError
from bgpy.tasks.requests import modules as searching
from bgpy.tasks.requests.commands import MAX_LIBS, MAX_TEXT
from bgpy.tasks.requests.modules import MAX_RESULTS, Search, merge
from bgpy.tasks.workspace.workspaces import Workspaces

LIBRARIES = {
    "good": "def push(item): 'Push.'\ndef unpush(): 'Take it back.'\n",
    "many": "\n".join(f"push_{number} = {number}" for number in range(MAX_RESULTS + 10)),
    "talks": "import os\nprint('to stdout')\nos.write(2, b'to stderr')\npush = 1\n",
    "fails": "1 / 0\n",
    "leaves": "raise SystemExit(3)\n",
    "leaves_well": "import sys\nsys.exit(0)\n",
    "leaves_late": "def __getattr__(name):\n    raise SystemExit\n__all__ = ['push']\n",
    "interrupts": "raise KeyboardInterrupt\n",
    "many_lines": "raise ValueError('one\\n\\n  two\\r\\nthree.')\n",
    "dies": "import os\nos._exit(3)\n",
    "hangs": "while True: pass\n",
    "deaf": "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass\n",
    "needs": "import nothing_of_that_name\n",
    "signs": "from pathlib import Path\nimport os\nPath(__file__).with_suffix('.pid').write_text(str(os.getpid()))\n"
    "while True: pass\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with libraries that workers find."""
    for name, source in LIBRARIES.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def workspaces(folder: Path) -> Iterator[Workspaces]:
    workspaces = Workspaces()
    yield workspaces
    workspaces.close()


@pytest.fixture
def search(workspaces: Workspaces) -> Search:
    return Search(workspaces)


def names(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["lib"], each["name"]) for each in answer["data"]]


def test_names_of_several_libraries_are_one_list_in_which_prefixes_come_first(search: Search, workspaces: Workspaces) -> None:
    answer = search.search(["good", "talks"], "push")
    assert answer["data"][0] == {"lib": "good", "name": "push", "kind": "function", "signature": "(item)", "doc": "Push."}
    assert names(answer) == [("good", "push"), ("talks", "push"), ("good", "unpush")]
    assert (answer["status"], answer["message"]) == ("Ok", "3 names.")
    assert not workspaces._unlisted  # the worker has gone


def test_what_an_import_writes_goes_nowhere(search: Search, capfd: pytest.CaptureFixture[str]) -> None:
    assert names(search.search("talks", "push")) == [("talks", "push")]
    assert capfd.readouterr() == ("", "")


def test_a_library_that_cannot_be_searched_is_named_and_the_others_are_searched(search: Search) -> None:
    libs = ["nothing_of_that_name", "fails", "leaves", "dies", "needs", "no name", "", "os.", "good", "good"]
    answer = search.search(libs, "unp")
    assert answer["status"] == "Ok"
    assert names(answer) == [("good", "unpush")]
    parts = {part.partition("'")[2].partition("'")[0]: part for part in answer["message"].split(". ")}
    assert answer["message"].startswith("1 name. There is no module 'nothing_of_that_name'. ")
    assert "'fails' could not be imported: ZeroDivisionError: division by zero" in parts["fails"]
    assert "SystemExit: 3" in parts["leaves"]
    assert "'dies' could not be" in parts["dies"]
    assert "No module named 'nothing_of_that_name'" in parts["needs"]
    for name in ("no name", "", "os."):
        assert f"{name!r} is no name of a module" in answer["message"]


@pytest.mark.parametrize(
    ("lib", "said"),
    [
        ("leaves_well", "ImportError: SystemExit: 0"),
        ("leaves_late", "ImportError: SystemExit: None"),
        ("interrupts", "KeyboardInterrupt"),
        ("many_lines", "ValueError: one two three"),
    ],
)
def test_why_a_library_could_not_be_imported_is_told_in_one_line(search: Search, lib: str, said: str) -> None:
    assert search.search([lib, "good"], "unp")["message"] == f"1 name. '{lib}' could not be imported: {said}."


@pytest.mark.parametrize("lib", ["hangs", "deaf"])
def test_an_import_that_does_not_end_is_ended(workspaces: Workspaces, lib: str) -> None:
    answer = Search(workspaces, import_timeout=1.0).search([lib, "good"], "unp")
    assert answer["message"] == f"1 name. '{lib}' could not be imported within 1 s."
    assert names(answer) == [("good", "unpush")]


def test_a_search_that_takes_too_long_is_ended_with_what_it_has(workspaces: Workspaces) -> None:
    answer = Search(workspaces, search_timeout=3.0).search(["good", "hangs", "talks"], "push")
    assert names(answer) == [("good", "push"), ("good", "unpush")]
    assert "'hangs' was not searched" in answer["message"]
    assert "'talks' was not searched" in answer["message"]


def test_nothing_found_is_no_error_and_nothing_searched_is_one(search: Search) -> None:
    assert search.search("good", "no such text") == {"status": "Ok", "message": "0 names.", "data": []}
    assert search.search("no name", "x") == {"status": "Error", "message": "'no name' is no name of a module.", "data": []}


def test_how_many_names_were_left_out_is_told(search: Search) -> None:
    answer = search.search(["many", "good"], "push")
    assert len(answer["data"]) == MAX_RESULTS
    assert answer["message"] == f"{MAX_RESULTS + 12} names, 12 of them left out."


@pytest.mark.parametrize(
    ("libs", "text", "field"),
    [
        ([], "x", "lib"),
        ([f"lib{number}" for number in range(MAX_LIBS + 1)], "x", "lib"),
        (["x" * (MAX_TEXT + 1)], "x", "lib"),
        (["good"], "x" * (MAX_TEXT + 1), "text"),
    ],
)
def test_too_much_is_refused(search: Search, libs: list[str], text: str, field: str) -> None:
    with pytest.raises(RefusedError) as refused:
        search.search(libs, text)
    assert refused.value.field == field


def test_no_more_searches_run_than_the_limit_says_and_the_end_of_the_server_ends_them(
    workspaces: Workspaces, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "MAX_SEARCHES", 1)
    search = Search(workspaces)
    answers: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: answers.append(search.search("signs", "x")))
    thread.start()
    wait_until(lambda: (folder / "signs.pid").exists())
    with pytest.raises(OverloadedError, match="1 searches"):
        search.search("good", "x")
    workspaces.shut()
    thread.join(10)
    assert not thread.is_alive()
    assert answers[0]["status"] == "Error"
    assert "the server ends" in answers[0]["message"]
    with pytest.raises(RefusedError, match="ending"):
        search.search("good", "x")


def test_a_merge_keeps_the_order_of_libraries_among_prefixes_and_among_the_others() -> None:
    def found(*names: str) -> dict[str, Any]:
        return {"count": len(names), "found": [{"name": name} for name in names]}

    answer = merge({"a": found("push_a", "unpush_a"), "b": "no b", "c": found("C.push_c", "D.unpush_c")}, "PUSH")
    assert [each["name"] for each in answer["data"]] == ["push_a", "C.push_c", "unpush_a", "D.unpush_c"]
    assert answer["message"] == "4 names. no b."
