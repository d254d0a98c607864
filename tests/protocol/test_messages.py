"""Messages survive the way to a side that lacks the sender's ``__main__``; what cannot is a `SerializationError`."""

from __future__ import annotations

import contextlib
import gc
import mmap
import pickle
import subprocess
import sys
import types
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.messages import travel

from bgpy.errors import SerializationError
from bgpy.protocol import messages
from bgpy.protocol.messages import Data, MessageType, dump, dump_plain, is_data, load

json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=6,
)


MAIN = """
    import collections, dataclasses, enum, functools, typing
    COUNT = 0
    def increase():
        global COUNT
        COUNT += 1
    def count():
        return COUNT
    class Colour(enum.Enum):
        RED = 1
    @dataclasses.dataclass(frozen=True)
    class Point:
        x: int = 0
        tags: list = dataclasses.field(default_factory=list)
        def moved(self): return Point(self.x + 1)
        @staticmethod
        def static(): return 'static'
        @classmethod
        def made(cls): return cls(7)
        @property
        def double(self): return self.x * 2
    class Base:
        def __init__(self): self.base = True
    class Slotted(Base):
        __slots__ = ('a',)
        def __init__(self):
            super().__init__()
            self.a = 1
    class Call:
        def __call__(self, value): return value + 1
    class Pair(typing.NamedTuple):
        a: int
        b: int
    Old = collections.namedtuple('Old', 'a')
    class Failure(Exception):
        def __init__(self, *, code):
            super().__init__(code)
            self.code = code
        def __reduce__(self):
            return functools.partial(Failure, code=self.code), ()
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args):
            return ('wrapped', function(*args))
        return wrapper
    @decorate
    def decorated(value): return value
    @functools.lru_cache(maxsize=7)
    def cached(n): return n if n < 2 else cached(n - 1) + cached(n - 2)
    T = typing.TypeVar('T')
    class Box(typing.Generic[T]):
        def get(self) -> T: return 1
"""


# Plain messages


def test_message_types_have_their_numbers() -> None:
    assert {kind.name: kind.value for kind in MessageType} == {
        "INIT": 1,
        "EXEC": 2,
        "EXIT": 3,
        "STATUS": 4,
        "OK": 16,
        "ERROR": 17,
        "END": 18,
    }


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"command": "increase", "value_change": 10},
        {"a": [1, {"b": (2.5, None)}], 3: {4}},
        [1],
        None,
        {"t": str, "n": type(None)},
    ],
)
def test_plain_messages_are_the_same_afterwards_and_hold_no_bytecode(message: Any) -> None:
    payload = dump(message)
    assert payload.buffers == []
    assert not payload.by_value
    assert load(payload.pickle) == message
    assert load(memoryview(bytes(payload.pickle)), []) == message


@given(st.dictionaries(st.text(), json_like))
def test_property_any_plain_message_is_the_same_afterwards(message: dict[str, Any]) -> None:
    assert travel(message) == message


@given(st.binary())
def test_property_any_bytes_load_or_are_a_serialization_error(data: bytes) -> None:
    with contextlib.suppress(SerializationError):
        load(data, [])


@given(st.integers(0, 200), st.integers(0, 255))
def test_property_a_damaged_message_loads_or_is_a_serialization_error(index: int, byte: int) -> None:
    data = bytearray(dump({"a": [1, "two"], "b": np.ones(3)}).pickle)
    data[index % len(data)] = byte
    with contextlib.suppress(SerializationError):
        load(bytes(data), [])


