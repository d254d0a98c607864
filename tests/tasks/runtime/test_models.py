"""Predictions of all that can predict, on data of all kinds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bgpy.errors import ModelDataError, ModelError
from bgpy.tasks.runtime import models
from bgpy.tasks.runtime.models import predict, read_data

pd: Any = pytest.importorskip("pandas")


class Given:
    """A model that keeps what it was given."""

    def __init__(self, **about: Any) -> None:
        vars(self).update(about)

    def predict(self, data: Any) -> Any:
        self.data = data
        return len(data)


def given(data: Any, **about: Any) -> Any:
    """Return what a model is given of data."""
    model = Given(**about)
    predict("model", model, data)
    return model.data


def test_predict_gets_lists_of_numbers_as_an_array() -> None:
    for data, dtype in (([[1, 2]], "int64"), ([[1, 2.5]], "float64"), ([[[True]]], "bool"), ([1, 2, 3], "int64")):
        array = given(data)
        assert (type(array), str(array.dtype), array.tolist()) == (np.ndarray, dtype, data)
    missing = given([[1, None]])
    assert missing.dtype == float
    assert np.isnan(missing).tolist() == [[False, True]]


@pytest.mark.parametrize("data", [["a", "b"], [[1], [1, 2]], [[1, "a"]], [{"a": 1}], "text", 5, None, [None, {}]])
def test_predict_gets_all_else_as_it_is(data: Any) -> None:
    model = Given()
    model.predict = lambda given: [given is data]  # type: ignore[method-assign]
    assert predict("model", model, data) == [True]


def test_a_dict_of_numbers_is_one_of_arrays() -> None:
    found = given({"a": [[1], [2]], "b": [[3], [4]]})
    assert {name: (type(array), array.shape) for name, array in found.items()} == dict.fromkeys("ab", (np.ndarray, (2, 1)))
    assert given({"a": [1], "b": "x"}) == {"a": [1], "b": "x"}


@pytest.mark.parametrize("data", [[{"b": 2, "a": 1, "other": "x"}], {"a": 1, "b": 2}], ids=["dicts", "one dict"])
def test_dicts_become_a_table_with_the_features_that_the_model_was_fitted_with(data: Any) -> None:
    table = given(data, feature_names_in_=np.array(["a", "b"], object))
    assert (list(table.columns), table.to_numpy().tolist()) == (["a", "b"], [[1, 2]])


def test_a_dict_of_columns_is_as_many_instances() -> None:
    table = given({"b": [2, 4], "a": [1, 3], "other": ["x", None]}, feature_names_in_=["a", "b"])
    assert (list(table.columns), table.to_numpy().tolist()) == (["a", "b"], [[1, 2], [3, 4]])
    with pytest.raises(ModelDataError, match="different lengths"):
        given({"a": [1, 2], "b": [3]}, feature_names_in_=["a", "b"])


def test_a_feature_that_the_data_lack_is_named() -> None:
    with pytest.raises(ModelDataError, match=r"no column 'b'; the model was fitted with a, b\."):
        given([{"a": 1}], feature_names_in_=["a", "b"])


def test_one_instance_is_a_batch_of_one_where_the_model_tells_what_an_instance_is() -> None:
    assert given([1, 2], n_features_in_=2).tolist() == [[1, 2]]
    assert given([1, 2, 3], n_features_in_=1).tolist() == [[1], [2], [3]]
    assert given([1, 2, 3], n_features_in_=2).tolist() == [1, 2, 3]
    assert given([1, 2], input_shape=(None, 2)).tolist() == [[1, 2]]
    assert given([[1, 2], [3, 4]], input_shape=(None, 2, None)).tolist() == [[[1, 2], [3, 4]]]
    assert given([[1, 2]], input_shape=(None, 2)).tolist() == [[1, 2]]
    assert given([[1, 2]], input_shape=[(None, 2)]).tolist() == [[1, 2]]


def test_instances_of_another_shape_than_the_models_are_told() -> None:
    with pytest.raises(
        ModelDataError, match=r"An instance for the model has the shape \[2, \?\], each of the data has \[1, 2\]\."
    ):
        given([[[1, 2]]], input_shape=(None, 2, None))


def test_a_model_that_prints_how_far_it_is_is_kept_quiet() -> None:
    class Keras:
        def predict(self, x: Any, verbose: Any = "auto") -> Any:
            return [verbose]

    assert predict("model", Keras(), [[1]]) == [0]
    assert predict("native", SimpleNamespace(predict=max), [[1, 2]]) == [1, 2]  # of which nobody can tell what it takes


def test_a_callable_gets_what_was_sent_and_so_does_a_class() -> None:
    data = {"rows": [1, 2]}
    assert predict("f", lambda given: given is data, data) is True
    assert predict("int", int, "5") == 5


def test_what_is_predicted_is_json_as_the_encoder_writes_it() -> None:
    assert predict("f", lambda data: np.array([[0.5, np.nan]]), 1) == [[0.5, None]]
    assert predict("f", lambda data: pd.Series([1, 2]), 1) == [1, 2]
    assert predict("f", lambda data: None, 1) is None


@pytest.mark.parametrize(
    "value", [5, "text", [1], {"predict": 1}, pd.DataFrame({"a": [1]})], ids=lambda value: type(value).__name__
)
def test_what_cannot_predict_is_no_model(value: Any) -> None:
    with pytest.raises(ModelError, match=f"'x' is no model: its type {type(value).__name__} has no method predict"):
        predict("x", value, [[1]])


def test_too_much_is_an_error_and_what_the_model_raises_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MAX_PREDICTED", 100)
    with pytest.raises(ModelDataError, match="more than 100 bytes of JSON"):
        predict("f", lambda data: list(range(100)), 1)
    with pytest.raises(ZeroDivisionError):
        predict("f", lambda data: 1 / data, 0)


def write(folder: Path, name: str, content: str | bytes) -> str:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def test_a_csv_file_is_a_table_where_pandas_is_there(tmp_path: Path) -> None:
    table = read_data(write(tmp_path, "a.CSV", "\ufeffa,b\n1,x\n2.5,\n"), str(tmp_path))
    assert list(table.columns) == ["a", "b"]
    assert table["a"].tolist() == [1, 2.5]
    assert table["b"].isna().tolist() == [False, True]


def test_a_csv_file_whose_first_row_is_of_numbers_has_no_header(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "1,2\n3,4\n")
    assert read_data("a.csv", str(tmp_path)).to_numpy().tolist() == [[1, 2], [3, 4]]
    assert given(read_data("a.csv", str(tmp_path))).tolist() == [[1, 2], [3, 4]]
    assert list(given(read_data("a.csv", str(tmp_path)), feature_names_in_=["p", "q"]).columns) == ["p", "q"]
    with pytest.raises(ModelDataError, match="no column 'p'"):
        given(read_data("a.csv", str(tmp_path)), feature_names_in_=["p", "q", "r"])


def test_a_table_goes_to_a_model_by_names_else_as_numbers_else_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, "numbers.csv", "b,a,target\n1,2,3\n4,5,6\n")
    table = read_data("numbers.csv", str(tmp_path))
    assert given(table, feature_names_in_=["a", "b"]).to_numpy().tolist() == [[2, 1], [5, 4]]
    assert given(table).tolist() == [[1, 2, 3], [4, 5, 6]]
    write(tmp_path, "texts.csv", "a\nx\n")
    texts = read_data("texts.csv", str(tmp_path))
    assert given(texts) is texts
    assert predict("f", lambda data: list(data.columns), texts) == ["a"]


def test_a_csv_file_without_pandas_is_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    write(tmp_path, "a.csv", 'a,b\n1,x\n2.5,"y,\nz"\n\n,-1e3\n')
    assert read_data("a.csv", str(tmp_path)) == [{"a": 1, "b": "x"}, {"a": 2.5, "b": "y,\nz"}, {"a": None, "b": -1000.0}]
    write(tmp_path, "b.csv", "1,2\n3,4.5\n")
    assert read_data("b.csv", str(tmp_path)) == [[1, 2], [3, 4.5]]
    assert given([[1, 2]], feature_names_in_=["a", "b"]) == [[1, 2]]
    rows = [{"a": 1}]
    assert given(rows, feature_names_in_=["a"]) is rows
    np.save(tmp_path / "c.npy", np.array([1]))
    with pytest.raises(ModelDataError, match="NumPy is not installed"):
        read_data("c.npy", str(tmp_path))


def test_json_and_npy_files(tmp_path: Path) -> None:
    write(tmp_path, "a.json", json.dumps({"a": [1, None]}))
    assert read_data("a.json", str(tmp_path)) == {"a": [1, None]}
    np.save(tmp_path / "a.npy", np.array([[1.5, 2]]))
    assert read_data(str(tmp_path / "a.npy"), "/nowhere").tolist() == [[1.5, 2]]
    assert given(read_data("a.npy", str(tmp_path)), n_features_in_=2).tolist() == [[1.5, 2]]
    np.save(tmp_path / "one.npy", np.array([1.5, 2]))
    assert given(read_data("one.npy", str(tmp_path)), n_features_in_=2).tolist() == [[1.5, 2]]


class Bomb:
    """Opens a door when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("opened",)


