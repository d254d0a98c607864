"""Files of Keras: traced once and run in a session, with later weights from any kind of file that fits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import models

from bgpy.errors import ModelLoadError
from bgpy.tasks.tensorflow.loading import Model, load_model, update_model

tensorflow = pytest.importorskip("tensorflow")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras

FEEDS = {"left": [[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]], "right": [[4.0, 5.0], [6.0, 7.0]]}


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    return models.keras_two_inputs(folder / "two.keras")


@pytest.fixture(scope="module")
def shared(two: Path) -> Iterator[Model]:
    model = load(two)
    yield model
    model.close()


def load(path: Path, safe_mode: bool = True) -> Model:
    return load_model(tensorflow, str(path), "/cpu:0", safe_mode)


def ask(model: Model, fetches: Any = None, **feeds: Any) -> list[Any]:
    asked = model.resolve(fetches, feeds)
    return asked.arrange(model.run(*asked.query))


def expected(path: Path, add: float = 0.0) -> list[Any]:
    """Return what Keras itself says to the feeds of these tests, with `add` added to every weight."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = keras.models.load_model(path, compile=False)
        model.set_weights([weight + add for weight in model.get_weights()])
        return [made.numpy() for made in model([np.array(value, np.float32) for value in FEEDS.values()])]


def check(model: Model, results: list[Any]) -> None:
    for made, result in zip(ask(model, **FEEDS), results, strict=True):
        np.testing.assert_allclose(made, result, rtol=1e-5)


@pytest.mark.parametrize("name", ["two.keras", "two.h5"])
def test_a_model_gives_what_keras_gives_under_its_names(folder: Path, name: str) -> None:
    path = models.keras_two_inputs(folder / f"same-{name}")
    model = load(path)
    assert (model.format, model.platform) == (path.suffix[1:], "tensorflow_keras")
    own = model.signatures["serving_default"]
    assert [(info.name, info.dtype, info.shape) for info in own.inputs.values()] == [
        ("left", "float32", (None, 3)),
        ("right", "float32", (None, 2)),
    ]
    assert [(info.name, info.shape) for info in own.outputs.values()] == [("total", (None, 4)), ("peak", (None, 1))]
    check(model, expected(path))
    np.testing.assert_allclose(ask(model, ["peak"], **FEEDS)[0], expected(path)[1], rtol=1e-5)
    model.close()


def test_inputs_and_outputs_in_dicts_have_the_names_of_their_keys(folder: Path) -> None:
    one = keras.Input((2,), name="one")
    made = keras.Model({"one": one}, {"twice": 2 * one, "same": one})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save(folder / "dict.keras")
    model = load(folder / "dict.keras")
    assert [each.tolist() for each in ask(model, ["twice", "same"], one=[[1, 2]])] == [[[2, 4]], [[1, 2]]]
    model.close()