def test_a_message_without_code_loads_nothing_that_makes_a_start_slow() -> None:
    code = (
        "import sys; sys.path.append(sys.argv[1]); from bgpy.protocol.messages import dump, load\n"
        "import datetime; assert load(dump({'b': [datetime.date(2020, 1, 1)]}).pickle)\n"
        "print(sorted({'cloudpickle', 'inspect', 'ast', 'asyncio', 'logging', 'typing_extensions', 'json'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(Path(__file__).parents[2])], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


# Buffers


def test_a_large_array_leaves_the_pickle_uncopied_and_arrives_writable_and_uncopied() -> None:
    array = np.arange(100_000.0)
    payload = dump({"array": array})
    assert [buffer.nbytes for buffer in payload.buffers] == [800_000]
    assert len(payload.pickle) < 500
    assert np.shares_memory(np.frombuffer(payload.buffers[0]), array)
    with mmap.mmap(-1, 800_000) as memory:
        memory[:] = payload.buffers[0]
        message: Any = load(payload.pickle, [memoryview(memory)])
        received = message["array"]
        assert np.shares_memory(received, np.frombuffer(memory))
        received += 1
        assert np.array_equal(received, array + 1)
        del message, received


@pytest.mark.parametrize("count", [1, 4096, 40_960])
def test_arrays_of_every_size_arrive_writable(count: int) -> None:
    received = travel({"array": np.zeros(count)})["array"]
    received[0] = 1
    assert received[0] == 1


def test_an_array_that_cannot_be_written_stays_so() -> None:
    array = np.zeros(10_000)
    array.flags.writeable = False
    assert not travel({"array": array})["array"].flags.writeable


@pytest.mark.parametrize(("size", "outside"), [(32 * 1024 - 1, 0), (32 * 1024, 1)])
def test_small_buffers_stay_in_the_pickle(size: int, outside: int) -> None:
    payload = dump({"b": pickle.PickleBuffer(bytearray(size))})
    assert len(payload.buffers) == outside
    message: Any = load(payload.pickle, payload.buffers)
    assert bytes(message["b"]) == bytes(size)


@pytest.mark.parametrize(("limit", "outside"), [({}, 1000), ({"max_buffers": 3}, 3), ({"max_buffers": 0}, 0)])
def test_buffers_above_the_limit_stay_in_the_pickle(limit: dict[str, int], outside: int) -> None:
    arrays = [np.full(4096, number) for number in range(1001)]
    payload = dump({"arrays": arrays}, **limit)
    assert len(payload.buffers) == outside
    message: Any = load(payload.pickle, payload.buffers)
    assert np.array_equal(message["arrays"], arrays)


@pytest.mark.parametrize("array", [np.ones((300, 300))[::2, ::3], np.asfortranarray(np.arange(90_000).reshape(300, 300))])
def test_arrays_in_any_memory_order_arrive(array: np.ndarray[Any, Any]) -> None:
    assert np.array_equal(travel({"array": array})["array"], array)


def test_buffers_are_flat_bytes_whatever_their_shape() -> None:
    [buffer] = dump({"array": np.zeros((100, 100, 2), dtype="int32")}).buffers
    assert (buffer.format, buffer.ndim, buffer.contiguous) == ("B", 1, True)


def test_a_message_by_value_has_buffers_too() -> None:
    array = np.zeros(10_000)
    payload = dump({"f": lambda: 1, "array": array})
    assert payload.by_value
    assert np.shares_memory(np.frombuffer(payload.buffers[0]), array)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({"x": np.zeros(3), "y": [1, ("a", None, b"")], "z": {"t": np.array(["a"])}}, True),
        (np.zeros(2, [("a", "i4")]), False),
        (np.array([{}], object), False),
        ({"x": {1}}, False),
        ([len], False),
        ({(1, 2): 3}, False),
        ([[[[["deep"]]]]], False),
        ([1] * 1000, False),
    ],
    ids=repr,
)
def test_only_what_surely_goes_by_name_is_pickled_without_a_question(value: Any, data: bool) -> None:
    assert is_data(value) is data
    assert repr(load(*dump({"value": value})[:2])) == repr({"value": value})


def test_what_is_known_for_data_arrives_as_a_dict_with_its_buffers_beside_it() -> None:
    message = Data(items=[1] * 1000, array=np.zeros(10_000))
    pickle, buffers, by_value = dump(message)
    arrived = load(pickle, buffers)
    assert type(arrived) is dict
    assert repr(arrived) == repr(dict(message))
    assert (len(buffers), by_value, b"Data" in bytes(pickle)) == (1, False, False)


def test_too_few_buffers_are_a_serialization_error() -> None:
    with pytest.raises(SerializationError, match="buffers"):
        load(dump({"array": np.zeros(10_000)}).pickle, [])


def test_nothing_holds_on_to_what_was_pickled() -> None:
    """A pickler in a reference cycle would keep a large array until the next collection."""

    class Kept(bytearray):
        pass

    gc.disable()
    try:
        for more in ([], [lambda: 1]):
            kept = Kept(100_000)
            gone = weakref.ref(kept)
            dump({"kept": pickle.PickleBuffer(kept), "more": more})
            del kept
            assert gone() is None
    finally:
        gc.enable()