def test_no_pickle_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("bomb.npy", np.array([Bomb()], object), allow_pickle=True)
    with pytest.raises(ModelDataError, match="allow_pickle=False"):
        read_data("bomb.npy", "")
    assert not Path("opened").exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "", "is no csv that can be read: it is empty"),
        ("a.csv", b"a,b\n\xff\xfe,1\n", "is no csv that can be read"),
        ("a.csv", "a,b\n1,2\n1,2,3,4\n", "is no csv that can be read"),
        ("a.json", "{", "is no json that can be read"),
        ("a.json", "[" * 100_000, "is no json that can be read"),
        ("a.npy", "no array", "is no npy that can be read"),
        ("a.npy", "", "is no npy that can be read"),
        ("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f8'}", "is no npy that can be read"),
        ("a.txt", "1", r"ends in \.csv, \.json, \.npy: 'a.txt' does not"),
        ("a", "1", "'a' does not"),
        ("a.pkl", "1", "'a.pkl' does not"),
    ],
)
def test_a_file_that_is_something_else_is_an_error_that_says_so(tmp_path: Path, name: str, content: Any, reason: str) -> None:
    write(tmp_path, name, content)
    with pytest.raises(ModelDataError, match=reason):
        read_data(name, str(tmp_path))


def test_a_file_that_is_none_or_too_large_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelDataError, match=r"The file 'x.csv' cannot be read: No such file or directory\."):
        read_data("x.csv", str(tmp_path))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ModelDataError, match=r"'folder.csv' is no file\."):
        read_data("folder.csv", str(tmp_path))
    with pytest.raises(ModelDataError, match="embedded null"):
        read_data("nul\x00.csv", str(tmp_path))
    monkeypatch.setattr(models, "MAX_FILE", 3)
    write(tmp_path, "large.csv", "a\n12\n")
    with pytest.raises(ModelDataError, match="has 5 bytes, the limit is 3"):
        read_data("large.csv", str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_no_file_that_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ModelDataError, match=r"'pipe.csv' is no file\."):
        read_data("pipe.csv", str(tmp_path))


