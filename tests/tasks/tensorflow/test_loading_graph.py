"""Graphs of TensorFlow 1, asked as TFserve was asked: by collection keys and names of tensors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import models

from bgpy.errors import ModelInputError, ModelLoadError
from bgpy.tasks.tensorflow.loading import Model, load_model, update_model

tensorflow = pytest.importorskip("tensorflow")
v1 = tensorflow.compat.v1
X = [[1, 2]]
Y = [[2.5, 4.5]]
Z = [[-2.5, -4.5]]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.graph_v1(tmp_path_factory.mktemp("graph") / "model")


@pytest.fixture
def deployed(prefix: Path) -> Iterator[Model]:
    model = load(prefix)
    yield model
    model.close()


def load(path: Path | str) -> Model:
    return load_model(tensorflow, str(path), "/cpu:0", True)


def ask(model: Model, fetches: Any, feeds: Any) -> Any:
    asked = model.resolve(fetches, feeds)
    return [
        [part.tolist() for part in each] if isinstance(each, list) else each.tolist()
        for each in asked.arrange(model.run(*asked.query))
    ]


def test_collections_and_tensors_are_named_in_fetches_and_feeds(deployed: Model) -> None:
    assert ask(deployed, "output", {"input": X}) == [Y]
    assert ask(deployed, ["y", "z:0"], {"x": X}) == [Y, Z]
    assert ask(deployed, ["both", "output"], {"x:0": X}) == [[Y, Z], Y]
    assert ask(deployed, "y", {"input": X, "keep": 2}) == [[[4.5, 8.5]]]
    assert ask(deployed, None, {"input": X}) == [Y, Z]
    assert ask(deployed, "serving_default/output", {"input": X}) == [Y]


def test_a_tensor_in_the_middle_can_be_fed(deployed: Model) -> None:
    assert ask(deployed, "z", {"y": [[1, 2]]}) == [[[-1, -2]]]
    assert ask(deployed, ["y", "z"], {"y": [[1, 2]]}) == [[[1, 2]], [[-1, -2]]]
    assert ask(deployed, "both", {"both": [[[1, 2]], [[3, 4]]]}) == [[[[1, 2]], [[3, 4]]]]


def test_the_signature_is_made_of_placeholders_and_collections(deployed: Model) -> None:
    assert (deployed.format, deployed.platform, list(deployed.signatures)) == (
        "graph",
        "tensorflow_graphdef",
        ["serving_default"],
    )
    own = deployed.signatures["serving_default"]
    assert [(name, info.dtype, info.shape, info.tensor) for name, info in own.inputs.items()] == [
        ("input", "float32", (None, 2), "x:0")
    ]
    assert [(name, info.dtype, info.shape, info.tensor) for name, info in own.outputs.items()] == [
        ("output", "float32", (None, 2), "y:0"),
        ("z", "float32", (None, 2), "z:0"),
    ]


def test_wrong_names_and_values_are_told_with_what_there_is(deployed: Model) -> None:
    inputs = "The model's inputs are input: float32 [?, 2]."
    known = "The model's collections are both, input, keep, output; its outputs output, z."
    unknown = f"There is no collection and no tensor 'none'. {known} {inputs}"
    for fetches, feeds, reason in [
        (
            "none",
            {"x": X},
            unknown,
        ),
        (
            "y",
            {"none": X},
            unknown,
        ),
        ("y", {}, f"Input 'x' has no value; it takes float32. {inputs}"),
        ("y", None, f"Input 'x' has no value; it takes float32. {inputs}"),
        ("y", {"input": [[1, 2, 3]]}, f"Input 'input' takes float32 [?, 2]: the value has the shape [1, 3]. {inputs}"),
        ("y", {"x": [["a", "b"]]}, f"Input 'x' takes float32 [?, 2]: the value is string. {inputs}"),
        ("both", {"both": [1]}, f"Collection 'both' has 2 tensors: it takes a list of 2 values. {inputs}"),
        ("y", {"input": X, "x:0": [[0, 0]]}, f"'input' and 'x:0' are both x:0: it takes one value. {inputs}"),
        ("y", [1], f"feed_dict maps names to values; it is a list. {inputs}"),
        ("y", {1: 2}, "The names of tensors are texts; one is a int."),
    ]:
        with pytest.raises(ModelInputError) as error:
            ask(deployed, fetches, feeds)
        assert str(error.value) == reason


def test_what_is_fetched_needs_no_more_than_it_needs(deployed: Model) -> None:
    assert ask(deployed, "weight", {}) == [[2, 2]]
    assert ask(deployed, "keep", None) == [1]


@pytest.mark.parametrize("ending", ["", ".meta", ".index"])
def test_any_file_of_the_checkpoint_names_it(prefix: Path, ending: str) -> None:
    model = load(f"{prefix}{ending}")
    assert ask(model, "y", {"x": X}) == [Y]
    model.close()


def test_what_was_not_saved_is_initialized(tmp_path: Path) -> None:
    with v1.Graph().as_default(), v1.Session() as session:
        saved = v1.get_variable("saved", initializer=2.0)
        other = v1.get_variable("other", initializer=3.0)
        keys, words = tensorflow.constant(["a", "b"]), tensorflow.constant([1, 2], tensorflow.int64)
        table = v1.lookup.StaticHashTable(v1.lookup.KeyValueTensorInitializer(keys, words), -1)
        text = v1.placeholder(tensorflow.string, [None], "text")
        tensorflow.add(tensorflow.cast(table.lookup(text), tensorflow.float32), saved * other, name="end")
        session.run(v1.global_variables_initializer())
        v1.train.Saver([saved]).save(session, str(tmp_path / "model"))
    model = load(tmp_path / "model")
    assert list(model.signatures["serving_default"].outputs) == ["end"]
    assert ask(model, None, {"text": ["b", "c"]}) == [[8, 5]]
    update_model(model, str(tmp_path / "model"))
    model.close()


def test_signatures_of_the_meta_graph_are_taken(tmp_path: Path) -> None:
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tensorflow.float32, [None], "x")
        y = tensorflow.multiply(x, v1.get_variable("w", initializer=2.0), name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "model"))
        meta = v1.train.export_meta_graph()
        definition = v1.saved_model.signature_def_utils.predict_signature_def({"given": x}, {"made": y})
        meta.signature_def["double"].CopyFrom(definition)
        (tmp_path / "model.meta").write_bytes(meta.SerializeToString())
    model = load(tmp_path / "model")
    assert list(model.signatures) == ["double"]
    assert (
        ask(model, "made", {"given": [1]}) == ask(model, "double/made", {"x": [1]}) == ask(model, None, {"given": [1]}) == [[2]]
    )
    model.close()


# Updates


def test_a_checkpoint_of_the_same_graph_is_taken(deployed: Model, tmp_path: Path) -> None:
    assert update_model(deployed, str(models.graph_v1(tmp_path / "other", 3.0))) is deployed
    assert ask(deployed, "y", {"x": X}) == [[[3.5, 6.5]]]


def test_a_checkpoint_that_does_not_fit_changes_nothing(deployed: Model, prefix: Path, tmp_path: Path) -> None:
    wide = models.graph_v1(tmp_path / "wide", 3.0, width=3)
    torn = models.graph_v1(tmp_path / "torn", 3.0)
    next(tmp_path.glob("torn.data*")).write_bytes(b"")
    with v1.Graph().as_default(), v1.Session() as session:
        bias = v1.get_variable("bias", initializer=9.0)
        session.run(bias.initializer)
        part = v1.train.Saver().save(session, str(tmp_path / "part"))
    for path, reason in [
        (wide, f"Variable weight has the shape [2] in the model and [3] in {wide}."),
        (part, f"{part} has no variable weight [2]. It has: bias."),
        (torn, f"{torn}"),
        (tmp_path / "none", f"There is nothing at {tmp_path / 'none'}."),
    ]:
        with pytest.raises(ModelLoadError) as error:
            update_model(deployed, str(path))
        assert str(error.value).startswith(reason)
        assert ask(deployed, "y", {"x": X}) == [Y]


def test_a_checkpoint_without_its_graph_is_told(prefix: Path, tmp_path: Path) -> None:
    for file in prefix.parent.glob("model.[di]*"):
        shutil.copy(file, tmp_path)
    with pytest.raises(ModelLoadError) as error:
        load(tmp_path / "model")
    assert (
        str(error.value)
        == f"{tmp_path / 'model'} is a checkpoint without its meta graph, model.meta: it has weights and no model."
    )


def test_a_damaged_checkpoint_is_told(prefix: Path, tmp_path: Path) -> None:
    for ending in (".meta", ".index", ".data-00000-of-00001"):
        folder = tmp_path / ending
        shutil.copytree(prefix.parent, folder)
        (folder / f"model{ending}").write_bytes(b"\xff\x00 no such thing")
        with pytest.raises(ModelLoadError, match="cannot be loaded as a TensorFlow 1 checkpoint"):
            load(folder / "model")


def test_equal_questions_are_joined_by_their_rows(deployed: Model) -> None:
    from bgpy.tasks.tensorflow.batching import Batcher

    runs: list[int] = []

    def run(signature: Any, feeds: Any, outputs: Any) -> Any:
        runs.append(len(next(iter(feeds.values()))))
        return deployed.run(signature, feeds, outputs)

    batcher = Batcher(run, 64)
    for _ in range(2):
        asked = [deployed.resolve("output", {name: np.full((1, 2), row, np.float32)}) for name, row in (("input", 1), ("x", 2))]
        answers = batcher.answer([each.query for each in asked])
    assert runs == [5, 1, 1, 2]  # the first with three odd rows
    assert [
        each.arrange(answer)[0].tolist() for each, answer in zip(asked, answers, strict=True) if not isinstance(answer, Exception)
    ] == [
        [[2.5, 2.5]],
        [[4.5, 4.5]],
    ]