def test_a_sequential_model_has_the_names_that_keras_gave_it(folder: Path) -> None:
    made = keras.Sequential([keras.Input((2,), name="x"), keras.layers.Dense(1, name="last", kernel_initializer="ones")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save(folder / "sequential.keras")
    model = load(folder / "sequential.keras")
    assert list(model.signatures["serving_default"].outputs) == ["last"]
    assert ask(model, "last", x=[[1, 2]])[0].tolist() == [[3]]
    model.close()


@keras.saving.register_keras_serializable("bgpy-tests")
class OwnModel(keras.Model):  # type: ignore[misc]
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dense = keras.layers.Dense(1, kernel_initializer="ones")

    def call(self, given: Any) -> Any:
        return self.dense(given)


def test_a_model_that_is_a_class_of_its_own_is_traced_as_it_was_built(folder: Path) -> None:
    made = OwnModel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made(np.zeros((1, 2), np.float32))
        made.save(folder / "own.keras")
    model = load(folder / "own.keras")
    assert [each.tolist() for each in ask(model, inputs=[[1, 2], [3, 4]])] == [[[3], [7]]]
    assert list(model.signatures["serving_default"].outputs) == ["output_0"]
    model.close()


def test_what_dropout_and_tables_of_words_need_is_there(folder: Path) -> None:
    words = keras.Input((), dtype="string", name="words")
    numbers = keras.layers.StringLookup(vocabulary=["a", "b"], name="numbers")(words)
    chance = keras.layers.Dropout(0.9, name="chance")(keras.ops.cast(numbers, "float32"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras.Model(words, [numbers, chance]).save(folder / "words.keras")
    model = load(folder / "words.keras")
    assert [each.tolist() for each in ask(model, words=["b", "a", "c"])] == [[2, 1, 0], [2.0, 1.0, 0.0]]
    model.close()


@pytest.mark.parametrize("name", ["lambda.keras", "lambda.h5"])
def test_code_in_a_file_runs_only_where_that_was_asked_for(folder: Path, name: str) -> None:
    path = models.keras_lambda(folder / name)
    with pytest.raises(ModelLoadError) as error:
        load(path)
    assert str(error.value) == (
        f"{path} has code of its own, as Lambda layers have, and loading would run it. Where you trust the file, deploy it with"
        " safe_mode=False."
    )
    model = load(path, safe_mode=False)
    assert ask(model, x=[[1, 2]])[0].tolist() == [[2, 3]]
    model.close()


@pytest.mark.parametrize("name", ["torn.keras", "torn.h5"])
def test_a_damaged_file_is_told(folder: Path, two: Path, name: str) -> None:
    whole = models.keras_two_inputs(folder / f"whole{Path(name).suffix}").read_bytes()
    for content in (b"no such thing", whole[: len(whole) // 2], b""):
        (folder / name).write_bytes(content)
        with pytest.raises(ModelLoadError, match=f"{name} cannot be loaded as an? {Path(name).suffix} file: ") as error:
            load(folder / name)
        assert "File not found" not in str(error.value)


def test_weights_alone_are_no_model(folder: Path, two: Path) -> None:
    path = models.keras_weights(two, folder / "alone.weights.h5")
    with pytest.raises(ModelLoadError, match="has weights only: deploy the model, then update it with them"):
        load(path)
    path.rename(folder / "alone.h5")
    with pytest.raises(ModelLoadError, match="has no model, at most weights"):
        load(folder / "alone.h5")


# Updates


def test_weights_of_every_kind_are_taken(shared: Model, two: Path, folder: Path, tmp_path: Path) -> None:
    loaded = keras.models.load_model(two, compile=False)
    loaded.set_weights([weight + 5 for weight in loaded.get_weights()])
    nested = tensorflow.train.Checkpoint(model=loaded, step=tensorflow.Variable(1)).write(str(tmp_path / "nested"))
    other = models.keras_two_inputs(tmp_path / "other.keras", seed=2)
    export = models.keras_two_inputs(tmp_path / "export", seed=2)
    for path, results in [
        (models.keras_weights(two, tmp_path / "a.weights.h5", 1.0), expected(two, 1.0)),
        (models.keras_weights(two, tmp_path / "checkpoint", 2.0), expected(two, 2.0)),
        (nested, expected(two, 5.0)),
        (other, expected(other)),
        (two, expected(two)),
        (export, expected(other)),
        (models.keras_two_inputs(tmp_path / "other.h5"), expected(two)),
    ]:
        assert update_model(shared, str(path)) is shared
        check(shared, results)


def other_shape(path: Path) -> Path:
    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
    total = keras.layers.Dense(4, name="total")(keras.layers.Concatenate()([left, right]))
    made = keras.Model([left, right], [total, keras.layers.Dense(3, name="peak")(total)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.name.endswith(".weights.h5"):
            made.save_weights(path)
        elif path.suffix:
            made.save(path)
        elif path.name == "export":
            made.export(path, verbose=False)
        else:
            return Path(tensorflow.train.Checkpoint(made).write(str(path)))
    return path


def test_weights_of_a_model_with_random_layers_are_taken_without_the_state_of_these(tmp_path: Path) -> None:
    x = keras.Input((2,), name="x")
    made = keras.Model(x, keras.layers.Dropout(0.5)(keras.layers.Dense(1, kernel_initializer="ones", name="y")(x)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save(tmp_path / "random.keras")
        made.set_weights([np.full(weight.shape, 3, np.float32) for weight in made.get_weights()])
        made.save_weights(tmp_path / "random.weights.h5")
    model = load(tmp_path / "random.keras")
    update_model(model, str(tmp_path / "random.weights.h5"))
    assert ask(model, x=[[1, 2]])[0].tolist() == [[12]]
    model.close()


@pytest.mark.parametrize("name", ["new.weights.h5", "new.keras", "new.h5", "export", "checkpoint"])
def test_weights_of_another_shape_are_told_by_the_first_that_differs(shared: Model, two: Path, tmp_path: Path, name: str) -> None:
    path = other_shape(tmp_path / name)
    before = ask(shared, **FEEDS)
    with pytest.raises(ModelLoadError) as error:
        update_model(shared, str(path))
    text = str(error.value)
    assert "has the shape [4, 1] in the model and [4, 3] in" in text
    assert str(path) in text
    assert ("Variable peak/kernel" in text) is (name != "checkpoint")
    check(shared, before)
    update_model(shared, str(two))
    check(shared, expected(two))


def test_weights_of_another_model_are_told(shared: Model, tmp_path: Path, folder: Path) -> None:
    before = ask(shared, **FEEDS)
    small = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, name="total")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small.save_weights(tmp_path / "small.weights.h5")
        small.save(tmp_path / "small.keras")
        left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
        total = keras.layers.Dense(4, name="total")(keras.layers.Concatenate(name="joined")([left, right]))
        peak = keras.layers.Dense(1, name="peak")(total)
        keras.Model([left, right], [total, peak, keras.layers.Dense(1)(peak)]).save_weights(tmp_path / "large.weights.h5")
    (tmp_path / "torn.weights.h5").write_bytes(b"no such thing")
    for name, reason in [
        ("small.weights.h5", f"{tmp_path / 'small.weights.h5'}"),
        ("small.keras", f"The model has 4 variables and {tmp_path / 'small.keras'} has 2: only one of them has peak/kernel."),
        ("large.weights.h5", f"The model has 4 variables and {tmp_path / 'large.weights.h5'} has 6."),
        ("torn.weights.h5", f"{tmp_path / 'torn.weights.h5'} does not fit: "),
        ("none.weights.h5", f"There is nothing at {tmp_path / 'none.weights.h5'}."),
    ]:
        with pytest.raises(ModelLoadError) as error:
            update_model(shared, str(tmp_path / name))
        assert reason in str(error.value)
        check(shared, before)
