"""
Models that tests deploy: each function makes one in a folder and returns its path.

TensorFlow is imported when the first of them is called; it takes seconds, and starts threads that stay.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np

Parameters = ParamSpec("Parameters")


def _quiet(make: Callable[Parameters, Path]) -> Callable[Parameters, Path]:
    """Let what makes a model warn of nothing: the warnings of Keras and TensorFlow about each other are no concern of a test."""

    @functools.wraps(make)
    def made(*args: Parameters.args, **options: Parameters.kwargs) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make(*args, **options)

    return made


@_quiet
def two_signatures(folder: Path, scale: float = 2.0, *, width: int = 3) -> Path:
    """
    Make a SavedModel with the signatures ``serving_default`` (x -> y) and ``sums`` (a, b -> sum, difference).

    y is ``x * w`` with ``w`` a variable of `width` numbers, all `scale`; a and b are int64 of one axis.
    """
    import tensorflow as tf

    class Model(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(np.full(width, scale, np.float32), name="w")

        @tf.function(input_signature=[tf.TensorSpec([None, width], tf.float32, "x")])  # type: ignore[untyped-decorator]
        def scaled(self, x: Any) -> dict[str, Any]:
            return {"y": x * self.w}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "a"), tf.TensorSpec([None], tf.int64, "b")])  # type: ignore[untyped-decorator]
        def sums(self, a: Any, b: Any) -> dict[str, Any]:
            return {"sum": a + b, "difference": a - b}

    model = Model()
    return _save(model, folder, {"serving_default": model.scaled, "sums": model.sums})


@_quiet
def keras_two_inputs(path: Path, seed: int = 1) -> Path:
    """Make a functional Keras model, inputs left [?, 3] and right [?, 2], outputs total [?, 4] and peak [?, 1]: .keras or .h5."""
    keras = _keras(seed)
    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
    joined = keras.layers.Concatenate(name="joined")([left, right])
    total = keras.layers.Dense(4, name="total")(joined)
    peak = keras.layers.Dense(1, name="peak")(total)
    return _save_keras(keras.Model([left, right], [total, peak]), path)


@_quiet
def keras_dense(path: Path, seed: int = 1) -> Path:
    """Make the 784-128-10 model in Keras, input pixels, output digits: .keras, .h5, or else a SavedModel as Keras exports it."""
    keras = _keras(seed)
    pixels = keras.Input((784,), name="pixels")
    hidden = keras.layers.Dense(128, activation="relu", name="hidden")(pixels)
    digits = keras.layers.Dense(10, activation="softmax", name="digits")(hidden)
    return _save_keras(keras.Model(pixels, digits), path)


@_quiet
def keras_lambda(path: Path) -> Path:
    """Make a Keras model whose Lambda layer has code of its own, which safe mode refuses: .keras or .h5."""
    keras = _keras(1)
    x = keras.Input((2,), name="x")
    return _save_keras(keras.Model(x, keras.layers.Lambda(lambda value: value + 1, name="code")(x)), path)


@_quiet
def keras_weights(model: Path, path: Path, add: float = 0.0) -> Path:
    """Save the weights of a .keras or .h5 model, `add` added to each: a .weights.h5 file, or else a checkpoint's prefix."""
    import tensorflow as tf

    keras = _keras(1)
    loaded = keras.models.load_model(model, compile=False)
    loaded.set_weights([weight + add for weight in loaded.get_weights()])
    if path.name.endswith(".weights.h5"):
        loaded.save_weights(path)
        return path
    return Path(tf.train.Checkpoint(loaded).write(str(path)))


