"""SavedModels in a session: what they can be asked for, their results, and weights from elsewhere."""

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
from bgpy.tasks.tensorflow.signatures import TensorInfo, check_feeds

tensorflow = pytest.importorskip("tensorflow")
v1 = tensorflow.compat.v1


@pytest.fixture
def deployed(two: Path) -> Iterator[Model]:
    model = load(two)
    yield model
    model.close()


def load(path: Path, device: str = "/cpu:0", safe_mode: bool = True) -> Model:
    return load_model(tensorflow, str(path), device, safe_mode)


def ask(model: Model, fetches: Any = None, **feeds: Any) -> list[Any]:
    asked = model.resolve(fetches, feeds)
    return asked.arrange(model.run(*asked.query))


def refused(model: Model, fetches: Any, **feeds: Any) -> str:
    with pytest.raises(ModelInputError) as error:
        ask(model, fetches, **feeds)
    return str(error.value)


def test_signatures_are_those_of_the_file(deployed: Model) -> None:
    assert (deployed.format, deployed.platform, deployed.default) == ("saved_model", "tensorflow_savedmodel", "serving_default")
    assert list(deployed.signatures) == ["serving_default", "sums"]
    sums = deployed.signatures["sums"]
    assert sums.inputs == {name: TensorInfo(name, "int64", (None,), f"sums_{name}:0") for name in "ab"}
    assert list(sums.outputs) == ["difference", "sum"]
    assert deployed.signatures["serving_default"].inputs["x"] == TensorInfo("x", "float32", (None, 3), "serving_default_x:0")


def test_fetches_name_outputs_in_their_order(deployed: Model) -> None:
    x = [[1, 2, 3]]
    assert [each.tolist() for each in ask(deployed, None, x=x)] == [[[2, 4, 6]]]
    assert [each.tolist() for each in ask(deployed, "y", x=x)] == [[[2, 4, 6]]]
    assert [each.tolist() for each in ask(deployed, ["y", "serving_default/y"], x=x)] == [[[2, 4, 6]]] * 2
    assert [each.tolist() for each in ask(deployed, ["sums/sum", "sums/difference"], a=[5], b=[3])] == [[8], [2]]
    assert [each.tolist() for each in ask(deployed, "sums/", a=[5], b=[3])] == [[2], [8]]
    assert [each.dtype for each in ask(deployed, "sums/sum", a=[5], b=[3])] == [np.dtype("int64")]


def test_a_wrong_fetch_is_told_with_what_there_is(deployed: Model) -> None:
    listed = "The model's outputs are y; and sums/difference, sums/sum."
    assert refused(deployed, "z", x=[[1, 2, 3]]) == f"There is no output 'z'. {listed}"
    assert refused(deployed, "sums/y", a=[1], b=[1]) == f"There is no output 'sums/y'. {listed}"
    assert refused(deployed, ["y", "sums/sum"], x=[[1, 2, 3]]).startswith("Fetch 'sums/sum' is of signature 'sums' and 'y' is of")
    assert refused(deployed, [1]) == "fetches are names; one is a int."
    assert "There is no input 'y'" in refused(deployed, None, y=1)


@pytest.mark.parametrize("device", ["/cpu:0", "/gpu:0", "GPU:1", "/device:CPU:0", "/job:localhost/replica:0/task:0/device:GPU:0"])
def test_a_device_that_is_not_there_gives_way_to_the_cpu(two: Path, device: str) -> None:
    model = load(two, device)
    assert ask(model, x=[[1, 2, 3]])[0].tolist() == [[2, 4, 6]]
    model.close()


@pytest.mark.parametrize("device", ["", "abc", "/tpux:0", "/cpu:x", "cpu:0/gpu:0"])
def test_an_unknown_device_is_refused(two: Path, device: str) -> None:
    with pytest.raises(
        ModelLoadError, match=r"There is no device '.*': a device is named like /cpu:0 or /gpu:0. This machine has /cpu:0"
    ):
        load(two, device)


def test_texts_go_in_and_come_out_as_bytes(folder: Path) -> None:
    model = load(models.strings(folder / "strings"))
    length, upper = ask(model, text=["ab", b"c\x00"])
    assert (length.tolist(), upper.tolist(), upper.dtype) == ([2, 2], [b"AB", b"C\x00"], np.dtype(object))
    model.close()


def test_integers_and_bools_stay_what_they_are(folder: Path) -> None:
    model = load(models.integers_and_bools(folder / "integers"))
    chosen, negated = ask(model, count=[2**62 + 1, 5], flag=[True, False])
    assert (chosen.tolist(), chosen.dtype) == ([2**62 + 1, -1], np.dtype("int64"))
    assert (negated.tolist(), negated.dtype) == ([False, True], np.dtype("bool"))
    model.close()


