"""Variables as a person looks at them: what there is, windows of rows, statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.servers import running_server

from bgpy.errors import RefusedError
from bgpy.tasks.workspace import Workspaces, workspace_tasks
from bgpy.tasks.workspace.face import Workspace
from bgpy.tasks.workspace.inspector import MAX_LISTED, Inspector


@pytest.fixture(scope="module")
def workspace() -> Iterator[Workspace]:
    with running_server(workspace_tasks()) as served:
        yield Workspaces(served.client()).create("lab", "thread")


def test_the_listing_has_neither_modules_nor_functions_and_makes_no_values() -> None:
    class Silent:
        def __str__(self) -> str:
            raise AssertionError("nobody asked for it")

    namespace: dict[str, Any] = {"__name__": "__main__", "pytest": pytest, "f": len, "kind": Silent, "x": Silent(), "y": [1, 2]}
    assert Inspector(namespace).listing({}) == {
        "listed": [{"name": "x", "type": "Silent", "shape": None}, {"name": "y", "type": "list", "shape": [2]}],
        "left_out": 0,
    }


def test_of_very_many_variables_the_rest_is_counted_and_found_all_the_same() -> None:
    inspector = Inspector({f"v{number}": number for number in range(MAX_LISTED + 5)})
    found = inspector.listing({})
    assert (len(found["listed"]), found["left_out"]) == (MAX_LISTED, 5)
    assert inspector.value({"name": f"v{MAX_LISTED + 4}"})["value"] == MAX_LISTED + 4


def test_a_variable_that_is_none_is_found_and_a_missing_one_is_not() -> None:
    inspector = Inspector({"nothing": None})
    assert inspector.value({"name": "nothing"})["found"]
    assert inspector.value({"name": "something"}) == {"found": False}
    assert inspector.statistics({"name": "something"}) == {"found": False}


def test_a_table_is_shown_by_rows_and_described_by_columns(workspace: Workspace) -> None:
    np = pytest.importorskip("numpy")
    workspace.variables["table"] = np.arange(20_000).reshape(10_000, 2)
    assert workspace.variables.overview() == [{"name": "table", "type": "ndarray", "shape": [10_000, 2]}]
    shown = workspace.variables.show("table", (3, 5))
    assert (shown["value"], shown["window"], shown["truncated"]) == ([[6, 7], [8, 9]], [3, 5], False)
    assert workspace.variables.show("table")["window"] == [0, 1000]
    statistics = workspace.variables.statistics("table")
    assert [(column["min"], column["max"]) for column in statistics["columns"]] == [(0, 19_998), (1, 19_999)]


@pytest.mark.parametrize("look", ["show", "statistics"])
def test_a_variable_that_is_not_there_is_refused_by_name(workspace: Workspace, look: str) -> None:
    with pytest.raises(RefusedError, match="'lab' has no variable 'missing'") as caught:
        getattr(workspace.variables, look)("missing")
    assert caught.value.field == "variable"


def test_a_value_without_columns_has_no_statistics(workspace: Workspace) -> None:
    workspace.variables["number"] = 5
    with pytest.raises(RefusedError, match="no statistics of a value of the type int"):
        workspace.variables.statistics("number")
