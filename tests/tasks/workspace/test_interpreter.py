"""The namespace in a shared process; what needs a process of its own is in test_worker.py."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgpy.tasks.workspace import interpreter as module
from bgpy.tasks.workspace.backends import Order, Outcome
from bgpy.tasks.workspace.interpreter import Interpreter
from bgpy.tasks.workspace.values import Packed


class Jobs:
    """Run jobs in an interpreter of this process."""

    def __init__(self) -> None:
        self.interpreter = Interpreter(own_process=False)
        self._number = -1

    def run(self, text: str, kind: str = "script", clear: bool = False) -> Outcome:
        self._number += 1
        return self.interpreter.run(Order(self._number, kind, text, clear))  # type: ignore[arg-type]

    def value(self, text: str) -> Any:
        outcome = self.run(text)
        assert outcome.error is None, outcome.error
        return None if outcome.value is None else outcome.value.json

    def error(self, text: str, kind: str = "script") -> dict[str, str]:
        outcome = self.run(text, kind)
        assert outcome.error is not None
        assert outcome.state == "failed"
        return outcome.error


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    jobs = Jobs()
    path = list(sys.path)
    yield jobs
    jobs.interpreter.close()
    sys.path[:] = path


# The namespace


def test_it_behaves_like_a_fresh_main(jobs: Jobs) -> None:
    jobs.run("import math\nx = 3\ndef area(r): return math.pi * r * x\nclass C:\n    y = [x * i for i in range(2)]")
    assert jobs.value("[area(i) > 0 for i in (1, x)], __name__, C().y, [f for f in [lambda: x]][0]()") == [
        [True, True],
        "__main__",
        [0, 3],
        3,
    ]
    assert jobs.value("if __name__ == '__main__': z = 1\nz") == 1


@pytest.mark.parametrize(
    ("script", "value"),
    [
        ("1 + 1", 2),
        ("x = 1", None),
        ("1\nx = 1", None),
        ("'only a text'", "only a text"),
        ("None", None),
        ("", None),
        ("from __future__ import annotations\ndef f(x: unknown): return x\nf(5)", 5),
        ("if True:\n    5", None),
        ("[1, 'ü']; {'a': (1, 2)}", {"a": [1, 2]}),
    ],
)
def test_the_value_is_that_of_the_last_expression(jobs: Jobs, script: str, value: Any) -> None:
    assert jobs.value(script) == value


def test_the_value_comes_both_ways_and_leaves_no_name(jobs: Jobs) -> None:
    outcome = jobs.run("class C:\n    x = 1\nC")
    assert outcome.value is not None
    assert outcome.value.packed is not None
    opened: Any = outcome.value.packed.open()
    assert opened.x == 1
    assert set(jobs.interpreter.namespace) & {"<value>", "C"} == {"C"}


@pytest.mark.parametrize(
    ("script", "name"), [("7", "int"), ("'x'", "str"), ("class C: pass\nC()", "C"), ("'x' * 5_000_000", "str"), ("None", None)]
)
def test_a_value_comes_with_the_name_of_its_type(jobs: Jobs, script: str, name: str | None) -> None:
    value = jobs.run(script).value
    assert (None if value is None else value.type) == name


@pytest.mark.parametrize(
    ("script", "nulls"), [("0.5", []), ("float('nan')", ["NaN"]), ("[float('inf')]", ["inf"]), ("[1, None]", [])]
)
def test_a_value_comes_with_what_its_nulls_stand_for(jobs: Jobs, script: str, nulls: list[str]) -> None:
    value = jobs.run(script).value
    assert value is not None
    assert list(value.nulls) == nulls


def test_a_value_that_is_too_large_is_described_and_not_kept(jobs: Jobs) -> None:
    for script in ("'x' * 5_000_000", "[str(i) * 100 for i in range(6000)]", "1 << 50_000_000"):
        outcome = jobs.run(script)
        assert outcome.value is not None
        assert outcome.value.packed is None
        assert outcome.value.json["truncated"] is True


def test_a_kept_value_does_not_change_with_its_object(jobs: Jobs) -> None:
    outcome = jobs.run("import pickle\nclass B:\n    def __reduce_ex__(s, p): return bytearray, (pickle.PickleBuffer(a),)\n"
                       "a = bytearray(100_000)\nB()")  # fmt: skip
    jobs.run("a[0] = 9")
    assert outcome.value is not None
    assert outcome.value.packed is not None
    assert outcome.value.packed.open() == bytearray(100_000)


@pytest.mark.parametrize("method", ["__reduce_ex__", "__repr__", "__str__", "__sizeof__"])
def test_a_hostile_value_does_not_fail_its_job(jobs: Jobs, method: str) -> None:
    outcome = jobs.run(f"class Hostile:\n    def {method}(self, *_): raise ValueError('no')\nHostile()")
    assert outcome.state == "done"


def test_await_at_top_level(jobs: Jobs) -> None:
    script = (
        "import asyncio\nasync def g(n):\n    for i in range(n): yield i\nx = await asyncio.sleep(0, 4)\n[i async for i in g(x)]"
    )
    assert jobs.value(script) == [0, 1, 2, 3]
    assert jobs.value("x") == 4
    error = jobs.error("async def f(): 1 / 0\nawait f()")
    assert error["traceback"].count("File ") == 2
    assert "1 / 0" in error["traceback"]


def test_clear_empties_the_namespace_but_it_stays_a_main(jobs: Jobs) -> None:
    jobs.run("x = 1")
    assert jobs.run("", "clear") == Outcome("done", None, None)
    assert jobs.interpreter.variables() == {}
    assert jobs.error("x")["type"] == "NameError"
    jobs.run("x = 2")
    assert jobs.run("x", clear=True).state == "failed"
    assert jobs.value("__name__") == "__main__"


def test_input_fails_clearly(jobs: Jobs) -> None:
    error = jobs.error("input('name? ')")
    assert error["type"] == "EOFError"
    assert "no standard input" in error["message"]


def test_a_script_that_comes_again_is_compiled_once_and_keeps_its_own_number(jobs: Jobs) -> None:
    jobs.run("x = 0")
    for number in (1, 2):
        assert f"<job {number} " in jobs.error("1 / x")["traceback"]
    jobs.run("def f(): return 1 / x")
    jobs.run("def f(): return 1 / x")
    traceback = jobs.error("f()")["traceback"]
    assert "<job 4 " in traceback
    assert "<job 3 " not in traceback


def test_compiled_scripts_are_bounded(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_COMPILED", 3)
    for number in range(10):
        jobs.run(f"x = {number}")
        assert len(jobs.interpreter._compiled) <= 3
    assert jobs.value("x") == 9


# Files


def test_a_file_runs_as_a_program_would(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("y = 7")
    path = tmp_path / "program.py"
    path.write_bytes("# coding: latin-1\nimport beside_it\nx = 'ä'\n(__file__, x, beside_it.y)".encode("latin-1"))
    outcome = jobs.run(str(path), "file")
    sys.modules.pop("beside_it", None)
    assert outcome.error is None
    assert outcome.value is not None
    assert outcome.value.json == [str(path), "ä", 7]


def test_a_file_that_cannot_be_run_is_a_failed_job(jobs: Jobs, tmp_path: Path) -> None:
    assert jobs.error(str(tmp_path / "none.py"), "file")["type"] == "FileNotFoundError"
    assert jobs.error(str(tmp_path), "file")["type"] == "IsADirectoryError"
    path = tmp_path / "bad.py"
    path.write_bytes(b"x = '\xff'")
    assert jobs.error(str(path), "file")["type"] == "SyntaxError"
    path.write_bytes(b"x = 1\n1 / 0")
    assert f'File "{path}", line 2, in <module>\n    1 / 0' in jobs.error(str(path), "file")["traceback"]


# Errors


def test_a_traceback_shows_the_lines_of_the_job_and_no_frames_of_ours(jobs: Jobs) -> None:
    jobs.run("def broken(x):\n    return 1 / x")
    error = jobs.error("y = 0\nbroken(y)")
    assert error["type"] == "ZeroDivisionError"
    assert error["message"] == "division by zero"
    lines = [line for line in error["traceback"].splitlines() if set(line) - set(" ^~")]
    assert [lines[0], lines[2], lines[4], lines[5]] == [
        "Traceback (most recent call last):",
        "    broken(y)",
        "    return 1 / x",
        "ZeroDivisionError: division by zero",
    ]
    assert "interpreter.py" not in error["traceback"]


def test_a_syntax_error_shows_the_line(jobs: Jobs) -> None:
    error = jobs.error("x = 1\ny = = 2")
    assert error["type"] == "SyntaxError"
    assert "line 2\n    y = = 2" in error["traceback"]
    assert "interpreter.py" not in error["traceback"]


def test_causes_are_shown(jobs: Jobs) -> None:
    error = jobs.error("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('v') from e")
    assert "direct cause" in error["traceback"]
    assert error["traceback"].count("Traceback") == 2


def test_recursion_without_end_is_shown_shortened(jobs: Jobs) -> None:
    error = jobs.error("def f(n): return g(n)\ndef g(n): return f(n + 1)\nf(0)")
    assert error["type"] == "RecursionError"
    assert error["traceback"].count("\n") < 3 * module.MAX_FRAMES + 5


HOSTILE = """
class Hostile({base}):
    def __str__(self): raise {raised}
    @property
    def __notes__(self): raise {raised}
