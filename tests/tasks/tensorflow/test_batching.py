"""Predictions that run as one, each with its own rows, and those that may not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.tasks.tensorflow.batching import MAX_PROOFS, RECHECK, Batcher, Query, odd_rows, same
from bgpy.tasks.tensorflow.signatures import Signature, TensorInfo

Compute = Callable[[dict[str, Any]], dict[str, Any]]
ROWS = Signature(
    "rows",
    {"x": TensorInfo("x", "float32", (None, None))},
    {"y": TensorInfo("y", "float32", (None, None)), "total": TensorInfo("total", "float32", ())},
)


class Runs:
    """A model of a function, that notes how many rows each run had."""

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.rows: list[int] = []

    def __call__(self, signature: Signature, feeds: dict[str, Any], outputs: tuple[str, ...]) -> Mapping[str, Any]:
        self.rows.append(len(next(iter(feeds.values()))))
        made = self.compute(feeds)
        return {name: made[name] for name in outputs}


def double(feeds: dict[str, Any]) -> dict[str, Any]:
    return {"y": feeds["x"] * 2, "total": feeds["x"].sum()}


def query(*rows: float, width: int = 1, outputs: tuple[str, ...] = ("y",)) -> Query:
    return Query(ROWS, {"x": np.array([[row] * width for row in rows], np.float32).reshape(len(rows), width)}, outputs)


def trusting(compute: Compute, max_rows: int = 64) -> tuple[Batcher, Runs]:
    """Return a batcher that has seen that the output y may be joined."""
    runs = Runs(compute)
    batcher = Batcher(runs, max_rows)
    batcher.answer([query(1.0), query(2.0)])
    runs.rows.clear()
    return batcher, runs


def values(answers: list[Any]) -> list[Any]:
    return [answer if isinstance(answer, Exception) else answer["y"][:, 0].tolist() for answer in answers]


def test_waiting_predictions_run_as_one_and_each_gets_its_own_rows() -> None:
    batcher, runs = trusting(double)
    assert values(batcher.answer([query(1.0), query(2.0, 3.0), query(4.0)])) == [[2.0], [4.0, 6.0], [8.0]]
    assert runs.rows == [4]


def test_runs_are_counted_once_each_and_without_those_that_failed() -> None:
    batcher, _ = trusting(double)
    assert batcher.take_runs() == 3  # two together for the proof, and each alone
    batcher.answer([query(1.0), query(2.0, 3.0), query(4.0)])
    batcher.answer([query(1.0)])
    assert (batcher.take_runs(), batcher.take_runs()) == (2, 0)

    def fail(feeds: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("no")

    batcher = Batcher(Runs(fail), 64)
    batcher.answer([query(1.0), query(2.0)])
    assert batcher.take_runs() == 0


def test_no_batch_has_more_rows_than_allowed_and_no_prediction_is_split() -> None:
    batcher, runs = trusting(double, max_rows=4)
    asked = [query(*range(1, count + 1)) for count in (3, 2, 1, 9, 2)]
    assert values(batcher.answer(asked)) == [[2.0 * row for row in range(1, count + 1)] for count in (3, 2, 1, 9, 2)]
    assert runs.rows == [3, 3, 9, 2]


def test_one_row_at_most_joins_nothing() -> None:
    runs = Runs(double)
    batcher = Batcher(runs, 1)
    batcher.answer([query(1.0), query(2.0)])
    assert runs.rows == [1, 1]
    assert not batcher.joins(ROWS)


def test_other_shapes_run_apart() -> None:
    batcher, runs = trusting(double)
    answers = batcher.answer([query(1.0), query(2.0, width=3), query(3.0), query(4.0, width=3)])
    assert values(answers) == [[2.0], [4.0], [6.0], [8.0]]
    assert [answer["y"].shape for answer in answers if not isinstance(answer, Exception)] == [(1, 1), (1, 3)] * 2
    assert runs.rows == [2, 2]


def test_an_output_without_rows_keeps_a_prediction_alone() -> None:
    batcher, runs = trusting(double)
    answers = batcher.answer([query(1.0, outputs=("total",)), query(2.0), query(3.0), query(4.0, outputs=("y", "total"))])
    assert [dict(answer) for answer in answers if not isinstance(answer, Exception)] == [
        {"total": 1},
        {"y": [[4]]},
        {"y": [[6]]},
        {"y": [[8]], "total": 4},
    ]
    assert runs.rows == [1, 2, 1]


@pytest.mark.parametrize("shape", [(2, 1), (), None])
def test_an_input_without_free_rows_keeps_a_prediction_alone(shape: Any) -> None:
    fixed = Signature("fixed", {"x": TensorInfo("x", "float32", shape)}, {"y": ROWS.outputs["y"]})
    runs = Runs(double)
    asked = [Query(fixed, {"x": np.full(shape or (2, 1), value, np.float32)}, ("y",)) for value in (1, 2)]
    Batcher(runs, 64).answer(asked)
    assert len(runs.rows) == 2


def entangle(feeds: dict[str, Any]) -> dict[str, Any]:
    return {"y": feeds["x"] - feeds["x"].mean(axis=0), "total": np.float32(0)}


def test_rows_that_depend_on_each_other_are_never_joined_again() -> None:
    runs = Runs(entangle)
    batcher = Batcher(runs, 64)
    assert batcher.joins(ROWS._replace(outputs={"y": ROWS.outputs["y"]}))
    assert values(batcher.answer([query(1.0, 3.0), query(5.0)])) == [[-1.0, 1.0], [0.0]]
    assert runs.rows == [6, 2, 1]
    assert values(batcher.answer([query(1.0, 3.0), query(5.0)])) == [[-1.0, 1.0], [0.0]]
    assert runs.rows[3:] == [2, 1]
    assert not batcher.joins(ROWS._replace(outputs={"y": ROWS.outputs["y"]}))


@pytest.mark.parametrize("rows", [(7.0, 7.0), (0.0, 0.0), (1.0, 5.0)])
def test_the_first_joined_run_has_odd_rows_for_the_proof(rows: tuple[float, float]) -> None:
    runs = Runs(double)
    batcher = Batcher(runs, 64)
    asked = [query(row) for row in rows]
    assert values(batcher.answer(asked)) == [[2 * row] for row in rows]
    assert runs.rows == [5, 1, 1]
    assert values(batcher.answer(asked)) == [[2 * row] for row in rows]
    assert runs.rows[3:] == [2]


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x - x.mean(axis=0),
        lambda x: x / max(x.max(), 1),
        lambda x: x / min(x.min(), -1),
        lambda x: x[:, : max(int((x != 0).sum(axis=1).max()), 1)],
        np.sort,
        lambda x: np.sort(x, axis=0),
    ],
    ids=["mean", "largest", "smallest", "longest", "within a row", "among rows"],
)
@pytest.mark.parametrize("first", [(255.0, 255.0), (1.0, 2.0)])
def test_whatever_came_first_each_gets_what_it_would_get_alone(compute: Any, first: tuple[float, float]) -> None:
    runs = Runs(lambda feeds: {"y": compute(feeds["x"])})
    batcher = Batcher(runs, 64)
    for asked in ([query(value, width=2) for value in first], [query(1.0, width=2), query(200.0, 3.0, width=2)]):
        alone = [runs(*each)["y"] for each in asked]
        for answer, own in zip(batcher.answer(asked), alone, strict=True):
            assert not isinstance(answer, Exception)
            np.testing.assert_allclose(answer["y"], own)


def test_the_proof_is_made_again_now_and_then() -> None:
    entangled = [False]
    runs = Runs(lambda feeds: {"y": feeds["x"] - entangled[0] * feeds["x"].mean(axis=0)})
    batcher = Batcher(runs, 64)
    batcher.answer([query(1.0), query(5.0)])
    entangled[0] = True
    answers = [values(batcher.answer([query(1.0), query(5.0)])) for _ in range(RECHECK)]
    assert answers[-1] == [[0.0], [0.0]]
    assert not batcher.joins(ROWS._replace(outputs={"y": ROWS.outputs["y"]}))


def test_a_model_that_does_not_bear_odd_rows_is_not_asked_for_ever() -> None:
    def picky(feeds: dict[str, Any]) -> dict[str, Any]:
        if (np.abs(feeds["x"]) > 100).any():
            raise ArithmeticError("too much")
        return double(feeds)

    runs = Runs(picky)
    batcher = Batcher(runs, 64)
    for _ in range(MAX_PROOFS):
        assert values(batcher.answer([query(7.0), query(8.0)])) == [[14.0], [16.0]]
    runs.rows.clear()
    assert values(batcher.answer([query(7.0), query(8.0)])) == [[14.0], [16.0]]
    assert runs.rows == [1, 1]


def test_predictions_with_texts_are_not_joined() -> None:
    texts = Signature("texts", {"t": TensorInfo("t", "string", (None,))}, {"y": ROWS.outputs["y"]})
    runs = Runs(lambda feeds: {"y": np.zeros((len(feeds["t"]), 1))})
    asked = [Query(texts, {"t": np.array([text], object)}, ("y",)) for text in (b"a", b"b c")]
    Batcher(runs, 64).answer(asked)
    assert runs.rows == [1, 1]


def test_odd_rows_differ_and_have_the_same_shapes_and_dtypes() -> None:
    feeds = {"n": np.arange(6).reshape(3, 2), "z": np.zeros((3, 2), np.float32), "b": np.array([True] * 3)}
    made = odd_rows(feeds)
    assert len(made) == 3
    for row in made:
        assert {name: (array[:1].shape, array.dtype) for name, array in feeds.items()} == {
            name: (array.shape, array.dtype) for name, array in row.items()
        }
    assert [row["z"][0, 0] for row in made] == [1, 100, -100]
    assert len(odd_rows({"n": feeds["n"]})) == 1
    extreme = {"x": np.array([[np.finfo(np.float16).max, np.nan]], np.float16)}
    assert np.isfinite([row["x"] for row in odd_rows(extreme)]).all()


def test_another_output_is_looked_at_when_it_is_first_asked_for() -> None:
    pair = Signature("pair", ROWS.inputs, {"y": ROWS.outputs["y"], "z": ROWS.outputs["y"]})
    runs = Runs(lambda feeds: {"y": feeds["x"] * 2, "z": feeds["x"] - feeds["x"].mean()})
    batcher = Batcher(runs, 64)

    def ask(*outputs: str) -> list[Any]:
        return batcher.answer([Query(pair, query(value).feeds, outputs) for value in (1.0, 5.0)])

    ask("y")
    runs.rows.clear()
    assert [answer["z"].tolist() for answer in ask("y", "z")] == [[[0.0]], [[0.0]]]
    assert runs.rows == [5, 1, 1]
    ask("y", "z")
    ask("y")
    assert runs.rows[3:] == [1, 1, 2]


def refuse_negative(feeds: dict[str, Any]) -> dict[str, Any]:
    if (feeds["x"] == -1).any():
        raise ArithmeticError("negative")
    return double(feeds)


def test_only_the_prediction_that_is_to_blame_fails() -> None:
    batcher, runs = trusting(refuse_negative)
    good, bad, other = batcher.answer([query(1.0), query(-1.0), query(3.0)])
    assert values([good, other]) == [[2.0], [6.0]]
    assert isinstance(bad, ArithmeticError)
    assert runs.rows == [3, 1, 1, 1]
    batcher.answer([query(1.0), query(2.0)])
    assert runs.rows[4:] == [2]


def test_a_model_that_bears_no_batch_is_not_given_another() -> None:
    def one_row(feeds: dict[str, Any]) -> dict[str, Any]:
        return {"y": feeds["x"].reshape(1, 1)}

    runs = Runs(one_row)
    batcher = Batcher(runs, 64)
    for _ in range(MAX_PROOFS + 1):
        assert values(batcher.answer([query(1.0), query(2.0)])) == [[1.0], [2.0]]
    assert runs.rows == [5, 1, 1] * MAX_PROOFS + [1, 1]


def test_a_result_with_other_rows_than_went_in_is_not_split() -> None:
    runs = Runs(lambda feeds: {"y": feeds["x"].sum(axis=0, keepdims=True)})
    batcher = Batcher(runs, 64)
    for _ in range(2):
        assert values(batcher.answer([query(1.0), query(2.0)])) == [[1.0], [2.0]]
    assert runs.rows == [5, 1, 1, 1, 1]


def test_inputs_with_unlike_rows_run_alone() -> None:
    two = Signature("two", {"x": ROWS.inputs["x"], "z": ROWS.inputs["x"]}, {"y": ROWS.outputs["y"]})
    runs = Runs(double)
    feeds = {"x": np.ones((1, 1), np.float32), "z": np.ones((2, 1), np.float32)}
    Batcher(runs, 64).answer([Query(two, feeds, ("y",))] * 2)
    assert runs.rows == [1, 1]


def test_an_interrupt_is_no_outcome_of_a_prediction() -> None:
    def interrupt(feeds: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    batcher = Batcher(Runs(interrupt), 64)
    for asked in ([query(1.0)], [query(1.0), query(2.0)]):
        with pytest.raises(KeyboardInterrupt):
            batcher.answer(asked)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3)), max_size=12), st.integers(1, 8))
def test_property_answers_are_those_of_one_at_a_time(shapes: list[tuple[int, int]], max_rows: int) -> None:
    asked = [query(*range(index, index + rows), width=width) for index, (rows, width) in enumerate(shapes)]
    batcher = Batcher(Runs(double), max_rows)
    for _ in range(2):
        for each, answer in zip(asked, batcher.answer(asked), strict=True):
            assert not isinstance(answer, Exception)
            np.testing.assert_array_equal(answer["y"], each.feeds["x"] * 2)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (np.float32([1, 1000]), np.float32([1.01, 1000]), True),
        (np.float32([1, 1000]), np.float32([1, 1001]), False),
        (np.float32([np.nan, np.inf]), np.float32([np.nan, np.inf]), True),
        (np.float32([np.nan]), np.float32([0]), False),
        (np.float32([np.inf]), np.float32([-np.inf]), False),
        (np.float64([1]), np.float64([1 + 1e-6]), False),
        (np.float16([1]), np.float16([1.001]), True),
        (np.int64([1]), np.int64([2]), False),
        (np.array([b"a"], object), np.array([b"a"], object), True),
        (np.float32([1]), np.float32([[1]]), False),
        (np.float32([1]), np.float64([1]), False),
    ],
)
def test_results_are_the_same_up_to_the_order_of_a_sum(one: Any, other: Any, equal: bool) -> None:
    assert same(one, other) is equal
