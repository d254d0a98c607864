"""One suite for all backends; what one cannot do, it is not asked for, but must say so."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from support.backends import PATIENCE, Recorder, Session

from bgpy.errors import RefusedError, SerializationError
from bgpy.tasks.workspace.backends import Abilities, Backend, Order, Outcome
from bgpy.tasks.workspace.backends.process import ProcessBackend, Spawner
from bgpy.tasks.workspace.backends.thread import ThreadBackend
from bgpy.tasks.workspace.readers import MAX_LEFT
from bgpy.tasks.workspace.values import Packed
from bgpy.tasks.workspace.variables import INSPECTOR

DONE = Outcome("done", None, None)


ABILITIES = {
    "process": Abilities(kill=True, interrupt=True, capture=True, own_main=True, memory_limit=True, survive=False),
    "thread": Abilities(kill=False, interrupt=False, capture=False, own_main=False, memory_limit=False, survive=False),
    "ray": Abilities(kill=True, interrupt=True, capture=True, own_main=True, memory_limit=False, survive=True),
}


@pytest.fixture
def make(make_backend: Callable[[Recorder], Backend]) -> Callable[[], Session]:
    """Return what starts a backend; all are closed in the end."""

    def start() -> Session:
        recorder = Recorder()
        backend = make_backend(recorder)
        backend.start()
        return Session(backend, recorder)

    return start


@pytest.fixture
def session(make: Callable[[], Session]) -> Session:
    return make()


def test_abilities_are_told(session: Session, kind: str) -> None:
    assert session.backend.abilities == ABILITIES[kind]
    assert (session.backend.process is not None) is (kind == "process")
    assert not session.backend.adopted


def test_a_job_runs_and_its_end_is_told(session: Session) -> None:
    assert session.run("x = 1") == DONE
    value = session.run("x + 1").value
    assert value is not None
    assert (value.json, value.type) == (2, "int")
    outcome = session.run("1 / 0")
    assert outcome.state == "failed"
    assert outcome.error is not None
    assert outcome.error["type"] == "ZeroDivisionError"
    assert "    1 / 0\n" in outcome.error["traceback"]
    assert session.run("", "clear") == DONE
    assert session.run("x").state == "failed"
    assert session.value("__name__") == "__main__"


def test_two_backends_have_namespaces_of_their_own(make: Callable[[], Session]) -> None:
    first, second = make(), make()
    first.run("x = 1; print('first')")
    second.run("x = 2; print('second')")
    assert (first.value("x"), second.value("x")) == (1, 2)
    assert (first.recorder.text(0), second.recorder.text(0)) == ("first\n", "second\n")


def test_output_is_told_before_the_end_and_as_it_comes(session: Session) -> None:
    script = "import sys\ngo = False\nprint('one', flush=True)\nprint('ü\\udc80', file=sys.stderr)\nwhile not go: pass"
    number = session.begin(script)
    session.recorder.wait_for_text(number, "one\n")
    session.backend.write("go", True, PATIENCE)
    assert session.recorder.outcome(number) == DONE
    assert session.text("stderr") == "ü\\udc80\n"


def test_each_job_has_its_own_output_and_none_comes_late(session: Session) -> None:
    for number in range(300):
        session.run(f"print({number})\nprint('e{number}', end='', file=__import__('sys').stderr)")
    told = [each for each in session.recorder.told if each[0] in ("output", "ended")]
    for number in range(300):
        own = [each for each in told if each[1] == number]
        assert own[-1] == ("ended", number, DONE)
        assert session.recorder.text(number) == f"{number}\n"
        assert session.recorder.text(number, "stderr") == f"e{number}"
    assert session.recorder.text(None) == ""


def test_many_small_jobs_back_to_back(session: Session) -> None:
    for number in range(2000):
        assert session.run(f"x = {number}") == DONE
    assert session.backend.read(["x"], "json", None, PATIENCE) == {"x": 1999}


def test_variables_are_read_and_set_also_while_a_job_runs(session: Session) -> None:
    number = session.begin("go, data = False, b'x' * 100_000\nprint('ready', flush=True)\nwhile not go: pass\ngo")
    session.recorder.wait_for_text(number, "ready")
    assert session.backend.read(None, "json", 100, PATIENCE)["data"]["truncated"] is True
    read = session.backend.read(["data", "go", "missing"], "objects", None, PATIENCE)
    assert {name: packed.open() for name, packed in read.items()} == {"data": b"x" * 100_000, "go": False}
    session.backend.write("go", Packed.of({"set": {1}}), PATIENCE)
    outcome = session.recorder.outcome(number)
    assert outcome.value is not None
    assert outcome.value.packed is not None
    assert outcome.value.packed.open() == {"set": {1}}


def test_a_class_of_the_jobs_travels_by_value(session: Session) -> None:
    session.run("class Point:\n    def __init__(self, x): self.x = x\n    def double(self): return 2 * self.x\np = Point(4)")
    opened: Any = session.backend.read(["p"], "objects", None, PATIENCE)["p"].open()
    assert opened.double() == 8


def test_what_cannot_be_opened_is_not_set(session: Session) -> None:
    with pytest.raises(SerializationError, match="unpickle"):
        session.backend.write("x", Packed(b"\x80\x05rubbish"), PATIENCE)
    assert session.backend.read(None, "json", None, PATIENCE) == {}


SLOW = """
import threading
gate = threading.Event()
class Slow:
    def __reduce__(self):
        gate.wait(20)
        return str, ('slow',)