# By value


def test_lambdas_closures_and_local_classes_travel_by_value() -> None:
    base = 10

    class Local:
        def method(self) -> int:
            return base

    def add(value: int) -> int:
        return base + value

    payload = dump({"lambda": lambda: 5, "closure": add, "class": Local, "instance": Local(), "method": Local().method})
    assert payload.by_value
    message: Any = load(payload.pickle)
    assert (message["lambda"](), message["closure"](1), message["class"]().method(), message["method"]()) == (5, 11, 10, 10)
    assert isinstance(message["instance"], message["class"])


@pytest.mark.parametrize(
    "obj", [sys, types.MappingProxyType({"a": 1}), {}.keys(), property(len), memoryview(b"x"), types.FunctionType]
)
def test_what_only_cloudpickle_knows_travels_without_bytecode(obj: object) -> None:
    payload = dump({"it": obj})
    assert not payload.by_value
    load(payload.pickle)


def test_code_objects_count_as_bytecode() -> None:
    payload = dump({"it": compile("1 + 1", "x", "eval")})
    assert payload.by_value
    message: Any = load(payload.pickle)
    assert eval(message["it"]) == 2


@pytest.mark.parametrize("name", ["cached", "helpers.cached", "Key", "helpers.Key", "T", "helpers.T", "P", "helpers.P"])
def test_what_pickles_as_nothing_but_its_name_works_in_another_interpreter(sides: Any, name: str) -> None:
    definitions = """
    import functools, typing
    @functools.cache
    def cached(n): return n + 1
    Key = typing.NewType('Key', int)
    T = typing.TypeVar('T')
    P = typing.ParamSpec('P')
    """
    sides.add({"helpers.py": definitions})
    sides.on_client(f"{definitions}\n    import helpers\n    write('m', {{'it': {name}}})\n")
    assert sides.on_server("it = read('m')['it']; print(it.__name__, it(1) if it.__name__ in ('cached', 'Key') else '')") in (
        "cached 2",
        "Key 1",
        "T",
        "P",
    )


TYPED = """
    import functools, typing
    Key = typing.NewType('Key', int)
    P = typing.ParamSpec('P')
    R = typing.TypeVar('R')
    def decorate(function: typing.Callable[P, R]) -> typing.Callable[P, R]:
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(*args, **kwargs)
        return wrapper
    class Lazy:
        @functools.cached_property
        def value(self): return Key(4)
    @decorate
    def task(key: Key) -> Key: return Key(key + Lazy().value)
"""


def test_functions_with_annotations_of_main_work_in_another_interpreter(sides: Any) -> None:
    sides.on_client(TYPED + "    write('m', {'task': task, 'lazy': Lazy()})\n")
    assert sides.on_server("m = read('m'); lazy = m['lazy']; print(m['task'](3), lazy.value, vars(lazy))") == "7 4 {'value': 4}"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement is new in Python 3.12")
def test_functions_with_type_aliases_of_main_work_in_another_interpreter(sides: Any) -> None:
    sides.on_client("type Pair[T] = tuple[T, T]\ndef task(x: Pair[int]): return Pair.__value__\nwrite('m', {'task': task})\n")
    assert sides.on_server("print(read('m')['task'](1))") == "tuple[~T, ~T]"


def test_functions_and_classes_of_main_work_in_another_interpreter(sides: Any) -> None:
    sides.on_client(
        MAIN
        + """
    write('m', {
        'increase': increase, 'count': count, 'red': Colour.RED, 'colours': Colour, 'point': Point(3), 'method': Point(4).moved,
        'static': Point.static, 'made': Point.made, 'double': Point(4), 'slotted': Slotted(), 'call': Call(), 'pair': Pair(1, 2),
        'old': Old(5), 'failure': Failure(code=9), 'decorated': decorated, 'cached': cached, 'partial': functools.partial(pow, 2),
        'partial_main': functools.partial(decorated, 3), 'box': Box(), 'unwrapped': decorated.__wrapped__,
    })
    """
    )
    assert sides.payload("m").by_value
    out = sides.on_server(
        """
        m = read('m')
        m['increase'](); m['increase']()
        print(m['count'](), m['red'] is m['colours'].RED, m['point'].moved().x, m['method']().x, m['static']())
        print(m['double'].double, m['slotted'].a, m['slotted'].base, m['call'](1), m['pair'].b, m['old'].a, m['failure'].code)
        print(m['decorated'](1), m['cached'](30), m['cached'].cache_parameters(), m['partial'](3), m['partial_main']())
        print(m['unwrapped'](2), m['box'].get(), m['made']().x)
        """
    )
    assert out.splitlines() == [
        "2 True 4 5 static",
        "8 1 True 2 2 5 9",
        "('wrapped', 1) 832040 {'maxsize': 7, 'typed': False} 8 ('wrapped', 3)",
        "2 1 7",
    ]