raise Hostile()
"""


@pytest.mark.parametrize("base", ["Exception", "BaseException", "SystemExit", "SyntaxError", "OSError"])
@pytest.mark.parametrize("raised", ["ValueError('no')", "SystemExit(0)", "RecursionError"])
def test_an_exception_that_cannot_be_shown_fails_the_job_all_the_same(jobs: Jobs, base: str, raised: str) -> None:
    outcome = jobs.run(HOSTILE.format(base=base, raised=raised).replace("Hostile()", "Hostile(3)"))
    assert outcome.state == "failed"
    assert outcome.error is not None
    assert outcome.error["type"] == "Hostile"
    assert all(type(text) is str for text in outcome.error.values())


def test_an_exception_that_tells_nothing_of_itself_fails_the_job_all_the_same(jobs: Jobs) -> None:
    error = jobs.error("class Mute(Exception):\n    def __getattribute__(self, name): raise RuntimeError(name)\nraise Mute(1)")
    assert (error["type"], error["message"]) == ("Mute", "1")


def test_texts_of_an_error_are_bounded(jobs: Jobs) -> None:
    error = jobs.error("raise ValueError('x' * 10_000_000)")
    assert len(error["message"]) == module.MAX_TEXT
    assert len(error["traceback"]) == module.MAX_TEXT


def test_the_text_of_an_error_can_be_carried_by_utf8(jobs: Jobs) -> None:
    assert jobs.error(r"raise ValueError('\ud800')")["message"] == "\\ud800"


@pytest.mark.parametrize("script", ["import sys; sys.exit()", "import sys; sys.exit(0)", "raise SystemExit(None)"])
def test_an_exit_without_a_complaint_is_done(jobs: Jobs, script: str) -> None:
    assert jobs.run(script) == Outcome("done", None, None)


@pytest.mark.parametrize(("code", "message"), [("3", "3"), ("'text'", "text"), ("False", "False"), ("''", "")])
def test_any_other_exit_has_failed(jobs: Jobs, code: str, message: str) -> None:
    error = jobs.error(f"import sys; sys.exit({code})")
    assert (error["type"], error["message"]) == ("SystemExit", message)


def test_a_keyboard_interrupt_is_interrupted(jobs: Jobs) -> None:
    outcome = jobs.run("raise KeyboardInterrupt")
    assert outcome.state == "interrupted"
    assert outcome.error is not None
    assert outcome.error["type"] == "KeyboardInterrupt"


def test_sources_are_bounded_and_given_back(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(linecache.cache)
    monkeypatch.setattr(module, "MAX_SOURCES", 3)
    for number in range(10):
        jobs.run(f"x = {number}")
    assert len(set(linecache.cache) - before) == 3
    monkeypatch.setattr(module, "MAX_SOURCE_SIZE", 50)
    jobs.run("#" * 100)
    assert len(set(linecache.cache) - before) == 1
    jobs.interpreter.close()
    assert set(linecache.cache) <= before


# Variables


def test_all_variables_are_neither_modules_nor_functions_nor_classes(jobs: Jobs) -> None:
    jobs.run("import os\nfrom os import getpid\ndef f(): pass\nclass C: pass\nx, _y, n = 1, 2, None\nglobals()[5] = 6\n__z__ = 7")
    assert jobs.interpreter.read(None, "json", None) == {"x": 1, "_y": 2, "n": None}
    assert set(jobs.interpreter.read(["x", "f", "missing"], "json", None)) == {"x", "f"}


def test_variables_as_json_are_described_where_too_large(jobs: Jobs) -> None:
    jobs.run("x, y = 'x' * 1000, 1")
    read = jobs.interpreter.read(None, "json", 100)
    assert read["y"] == 1
    assert read["x"]["truncated"] is True
    assert jobs.interpreter.read(["x"], "json", None) == {"x": "x" * 1000}


def test_a_variable_that_cannot_be_pickled_comes_as_its_text(jobs: Jobs) -> None:
    jobs.run("class C:\n    def __reduce__(self): raise ValueError\n    def __str__(self): return 'me'\n"
             "class D(C):\n    def __str__(self): raise ValueError\nx, y, z = C(), D(), (i for i in ())")  # fmt: skip
    read = {name: packed.open() for name, packed in jobs.interpreter.read(None, "objects", None).items()}
    assert read["x"] == "me"
    assert read["y"] == "<D: its text cannot be made, ValueError>"
    assert read["z"].startswith("<generator object")


def test_variables_are_set_from_plain_data_and_from_objects(jobs: Jobs) -> None:
    jobs.interpreter.write("x", [1, {"a": None}])
    jobs.interpreter.write("y", Packed.of({1, 2}))
    assert jobs.value("x[1], type(y).__name__, sum(y)") == [{"a": None}, "set", 3]
