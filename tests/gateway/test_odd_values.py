"""What jobs leave behind, over HTTP from the workspaces themselves: never a 500, however odd it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.gateways import TOKEN, RunningGateway
from support.servers import background_server

ODD: dict[str, tuple[str, Any]] = {
    "nan": ("v = float('nan')", None),
    "infinities": ("v = [float('inf'), {'a': -float('inf')}]", [None, {"a": None}]),
    "bytes": ("v = b'\\xff\\x00'", "/wA="),
    "half a pair": ("v = {'\\ud800': '\\ud800'}", {"\\ud800": "\\ud800"}),
    "array": ("import numpy; v = numpy.array([[1.5, numpy.nan]])", [[1.5, None]]),
    "numbers": (
        "import numpy; v = [numpy.int8(3), numpy.datetime64('2020-01-01'), numpy.complex64(1j)]",
        [3, "2020-01-01", "1j"],
    ),
    "huge": ("v = 10 ** 400", "1" + "0" * 400),
    "unpicklable": ("import threading; v = [(i for i in ()), threading.Lock()]", ...),
    "class": ("class V: pass\nv = V", ...),
    "itself": ("v = []; v.append(v)", ["[...]"]),
    "deep": ("v = []\nfor _ in range(100_000): v = [v]", ...),
    "str that raises": ("class V:\n def __str__(self): raise ValueError\n __repr__ = __str__\nv = V()", "<V>"),
    "str that exits": ("class V:\n def __str__(self): raise SystemExit\n __repr__ = __str__\nv = V()", "<V>"),
    "str that recurs": ("class V:\n def __str__(self): return str(self)\nv = V()", ...),
    "pickle that raises": ("class V:\n def __reduce__(self): raise SystemExit\n def __str__(self): return 'v'\nv = V()", "v"),
    "length that lies": ("class V(list):\n def __len__(self): return 10 ** 30\nv = V()", ...),
    "picture that is none": ("class V:\n def _repr_png_(self): return 5\n def __str__(self): return 'v'\nv = V()", "v"),
    "a class that hides": (
        "class M(type):\n def __getattribute__(self, name): raise RuntimeError(name)\n"
        "class V(metaclass=M):\n def __getattribute__(self, name): raise RuntimeError(name)\nv = V()",
        ...,
    ),
    "every attribute": ("class V:\n def __getattr__(self, name): raise SystemExit\nv = V()", ...),
}
ODD_ERRORS = [
    "raise ValueError('\\ud800')",
    "class E(Exception):\n def __str__(self): raise SystemExit\nraise E",
    "raise SystemExit(3)",
    "def",
    "a\0b",
    "print('\ud800')",
    "def f(): f()\nf()",
    "raise type('E', (BaseException,), {})",
]


@pytest.fixture
def lab() -> Iterator[httpx.Client]:
    with background_server("bgpy.tasks.workspace", token=TOKEN) as server:
        gateway = RunningGateway(server)
        try:
            with gateway.client() as http:
                yield http
        finally:
            gateway.end()


def ask(http: httpx.Client, path: str, **fields: Any) -> Any:
    answer = http.post(f"/{path}/", content=json.dumps(fields))
    envelope = answer.json()
    assert (answer.status_code, envelope["request_result"]) == (200, True), envelope
    return envelope["result"]


@pytest.mark.process
@pytest.mark.parametrize("kind", [0, 1])
def test_an_odd_value_comes_as_json(lab: httpx.Client, kind: int) -> None:
    ask(lab, "create_workspace", name=f"odd-{kind}", type=kind)
    for name, (script, want) in ODD.items():
        answer = ask(lab, "push_job", name=f"odd-{kind}", job=f"{script}\nv", type=1, clear=True, timeout=30)
        assert answer["state"] == "done", (name, answer)
        got = [answer["value"], ask(lab, "get_variable", name=f"odd-{kind}", variable="v")]
        if name != "class":  # which is left out of all
            got += [answer["variable"]["v"], ask(lab, "get_variable", name=f"odd-{kind}")["v"]]
        assert want is ... or got == [want] * len(got), name


@pytest.mark.process
def test_an_odd_error_comes_as_json(lab: httpx.Client) -> None:
    ask(lab, "create_workspace", name="failing")
    for script in ODD_ERRORS:
        answer = ask(lab, "push_job", name="failing", job=script, type=1, timeout=30)
        assert (answer["finish"], answer["result"], answer["state"]) == (True, False, "failed"), script
        assert answer["error"]["type"]
        assert ask(lab, "get_record", name="failing")["error"] == answer["error"]


@pytest.mark.process
def test_tables_and_figures_come_as_text(lab: httpx.Client) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    script = (
        "import pandas\nfrom matplotlib.figure import Figure\n"
        "table = pandas.DataFrame({'a': [1, None]}); index = table.index; figure = Figure()"
    )
    ask(lab, "create_workspace", name="tables")
    variables = ask(lab, "push_job", name="tables", job=script, type=1, timeout=50)["variable"]
    assert variables["table"] == ",a\n0,1.0\n1,\n"
    assert variables["index"] == [0, 1]
    assert variables["figure"].startswith("iVBORw0KGgo")


@pytest.mark.process
def test_any_time_to_wait_is_one(lab: httpx.Client) -> None:
    ask(lab, "create_workspace", name="waiting")
    for timeout in (0, 1e-300, 1e10, 1e308, int("9" * 308)):
        ask(lab, "push_job", name="waiting", job="1", type=1, timeout=timeout)