def test_functions_sent_together_share_their_globals_and_those_sent_apart_do_not(sides: Any) -> None:
    sides.on_client(MAIN + "    write('m', {'increase': increase, 'count': count})\n    write('n', {'count': count})\n")
    out = sides.on_server("m, n = read('m'), read('n'); m['increase'](); print(m['count'](), n['count']())")
    assert out == "1 0"


def test_an_instance_of_a_class_of_main_comes_home_to_its_class_which_keeps_its_globals(sides: Any) -> None:
    """cloudpickle fills the original class anew, so that its methods no longer see the globals of their module."""
    out = sides.on_client(
        """
        import os, subprocess
        STEP = 1
        class Walker:
            at = 0
            def walk(self):
                self.at += STEP
        write('there', {'walker': Walker()})
        server = "m = read('there'); m['walker'].walk(); write('back', m)"
        prologue = open(__file__).read().partition('import os')[0]
        subprocess.run([sys.executable, '-I', '-c', prologue + server], check=True)
        walker = read('back')['walker']
        STEP = 10
        walker.walk()
        print(type(walker) is Walker, walker.at)
        """
    )
    assert out == "True 11"


def test_functions_of_a_spawned_child_of_main_travel_by_value(sides: Any) -> None:
    sides.on_client(
        """
        import multiprocessing
        class C:
            def f(self): return 'c'
        def task(): return C().f()
        def send(): write('m', {'task': task, 'c': C()})
        if __name__ == '__main__':
            child = multiprocessing.get_context('spawn').Process(target=send)
            child.start(); child.join(); assert child.exitcode == 0
        """
    )
    assert sides.on_server("m = read('m'); print(m['task'](), m['c'].f())") == "c c"


def test_the_module_main_itself_does_not_travel() -> None:
    with pytest.raises(SerializationError, match="__main__") as caught:
        dump({"a": 1, "main": sys.modules["__main__"]})
    assert caught.value.key == "main"


def test_a_notebook_cell_that_is_run_again_sends_its_new_class(sides: Any) -> None:
    sides.on_client(
        """
        class C:
            v = 1
        write('old', {'c': C()})
        class C:
            v = 2
        write('new', {'c': C()})
        """
    )
    assert sides.on_server("o, n = read('old')['c'], read('new')['c']; print(o.v, n.v)") == "1 2"


def test_nothing_is_registered_with_cloudpickle() -> None:
    import cloudpickle

    dump({"f": lambda: 1})
    assert cloudpickle.list_registry_pickle_by_value() == set()


def test_a_by_name_object_of_main_names_no_module_to_install() -> None:
    with pytest.raises(SerializationError) as caught:
        load(b"\x80\x05c__main__\nnothing_of_that_name\n.")
    assert caught.value.module is None


class Text(str):
    """Not a plain value: its class has to be there."""


def test_a_dict_of_plain_values_is_pickled_in_the_fewest_steps() -> None:
    message = {"a": 1, 2: "b", None: b"c", True: 1.5}
    assert dump_plain(message) == dump(message).pickle


@pytest.mark.parametrize(
    "other",
    [[1], OrderedDict(a=1), {"a": [1]}, {"a": Text("x")}, {Text("x"): 1}, {(1,): 1}, {"a": np.float64(1)}, {"a": MessageType.OK}],
)
def test_anything_else_is_left_to_dump(other: Any) -> None:
    assert dump_plain(other) is None


def test_a_message_that_another_thread_changes_meanwhile_is_left_to_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    message = {"a": 1}

    class Changing(frozenset[type]):
        def __contains__(self, kind: object) -> bool:
            message.setdefault("b", 2)
            return super().__contains__(kind)

    monkeypatch.setattr(messages, "_PLAIN", Changing(messages._PLAIN))
    assert dump_plain(message) is None
    assert dump_plain(message) == dump(message).pickle