@_quiet
def two_signatures_weights(model: Path, path: Path, add: float = 0.0) -> Path:
    """Save the variable w of a model of `two_signatures`, `add` added to it, as a checkpoint; returns its prefix."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(model))
    loaded.w.assign_add(tf.fill(loaded.w.shape, add))
    return Path(tf.train.Checkpoint(w=loaded.w).write(str(path)))


@_quiet
def dense(folder: Path, seed: int = 1) -> Path:
    """Make the 784-128-10 model as a SavedModel: pixels float32 [?, 784] -> digits [?, 10]."""
    import tensorflow as tf

    random = np.random.default_rng(seed)

    class Model(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.w1 = tf.Variable(random.normal(0, 0.05, (784, 128)).astype(np.float32))
            self.w2 = tf.Variable(random.normal(0, 0.05, (128, 10)).astype(np.float32))

        @tf.function(input_signature=[tf.TensorSpec([None, 784], tf.float32, "pixels")])  # type: ignore[untyped-decorator]
        def predict(self, pixels: Any) -> dict[str, Any]:
            return {"digits": tf.nn.softmax(tf.nn.relu(pixels @ self.w1) @ self.w2)}

    model = Model()
    return _save(model, folder, {"serving_default": model.predict})


@_quiet
def strings(folder: Path) -> Path:
    """Make a SavedModel of texts: text string [?] -> upper string [?] and length int32 [?]."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])  # type: ignore[untyped-decorator]
    def read(text: Any) -> dict[str, Any]:
        return {"upper": tf.strings.upper(text), "length": tf.strings.length(text)}

    return _save(_holding(read), folder, {"serving_default": read})


@_quiet
def integers_and_bools(folder: Path) -> Path:
    """Make a SavedModel: count int64 [?], flag bool [?] -> chosen int64 [?] (count where flag, else -1) and negated bool [?]."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "count"), tf.TensorSpec([None], tf.bool, "flag")])  # type: ignore[untyped-decorator]
    def choose(count: Any, flag: Any) -> dict[str, Any]:
        return {"chosen": tf.where(flag, count, tf.constant(-1, tf.int64)), "negated": tf.logical_not(flag)}

    return _save(_holding(choose), folder, {"serving_default": choose})


@_quiet
def batchless(folder: Path) -> Path:
    """Make a SavedModel: x float32 [?, 2] -> total float32 [], the sum of all, and doubled [?, 2]."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])  # type: ignore[untyped-decorator]
    def add_up(x: Any) -> dict[str, Any]:
        return {"total": tf.reduce_sum(x), "doubled": 2 * x}

    return _save(_holding(add_up), folder, {"serving_default": add_up})


@_quiet
def entangled(folder: Path) -> Path:
    """Make a SavedModel whose rows depend on each other: x float32 [?, 2] -> centred [?, 2], less the mean of the batch."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])  # type: ignore[untyped-decorator]
    def centre(x: Any) -> dict[str, Any]:
        return {"centred": x - tf.reduce_mean(x, axis=0)}

    return _save(_holding(centre), folder, {"serving_default": centre})


@_quiet
def ragged(folder: Path) -> Path:
    """Make a SavedModel of rows of any length: x float32 [?, ?] -> mean [?]."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, "x")])  # type: ignore[untyped-decorator]
    def average(x: Any) -> dict[str, Any]:
        return {"mean": tf.reduce_mean(x, axis=1)}

    return _save(_holding(average), folder, {"serving_default": average})


@_quiet
def slow(folder: Path) -> Path:
    """Make a SavedModel that counts to its input n int64 [?, 1] before it gives y, the same; it prints when it begins."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.int64, "n")])  # type: ignore[untyped-decorator]
    def count(n: Any) -> dict[str, Any]:
        top = tf.reduce_max(n)
        with tf.control_dependencies([tf.print("counting")]):
            reached = tf.while_loop(lambda i: i < top, lambda i: (i + 1,), (tf.constant(0, tf.int64),))[0]
        return {"y": n + (reached - top)}

    return _save(_holding(count), folder, {"serving_default": count})


@_quiet
def raising(folder: Path) -> Path:
    """Make a SavedModel that raises InvalidArgumentError where a row of x float32 [?, 1] is negative; else y is its root."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, "x")])  # type: ignore[untyped-decorator]
    def root(x: Any) -> dict[str, Any]:
        with tf.control_dependencies([tf.debugging.assert_non_negative(x, "x has a negative number")]):
            return {"y": tf.sqrt(x)}

    return _save(_holding(root), folder, {"serving_default": root})