def test_an_output_without_axes_is_an_array_too(folder: Path) -> None:
    model = load(models.batchless(folder / "batchless"))
    doubled, total = ask(model, x=[[1, 2], [3, 4]])
    assert doubled.tolist() == [[2, 4], [6, 8]]
    assert isinstance(total, np.ndarray)
    assert (total.shape, total.tolist()) == ((), 10.0)
    model.close()


def test_what_the_model_raises_comes_as_it_is(folder: Path) -> None:
    model = load(models.raising(folder / "raising"))
    with pytest.raises(tensorflow.errors.InvalidArgumentError, match="x has a negative number"):
        ask(model, x=[[-1]])
    assert ask(model, x=[[4]])[0].tolist() == [[2]]
    model.close()


def test_arrays_of_any_layout_are_read_right(deployed: Model) -> None:
    wide = np.arange(12, dtype=np.float32).reshape(2, 6)
    for x in (wide[:, ::2], np.asfortranarray(wide[:, :3]), wide[:, 2::-1], wide[:0, :3]):
        np.testing.assert_array_equal(ask(deployed, x=x)[0], x * 2)


def test_methods_of_tensorflow_serving_are_told(folder: Path) -> None:
    model = load(models.classifier(folder / "classifier"))
    assert {name: signature.method.rpartition("/")[2] for name, signature in model.signatures.items()} == {
        "serving_default": "classify",
        "regression": "regress",
    }
    feature = tensorflow.train.Feature(float_list=tensorflow.train.FloatList(value=[1.0, 2.0]))
    example = tensorflow.train.Example(features=tensorflow.train.Features(feature={"x": feature})).SerializeToString()
    assert ask(model, "regression/outputs", inputs=[example])[0].tolist() == [[3.0]]
    assert ask(model, "classes", inputs=[example])[0].tolist() == [[b"no", b"yes"]]
    model.close()


def test_a_saved_model_of_tensorflow_1_is_one(folder: Path) -> None:
    path = models.saved_model_v1(folder / "v1")
    model = load(path)
    assert ask(model, x=[[1, 2]])[0].tolist() == [[3, 6]]
    assert update_model(model, str(path / "variables" / "variables")) is model
    assert ask(model, "y", x=[[1, 2]])[0].tolist() == [[3, 6]]
    model.close()


def test_two_names_for_one_tensor_and_an_input_that_is_an_output(two: Path) -> None:
    model = load(two)
    own = model.signatures["serving_default"]
    y, x = own.outputs["y"], own.inputs["x"]
    odd = own._replace(name="odd", outputs={"y": y, "again": y._replace(name="again"), "x": x})
    feeds = check_feeds(odd, {"x": [[1, 2, 3]]})
    assert {name: made.tolist() for name, made in model.run(odd, feeds, ("x", "again", "y")).items()} == {
        "x": [[1, 2, 3]],
        "again": [[2, 4, 6]],
        "y": [[2, 4, 6]],
    }
    assert model.run(odd, feeds, ("x",))["x"].tolist() == [[1, 2, 3]]
    model.close()


def test_without_the_short_way_of_calling_a_session_the_long_one_is_taken(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v1.Session, "_make_callable_from_options", None)
    model = load(two)
    assert ask(model, x=[[1, 2, 3]])[0].tolist() == [[2, 4, 6]]
    model.close()


# Updates


def test_a_checkpoint_of_the_same_object_is_taken(deployed: Model, two: Path, tmp_path: Path) -> None:
    for prefix in (models.two_signatures_weights(two, tmp_path / "more", 1.0), two / "variables" / "variables"):
        before = ask(deployed, x=[[1, 2, 3]])[0]
        assert update_model(deployed, str(prefix)) is deployed
        assert ask(deployed, x=[[1, 2, 3]])[0].tolist() != before.tolist()
    assert ask(deployed, x=[[1, 2, 3]])[0].tolist() == [[2, 4, 6]]


def test_a_checkpoint_that_has_the_object_as_an_attribute_is_taken(deployed: Model, tmp_path: Path) -> None:
    inner = tensorflow.Module()
    inner.w = tensorflow.Variable([5.0, 6.0, 7.0])
    prefix = tensorflow.train.Checkpoint(model=inner, step=tensorflow.Variable(1)).write(str(tmp_path / "nested"))
    update_model(deployed, prefix)
    assert ask(deployed, x=[[1, 1, 1]])[0].tolist() == [[5, 6, 7]]


def test_a_saved_model_of_the_same_signatures_takes_the_place(deployed: Model, tmp_path: Path) -> None:
    after = update_model(deployed, str(models.two_signatures(tmp_path / "new", 3.0)))
    assert after is not deployed
    assert ask(after, x=[[1, 2, 3]])[0].tolist() == [[3, 6, 9]]
    after.close()


