"""The public names of a module, in the process that has imported it."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from bgpy.tasks.requests.names import MAX_DOC, MAX_SIGNATURE, Searcher, public_names

SOURCE = '''
import math
from collections import OrderedDict

LIMIT = 5
_hidden = 1

def push(item, *, twice=False):
    """
    Push an item.

    More about it.
    """

def unpush():
    pass

class Stack:
    """A stack."""

    size = 5
    top = property(lambda self: 1, doc="The top.")

    def push_back(self, item): "Push at the end."

    @classmethod
    def pushed(cls, items): "Make one."

    @staticmethod
    def can_push(item): ...

    def _push(self): ...

class Deque(Stack):
    def push_front(self, item): ...

    def push_back(self, item): "Push at the end, quickly."

class Failure(ValueError):
    pass
'''


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    made = types.ModuleType("searched")
    sys.modules["searched"] = made
    exec(SOURCE, vars(made))
    yield made
    del sys.modules["searched"]


def search(text: str, limit: int = 100, lib: str = "searched") -> dict[str, Any]:
    (value,) = Searcher().search([{"lib": lib, "text": text, "limit": limit}])
    return value.json  # type: ignore[no-any-return]


def names(text: str, **options: Any) -> list[str]:
    return [found["name"] for found in search(text, **options)["found"]]


def test_names_that_begin_with_the_text_come_first_and_methods_behind_the_others(module: types.ModuleType) -> None:
    assert names("push") == [
        *("push", "Deque.push_back", "Stack.push_back", "Deque.push_front", "Stack.pushed"),
        *("unpush", "Stack.can_push"),
    ]


def test_upper_and_lower_case_are_the_same(module: types.ModuleType) -> None:
    assert names("STACK") == names("stack") == ["Stack"]
    assert names("limit") == ["LIMIT"]


def test_a_match_tells_kind_signature_and_the_first_line_of_the_docstring(module: types.ModuleType) -> None:
    found = {each["name"]: each for each in search("")["found"]}
    assert found["push"] == {
        "lib": "searched",
        "name": "push",
        "kind": "function",
        "signature": "(item, *, twice=False)",
        "doc": "Push an item.",
    }
    assert {name: each["kind"] for name, each in found.items()} == {
        **{"LIMIT": "value", "math": "module", "OrderedDict": "class", "push": "function", "unpush": "function"},
        **{"Stack": "class", "Deque": "class", "Failure": "class"},
        **{"Stack.push_back": "method", "Stack.pushed": "method", "Stack.can_push": "method", "Stack.top": "property"},
        **{"Deque.push_front": "method", "Deque.push_back": "method"},
        **{name: found[name]["kind"] for name in found if name.startswith("OrderedDict.")},
    }
    assert [found[name]["signature"] for name in ("LIMIT", "math", "unpush", "Stack.pushed", "Stack.top")] == [
        *("", "", "()", "(cls, items)", ""),
    ]
    assert [found[name]["doc"] for name in ("LIMIT", "unpush", "Stack", "Stack.top", "Stack.pushed")] == [
        *("", "", "A stack.", "The top.", "Make one."),
    ]


def test_what_the_module_says_is_public_is_public(module: types.ModuleType) -> None:
    module.__all__ = ["_hidden", "push", "push", "missing", 5]  # type: ignore[attr-defined]
    assert names("") == ["_hidden", "push"]


def test_what_a_class_inherits_from_another_public_one_is_told_there_only(module: types.ModuleType) -> None:
    assert "Deque.pushed" not in names("")
    module.__all__ = ["Deque"]  # type: ignore[attr-defined]
    assert names("pushed") == ["Deque.pushed"]


def test_what_all_exceptions_have_is_not_told(module: types.ModuleType) -> None:
    assert names("add_note") == names("with_traceback") == []


def test_no_more_are_described_than_the_limit_says_and_all_are_counted(module: types.ModuleType) -> None:
    whole = search("push")
    part = search("push", limit=2)
    assert part == {"count": len(whole["found"]), "found": whole["found"][:2]}


def _fail_for_lazy(name: str) -> None:
    raise RuntimeError("not now") if name == "lazy" else AttributeError(name)


def test_a_library_whose_own_code_fails_is_told_as_far_as_it_can_be(module: types.ModuleType) -> None:
    class Nasty:
        @property
        def __signature__(self) -> Any:
            raise RuntimeError("no signature")

        @property
        def __doc__(self) -> Any:  # type: ignore[override]
            raise RuntimeError("no text")

        def __call__(self) -> None: ...

    def long() -> None: ...

    long.__doc__ = "d" * 1000
    long.__signature__ = "s" * 1000  # type: ignore[attr-defined]
    blank = types.FunctionType(long.__code__, {})
    blank.__doc__ = "  \n "
    vars(module).update(nasty=Nasty(), long=long, blank=blank, number=types.SimpleNamespace(__doc__=5))
    module.__getattr__ = _fail_for_lazy  # type: ignore[method-assign]
    module.__dir__ = lambda: ["nasty", "long", "blank", "number", "lazy"]  # type: ignore[method-assign]
    found = {each["name"]: each for each in search("")["found"]}
    assert list(found) == ["blank", "long", "nasty", "number"]
    assert (found["nasty"]["kind"], found["nasty"]["signature"], found["nasty"]["doc"]) == ("function", "", "")
    assert found["blank"]["doc"] == ""
    assert (len(found["long"]["doc"]), found["long"]["doc"][-1]) == (MAX_DOC, "…")
    assert len(found["long"]["signature"]) <= MAX_SIGNATURE


def test_real_modules_can_be_searched() -> None:
    assert names("append", lib="collections") == ["UserList.append", "deque.append", "deque.appendleft"]
    assert names("getcw", lib="os") == ["getcwd", "getcwdb"]
    assert names("join", lib="os.path") == ["join"]


@pytest.mark.parametrize("lib", ["asyncio", "ctypes", "email", "enum", "json", "multiprocessing", "tkinter", "typing", "numpy"])
def test_no_module_makes_it_fail(lib: str) -> None:
    module = pytest.importorskip(lib)
    assert len(list(public_names(module))) > 0
    assert search("a", lib=lib)["count"] > 0


@pytest.mark.parametrize("names_of_its_own", [["push", 5, None, "_b"], 7])
def test_a_module_that_lists_its_names_wrongly_is_searched_all_the_same(
    module: types.ModuleType, names_of_its_own: object
) -> None:
    module.__dir__ = lambda: names_of_its_own  # type: ignore[method-assign, assignment, return-value]
    assert names("push")[0] == "push"
