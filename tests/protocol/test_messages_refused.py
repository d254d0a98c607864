"""What cannot be pickled, or not be unpickled, is an error that says what it was."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.messages import travel

from bgpy.errors import SerializationError
from bgpy.protocol.messages import Payload, dump, key_of_module, load


class Hostile:
    """Run a function when pickled."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def __reduce__(self) -> Any:
        return self.act()


def raise_(error: BaseException) -> Any:
    raise error


class Demanding(Exception):
    """Be an exception that pickles and does not unpickle: its arguments are by keyword only."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


# What cannot be pickled


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (threading.Lock(), "lock"),
        (Hostile(lambda: raise_(ValueError("mine"))), "ValueError: mine"),
        (Hostile(lambda: raise_(SystemExit(3))), "SystemExit: 3"),
        (Hostile(lambda: raise_(RecursionError())), "nested too deeply"),
        (Hostile(lambda: raise_(MemoryError())), "memory"),
        (Hostile(lambda: raise_(TypeError("mine"))), "TypeError: mine"),
        (Hostile(lambda: 5), "reduce"),
        (pickle.PickleBuffer(memoryview(bytearray(10))[::2]), "non-contiguous"),
        ((n for n in ()), "generator"),
    ],
)
@pytest.mark.parametrize("with_function", [False, True])
def test_what_cannot_be_pickled_is_an_error_with_its_key(value: object, reason: str, with_function: bool) -> None:
    message: dict[str, object] = {"fine": 1, "f": (lambda: 1) if with_function else 2, "bad": [value]}
    with pytest.raises(SerializationError, match=reason) as caught:
        dump(message)
    assert (caught.value.key, caught.value.module, caught.value.executed) == ("bad", None, False)
    assert caught.value.__cause__ is not None


def test_an_error_whose_text_cannot_be_made_is_an_error_still() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    with pytest.raises(SerializationError, match="Mute"):
        dump({"bad": Hostile(lambda: raise_(Mute()))})


def test_endless_nesting_is_a_serialization_error() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(SerializationError, match="nested too deeply") as caught:
        dump({"fine": 1, "deep": nested})
    assert caught.value.key == "deep"


def test_a_keyboard_interrupt_passes_through_both_ways() -> None:
    with pytest.raises(KeyboardInterrupt):
        dump({"bad": Hostile(lambda: raise_(KeyboardInterrupt()))})
    with pytest.raises(KeyboardInterrupt):
        load(dump({"bad": Hostile(lambda: (exec, ("raise KeyboardInterrupt",)))}).pickle)


@pytest.mark.parametrize(("key", "named"), [(7, "7"), (b"k", "b'k'"), ((1, 2), "a key of type tuple")])
def test_a_key_that_is_no_text_is_described(key: object, named: str) -> None:
    with pytest.raises(SerializationError) as caught:
        dump({key: threading.Lock()})
    assert caught.value.key == named


def test_a_key_that_cannot_be_pickled_leaves_no_key_to_name() -> None:
    with pytest.raises(SerializationError) as caught:
        dump({threading.Lock(): 1})
    assert caught.value.key is None
    with pytest.raises(SerializationError):
        dump([threading.Lock()])


# What cannot be unpickled


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('theirs')", "ValueError: theirs"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise RecursionError", "nested too deeply"),
    ],
)
def test_what_the_objects_raise_when_unpickled_is_a_serialization_error(code: str, reason: str) -> None:
    payload = dump({"bad": Hostile(lambda: (exec, (code,)))})
    with pytest.raises(SerializationError, match=reason) as caught:
        load(payload.pickle)
    assert caught.value.__cause__ is not None


def test_an_exception_with_keyword_only_arguments_is_a_serialization_error_on_arrival() -> None:
    payload = dump({"error": Demanding(code=1)})
    with pytest.raises(SerializationError, match="TypeError"):
        load(payload.pickle)


@pytest.mark.parametrize(
    ("name", "module"),
    [("no_such_module_here\nx", "no_such_module_here"), ("json.nowhere\nx", "json.nowhere"), ("json\nnothing", "json")],
)
def test_a_module_that_is_missing_or_lacks_a_name_is_named(name: str, module: str) -> None:
    with pytest.raises(SerializationError) as caught:
        load(b"\x80\x05c" + name.encode() + b"\n.")
    assert caught.value.module == module
    assert repr(module) in str(caught.value)


def test_the_key_that_needs_a_module_is_found() -> None:
    message = {"text": "numpy", "bad": threading.Lock(), "array": [np.zeros(2)], "f": lambda: np.zeros(2)}
    assert key_of_module(message, "numpy") == "array"
    assert key_of_module({"f": message["f"]}, "numpy") == "f"
    assert key_of_module({4: np.float64(1)}, "numpy") == "4"
    assert key_of_module(message, "pandas") is None
    assert key_of_module({}, "numpy") is None


def test_a_payload_is_a_tuple_of_three() -> None:
    assert Payload(b"x", [], False) == (b"x", [], False)


def test_messages_pickle_from_many_threads_at_once() -> None:
    results: list[Any] = []

    def work(number: int) -> None:
        results.append(travel({"f": lambda: number, "a": np.full(10_000, number)}))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(message["f"]() for message in results) == list(range(8))