def test_models_of_scikit_learn(tmp_path: Path) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    pipeline = pytest.importorskip("sklearn.pipeline")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    table = pd.DataFrame({"a": [1.0, 2, 3, 5], "b": [2.0, 1, 4, 3]})
    target = 2 * table["a"] - table["b"]
    plain = linear_model.LinearRegression().fit(table.to_numpy(), target)
    for data in ([[3, 1]], [3, 1], [[3, 1.0]]):
        assert predict("plain", plain, data) == pytest.approx([5.0])
    named = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LinearRegression()).fit(table, target)
    assert predict("named", named, [{"b": 1, "a": 3}]) == pytest.approx([5.0])
    assert predict("named", named, {"b": 1, "a": 3}) == pytest.approx([5.0])
    table.assign(y=target).iloc[:, ::-1].to_csv(tmp_path / "x.csv", index=False)
    assert predict("named", named, read_data("x.csv", str(tmp_path))) == pytest.approx(target.tolist())
    words = pipeline.make_pipeline(preprocessing.OneHotEncoder(), linear_model.LogisticRegression())
    words.fit(pd.DataFrame({"word": ["yes", "no"] * 4}), [1, 0] * 4)
    assert predict("words", words, [{"word": "no"}, {"word": "yes"}]) == [0, 1]
    with pytest.raises(ValueError, match="X has 3 features"):
        predict("plain", plain, [[1, 2, 3]])


@pytest.mark.slow
def test_models_of_keras(capfd: pytest.CaptureFixture[str]) -> None:
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    capfd.readouterr()
    assert predict("model", model, [[1, 2], [3, 4]]) == [[3.0], [7.0]]
    assert predict("model", model, [1, 2]) == [[3.0]]
    assert capfd.readouterr().out == ""
    with pytest.raises(ModelDataError, match=r"has the shape \[2\], each of the data has \[3\]"):
        predict("model", model, [[1, 2, 3]])
    inputs = {name: keras.Input((1,), name=name) for name in "ab"}
    added = keras.Model(inputs, keras.layers.Add()(list(inputs.values())))
    assert predict("added", added, {"a": [[1], [2]], "b": [[3], [4]]}) == [[4.0], [6.0]]