def outdo(model: Model, path: Path | str) -> str:
    """Update in vain, see that the old weights are there, and return the reason."""
    with pytest.raises(ModelLoadError) as error:
        update_model(model, str(path))
    assert ask(model, x=[[1, 2, 3]])[0].tolist() == [[2, 4, 6]]
    return str(error.value)


def test_weights_that_do_not_fit_are_told_by_the_first_that_differs(deployed: Model, tmp_path: Path) -> None:
    def write(name: str, **variables: Any) -> str:
        made = {key: tensorflow.Variable(value) for key, value in variables.items()}
        return str(tensorflow.train.Checkpoint(**made).write(str(tmp_path / name)))

    wide = write("wide", w=np.ones(4, np.float32))
    assert outdo(deployed, wide) == f"Variable w has the shape [3] in the model and [4] in {wide}."
    double = write("double", w=np.ones(3))
    assert outdo(deployed, double) == f"Variable w is float32 in the model and float64 in {double}."
    other = write("other", v=np.ones(3, np.float32))
    assert outdo(deployed, other) == f"{other} has no variable w [3]. It has: v."


def test_a_saved_model_of_other_signatures_is_told_by_the_first_tensor_that_differs(deployed: Model, tmp_path: Path) -> None:
    wide = models.two_signatures(tmp_path / "wide", width=4)
    assert outdo(deployed, wide) == (
        f"Of signature 'serving_default' the deployed model has the input x: float32 [?, 3], and {wide} has x: float32 [?, 4]."
    )
    other = models.strings(tmp_path / "strings")
    assert "has the input x: float32 [?, 3], and" in outdo(deployed, other)
    assert outdo(deployed, other).endswith("strings has no x.")


def test_a_checkpoint_with_a_part_missing_changes_nothing(deployed: Model, two: Path, tmp_path: Path) -> None:
    prefix = models.two_signatures_weights(two, tmp_path / "torn", 1.0)
    data = next(tmp_path.glob("torn.data*"))
    data.write_bytes(data.read_bytes()[:4])
    assert outdo(deployed, prefix).startswith(f"{prefix}")


@pytest.mark.parametrize(("name", "reason"), [("new.keras", "is a file of Keras"), ("new.weights.h5", "is a file of Keras")])
def test_a_file_of_keras_is_no_update_of_a_saved_model(deployed: Model, tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert reason in outdo(deployed, tmp_path / name)
    assert outdo(deployed, tmp_path / "none") == f"There is nothing at {tmp_path / 'none'}."


# What is no model


def test_what_is_no_model_is_told(two: Path, tmp_path: Path) -> None:
    def reason(path: Path) -> str:
        with pytest.raises(ModelLoadError) as error:
            load(path)
        return str(error.value)

    taken = "Taken are a SavedModel folder, a .keras file, an .h5 file, or the prefix or .meta file of a TensorFlow 1 checkpoint."
    assert reason(tmp_path / "none") == f"There is nothing at {tmp_path / 'none'}."
    assert (
        reason(tmp_path / "no" / "such")
        == f"There is nothing at {tmp_path / 'no' / 'such'}, nor is there a folder {tmp_path / 'no'}."
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert reason(empty) == f"{empty} is a folder that is no SavedModel: it has no saved_model.pb but nothing in it. {taken}"
    for number in range(12):
        (empty / f"{number:02}.txt").touch()
    assert "but 00.txt, 01.txt" in reason(empty)
    assert "09.txt and 2 more. Taken" in reason(empty)
    assert reason(empty / "00.txt") == f"{empty / '00.txt'} is a file that is no model. {taken}"
    assert reason(two / "variables") == (
        f"{two / 'variables'} is a folder with checkpoints: name one by the prefix of its files, such as"
        f" {two / 'variables' / 'variables'}."
    )
    assert reason(two / "variables" / "variables").endswith("variables.meta: it has weights and no model.")


def test_a_damaged_saved_model_is_told(two: Path, tmp_path: Path) -> None:
    for damage in ("saved_model.pb", "variables/variables.index"):
        torn = tmp_path / damage.partition("/")[0]
        shutil.copytree(two, torn)
        (torn / damage).write_bytes(b"\xffno such thing")
        with pytest.raises(ModelLoadError, match=r"cannot be loaded as a SavedModel|cannot be read as a checkpoint"):
            load(torn)
    shutil.copytree(two, tmp_path / "cut")
    (tmp_path / "cut" / "variables" / "variables.data-00000-of-00001").write_bytes(b"")
    with pytest.raises(ModelLoadError, match="Read less bytes than requested"):
        load(tmp_path / "cut")


def test_a_saved_model_without_signatures_is_told(tmp_path: Path) -> None:
    tensorflow.saved_model.save(tensorflow.Module(), str(tmp_path))
    with pytest.raises(ModelLoadError, match="has no signatures: save it with"):
        load(tmp_path)