x = Slow()
"""


def test_a_read_that_takes_too_long_is_given_up_and_the_next_one_gets_its_own_answer(session: Session) -> None:
    session.run(SLOW)
    with pytest.raises(TimeoutError):
        session.backend.read(["x"], "objects", None, 0.05)
    session.run("gate.set()\ny = 5")
    assert session.backend.read(["y"], "json", None, PATIENCE) == {"y": 5}


def test_a_variable_whose_own_methods_never_end_keeps_nobody_from_reading_others(session: Session) -> None:
    session.run("class Endless:\n    def __reduce__(self):\n        while True: pass\nx, y = Endless(), 5")
    for _ in range(2):
        with pytest.raises(TimeoutError):
            session.backend.read(["x"], "objects", None, 0.3)
    assert session.backend.read(["y"], "json", None, PATIENCE) == {"y": 5}
    session.backend.write("y", 6, PATIENCE)
    assert session.value("y") == 6


def test_a_variable_whose_own_methods_wait_where_no_interrupt_comes_keeps_nobody_from_reading_others(session: Session) -> None:
    session.run("import threading\ngate = threading.Event()")
    session.run("class Waiting:\n    def __reduce__(self):\n        gate.wait()\n        return int, ()\nx, y = Waiting(), 5")
    for _ in range(MAX_LEFT):
        with pytest.raises(TimeoutError):
            session.backend.read(["x"], "objects", None, 0.1)
        assert session.backend.read(["y"], "json", None, PATIENCE) == {"y": 5}
    if session.backend.abilities.own_main:  # otherwise each has a thread of its own anyway
        for name in ("x", "y"):  # no more take their place
            with pytest.raises(TimeoutError):
                session.backend.read([name], "objects", None, 0.1)
    session.run("gate.set()")
    assert session.backend.read(["y"], "json", None, PATIENCE) == {"y": 5}
    assert session.backend.read(["x"], "objects", None, PATIENCE)["x"].open() == 0


def test_an_interrupt_ends_a_loop_and_names_its_job(session: Session) -> None:
    session.run("x = 1")
    assert not session.backend.interrupt(0)
    number = session.begin("print('in', flush=True)\nwhile True: pass")
    session.recorder.wait_for_text(number, "in")
    assert not session.backend.interrupt(number - 1)
    assert not session.backend.interrupt(number + 1)
    assert session.backend.interrupt(number)
    outcome = session.recorder.outcome(number)
    assert outcome.state == "interrupted"
    assert outcome.error is not None
    assert outcome.error["type"] == "KeyboardInterrupt"
    assert session.value("x") == 1


def test_an_interrupt_hits_its_job_or_none(session: Session) -> None:
    """A plain signal, or exception, that is under way when its job ends would hit the next one, or the worker between two."""
    states = set()
    lead = -20_000  # turns of a loop: of the job while it is negative, else of this test before it interrupts
    for _ in range(150):
        number = session.begin(f"print('in', flush=True)\nfor i in range({max(-lead, 0)}): pass")
        session.recorder.wait_for_text(number, "in")
        for _ in range(lead):
            pass
        hit = session.backend.interrupt(number)
        state = session.recorder.outcome(number).state
        assert hit == (state == "interrupted")  # never done all the same, never interrupted unheard
        states.add(state)
        # Ever nearer to the end of the job, however fast or busy the machine is.
        lead += 3000 if state == "interrupted" else -3000
        assert session.run("for i in range(300): pass") == DONE
    assert states == {"done", "interrupted"}


def test_an_interrupt_that_comes_late_does_not_hit_the_next_job(session: Session) -> None:
    target, over = [-1], threading.Event()

    def interrupt_the_even_ones() -> None:
        while not over.is_set():
            session.backend.interrupt(target[0])

    thread = threading.Thread(target=interrupt_the_even_ones)
    thread.start()
    try:
        for _ in range(200):
            target[0] = session.begin("for i in range(2000): pass")
            session.recorder.outcome(target[0])
            assert session.run("for i in range(2000): pass") == DONE
    finally:
        over.set()
        thread.join()


def test_an_interrupt_may_be_caught_by_the_job(session: Session) -> None:
    number = session.begin(
        "try:\n    print('in', flush=True)\n    while True: pass\nexcept KeyboardInterrupt:\n    x = 'caught'\nx"
    )
    session.recorder.wait_for_text(number, "in")
    assert session.backend.interrupt(number)
    outcome = session.recorder.outcome(number)
    assert outcome.value is not None
    assert outcome.value.json == "caught"


def test_progress_is_told_in_order(session: Session) -> None:
    session.run("from bgpy.tasks.workspace import progress\nfor i in progress(range(5), 'rows'): print(i)")
    told = [each for each in session.recorder.told if each[0] == "progress"]
    assert told[0] == ("progress", 0, "rows", 0, 5)
    assert told[-1] == ("progress", 0, "rows", 5, 5)


def test_a_thread_that_a_job_started_tells_progress(session: Session) -> None:
    session.run(
        "import threading\nfrom bgpy.tasks.workspace import progress\n"
        "thread = threading.Thread(target=lambda: list(progress(range(3), 'beside')))\nthread.start()\nthread.join()"
    )
    told = [each for each in session.recorder.told if each[0] == "progress"]
    assert told[-1:] == [("progress", 0, "beside", 3, 3)]


def test_a_thread_that_outlives_its_job_tells_of_the_one_that_runs_then(session: Session) -> None:
    session.run(
        "import threading\nfrom bgpy.tasks.workspace import progress\ngates = [threading.Event(), threading.Event()]\n"
        "def work():\n    for gate in gates:\n        gate.wait()\n        list(progress([], str(gates.index(gate))))\n"
        "thread = threading.Thread(target=work)\nthread.start()"
    )
    session.run("gates[0].set()\ngates[1].set()\nthread.join()")
    assert [each for each in session.recorder.told if each[0] == "progress"] == [
        ("progress", 1, "0", 0, 0),
        ("progress", 1, "1", 0, 0),
    ]


def test_what_a_job_has_saved_is_told(session: Session) -> None:
    session.run("from bgpy.tasks.workspace.progress import SINK\nSINK.get().saved('a name')")
    assert [each for each in session.recorder.told if each[0] == "saved"] == [("saved", 0, "a name")]


def test_a_host_answers_questions_while_a_job_runs(session: Session) -> None:
    number = session.begin("print('in', flush=True)\nwhile True: pass")
    session.recorder.wait_for_text(number, "in")
    assert session.backend.ask("collections:deque", "append", "first", PATIENCE) is None
    assert session.backend.ask("collections:deque", "count", "first", PATIENCE) == 1
    assert session.backend.interrupt(number)
    assert session.recorder.outcome(number).state == "interrupted"


def test_a_host_that_looks_at_variables_sees_those_of_the_jobs(session: Session) -> None:
    number = session.begin("rows = list(range(5000))\nprint('in', flush=True)\nwhile True: pass")
    session.recorder.wait_for_text(number, "in")
    ask = partial(session.backend.ask, INSPECTOR)
    assert ask("listing", {}, PATIENCE) == {"listed": [{"name": "rows", "type": "list", "shape": [5000]}], "left_out": 0}
    shown = ask("value", {"name": "rows", "window": [7, 9]}, PATIENCE)
    assert (shown["value"], shown["window"], shown["found"]) == ([7, 8], [7, 9], True)
    assert ask("statistics", {"name": "rows"}, PATIENCE)["value"]["columns"][0]["mean"] == 2499.5
    assert ask("value", {"name": "none"}, PATIENCE) == {"found": False}
    assert session.backend.interrupt(number)
    assert session.recorder.outcome(number).state == "interrupted"


def test_what_a_host_raises_is_the_refusal_of_the_question(session: Session) -> None:
    with pytest.raises(RefusedError, match=r"^AttributeError: .*rotate_too_far"):
        session.backend.ask("collections:deque", "rotate_too_far", None, PATIENCE)
    with pytest.raises(RefusedError, match=r"ModuleNotFoundError: .*no_such_module"):
        session.backend.ask("no_such_module:Host", "method", None, PATIENCE)


def test_interrupts_do_not_tear_progress_apart(session: Session) -> None:
    script = (
        "from bgpy.tasks.workspace.progress import SINK\nprint('in', flush=True)\n"
        "while True: SINK.get().progress('x' * 300_000, 1, None)"
    )
    for _ in range(20):
        number = session.begin(script)
        session.recorder.wait_for_text(number, "in")
        assert session.backend.interrupt(number)
        assert session.recorder.outcome(number).state == "interrupted"
    assert session.value("1 + 1") == 2


def test_a_job_that_cannot_be_sent_has_failed_and_the_next_one_runs(session: Session, kind: str) -> None:
    """It seemed to run for ever, as nobody told of its end."""
    if kind == "thread":
        pytest.skip("nothing is sent")
    deep: Any = 1
    for _ in range(10_000):
        deep = [deep]
    session.backend.run(Order(100, "deep", "", False, "host", [(100, {"data": deep}), (101, {})]))
    state, _, error, _ = session.recorder.outcome(100)
    assert error is not None
    assert (state, error["type"]) == ("failed", "RecursionError")
    assert error["message"].startswith("It cannot be sent to its worker: ")
    assert session.value("1 + 1") == 2


def test_a_listener_may_start_the_next_job_at_the_end_of_one(session: Session) -> None:
    recorder, ended = session.recorder, session.recorder.ended
    numbers: list[int] = []

    def start_next(number: int, outcome: Outcome) -> None:
        ended(number, outcome)
        if number < 50:
            numbers.append(session.begin("x = 1"))

    recorder.ended = start_next  # type: ignore[method-assign]
    session.begin("x = 0")
    assert recorder.outcome(50) == DONE
    assert numbers == list(range(1, 51))


def test_after_close_nothing_is_there(session: Session) -> None:
    session.run("x = 1")
    session.backend.close()
    session.backend.close()
    with pytest.raises(EOFError):
        session.backend.read(None, "json", None, PATIENCE)
    with pytest.raises(EOFError):
        session.backend.write("x", 1, PATIENCE)
    assert not session.backend.interrupt(0)


def test_close_ends_a_job_that_runs(session: Session) -> None:
    number = session.begin("print('in', flush=True)\nwhile True: pass")
    session.recorder.wait_for_text(number, "in")
    session.backend.close()


def test_a_backend_that_was_never_started_can_be_closed() -> None:
    ThreadBackend(Recorder()).close()
    spawner = Spawner()
    ProcessBackend(Recorder(), spawner=spawner).close()
    spawner.close()


def test_kill_says_whether_it_can(session: Session) -> None:
    number = session.begin("print('in', flush=True)\nwhile not globals().get('go'): pass")
    session.recorder.wait_for_text(number, "in")
    killed = session.backend.kill()
    assert killed is session.backend.abilities.kill
    if killed:
        assert session.recorder.death() == ("signal SIGKILL", False)
        session.backend.run(Order(9, "script", "1", False))
        assert session.recorder.told[-1][0] == "died"
    else:
        session.backend.write("go", True, PATIENCE)
        assert session.recorder.outcome(number) == DONE


def test_the_streams_of_the_process_are_left_as_they_were(
    make: Callable[[], Session], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sys.stdout, sys.stderr
    session = make()
    session.run("print('by the job')")
    print("by the test")  # noqa: T201 - what is tested
    thread = threading.Thread(target=print, args=("by a thread",))
    thread.start()
    thread.join()
    session.backend.close()
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "by the test\nby a thread\n"
    assert session.recorder.text(0) == "by the job\n"