@_quiet
def printing(folder: Path) -> Path:
    """Make a SavedModel that prints ``the model sees`` and what it sees with `tf.print`: x float32 [?] -> y."""
    import sys

    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])  # type: ignore[untyped-decorator]
    def show(x: Any) -> dict[str, Any]:
        tf.print("the model sees", x, output_stream=sys.stdout)
        return {"y": x}

    return _save(_holding(show), folder, {"serving_default": show})


@_quiet
def classifier(folder: Path) -> Path:
    """
    Make a SavedModel with the classify and regress methods of TensorFlow Serving, and with their tensor names.

    Its signatures take ``inputs``, serialized tf.Examples with the feature x float32 [2]: serving_default gives scores [?, 2] and
    classes [?, 2], regression gives outputs [?, 1], their sum.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        inputs = v1.placeholder(tf.string, [None], "inputs")
        x = v1.io.parse_example(inputs, {"x": v1.FixedLenFeature([2], tf.float32)})["x"]
        scores = tf.nn.softmax(x, name="scores")
        classes = tf.tile(tf.constant([["no", "yes"]]), [tf.shape(x)[0], 1], name="classes")
        outputs = tf.reduce_sum(x, axis=1, keepdims=True, name="outputs")
        definitions = v1.saved_model.signature_def_utils
        _save_v1(
            session,
            folder,
            {
                "serving_default": definitions.classification_signature_def(inputs, classes, scores),
                "regression": definitions.regression_signature_def(inputs, outputs),
            },
        )
    return folder


@_quiet
def saved_model_v1(folder: Path) -> Path:
    """Make a SavedModel as TensorFlow 1 wrote them: x float32 [?, 2] -> y = x * 3, with a variable of TensorFlow 1."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 2], "x")
        factor = v1.get_variable("factor", initializer=3.0, use_resource=False)
        y = tf.multiply(x, factor, name="y")
        session.run(v1.global_variables_initializer())
        info = v1.saved_model.build_tensor_info
        definition = v1.saved_model.build_signature_def({"x": info(x)}, {"y": info(y)}, "tensorflow/serving/predict")
        _save_v1(session, folder, {"serving_default": definition})
    return folder


@_quiet
def graph_v1(prefix: Path, weight: float = 2.0, *, width: int = 2) -> Path:
    """
    Make a checkpoint of TensorFlow 1 with its meta graph, as users of TFserve have: returns its prefix, beside it PREFIX.meta.

    Collections: input (x float32 [?, width]), keep (a placeholder with the default 1.0), output (y = x * weight + bias) and both
    (y and z = -y). The tensors are x:0, keep:0, y:0, z:0; the variables weight [width] and bias [].
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, width], "x")
        keep = v1.placeholder_with_default(1.0, [], "keep")
        scale = v1.get_variable("weight", initializer=np.zeros(width, np.float32))
        bias = v1.get_variable("bias", initializer=0.0)
        y = tf.add(x * scale * keep, bias, name="y")
        z = tf.negative(y, name="z")
        for key, tensors in {"input": [x], "keep": [keep], "output": [y], "both": [y, z]}.items():
            for tensor in tensors:
                v1.add_to_collection(key, tensor)
        session.run(v1.global_variables_initializer())
        scale.load(np.full(width, weight, np.float32), session)
        bias.load(0.5, session)
        return Path(v1.train.Saver().save(session, str(prefix)))


def _save(model: Any, folder: Path, signatures: dict[str, Any]) -> Path:
    import tensorflow as tf

    tf.saved_model.save(model, str(folder), signatures)
    return folder


def _holding(function: Any) -> Any:
    import tensorflow as tf

    module = tf.Module()
    module.function = function
    return module


def _save_v1(session: Any, folder: Path, definitions: dict[str, Any]) -> None:
    import tensorflow as tf

    builder = tf.compat.v1.saved_model.builder.SavedModelBuilder(str(folder))
    builder.add_meta_graph_and_variables(session, ["serve"], definitions)
    builder.save()


def _keras(seed: int) -> Any:
    import keras

    keras.utils.set_random_seed(seed)
    return keras


def _save_keras(model: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".keras", ".h5"):
        model.save(path)
    else:
        model.export(path, verbose=False)
    return path
